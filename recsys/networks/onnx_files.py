"""Names within an exported network, for who writes it and who runs it."""

NETWORK = "network.onnx"
OUTPUT = "logits"


def weight_file(name: str) -> str:
    """Where the weight `layer/weight` stands beside the network."""
    return f"weights/{name.replace('/', '.')}.npy"
