"""Names within an exported network, for who writes it and who runs it."""

NETWORK = "network.onnx"
ITEMS, PAIRS = "items.onnx", "pairs.onnx"  # its two parts
OUTPUT, ITEM_SIDE = "logits", "item_side"
ITEM_INPUT = "item"


def weight_file(name: str) -> str:
    """Where the weight `layer/weight` stands beside the network."""
    return f"weights/{name.replace('/', '.')}.npy"
