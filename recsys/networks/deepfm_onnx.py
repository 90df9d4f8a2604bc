"""DeepFM as an ONNX file whose weights stay outside of it, and as the outline of a .keras file: other weights later
need no new export.

Each weight is an array `weights/<layer>.<weight>.npy`, which ONNX Runtime reads as external data and numpy maps into
memory, and at the same time an input of the graph with that array as its default: who runs the graph may give
arrays of its own in its place, under the names of `network_weights`.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import ModelError
from recsys.networks.deepfm_scorer import Floats, set_network_weights, weight_shapes
from recsys.networks.keras_file import KERAS_FILE, OUTLINE, outline_of, read_places
from recsys.networks.onnx_files import ITEM_SIDE, ITEMS, NETWORK, OUTPUT, PAIRS, weight_file
from recsys.networks.onnx_parts import parts


def write_network(config: Mapping[str, Any], weights: Mapping[str, Floats], folder: Path) -> None:
    """Write `network.onnx` (inputs and outputs as `DeepFmPairs` has them), its two parts, the weights, and the outline
    `keras.json` of the same network as a .keras file.

    Imports Keras and its backend (seconds). Raises ModelError when an exporter has lost a weight.
    """
    import onnx

    stand_ins = _stand_ins(config)
    network = _network(config, stand_ins)
    model = _exported(config, network)
    _name_weights(model, stand_ins)
    (folder / OUTLINE).write_text(json.dumps(_outline(network, stand_ins)))
    (folder / "weights").mkdir()
    for name in weight_shapes(config):
        np.save(folder / weight_file(name), np.ascontiguousarray(weights[name], dtype=np.float32), allow_pickle=False)
        model.graph.initializer.append(_outside(name, folder))
        dims = weights[name].shape
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims))
    for file, part in zip((NETWORK, ITEMS, PAIRS), (model, *parts(model)), strict=True):
        onnx.save(part, folder / file)
        onnx.checker.check_model(folder / file)


def _stand_ins(config: Mapping[str, Any]) -> dict[str, Floats]:
    """Weights that the exporter cannot fold away, as it does with zeros, and that can be told from each other."""
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in weight_shapes(config).items()}


def _network(config: Mapping[str, Any], weights: Mapping[str, Floats]) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from recsys.networks.deepfm import DeepFmNetwork

    network = DeepFmNetwork(**config)
    network.build()
    set_network_weights(network, weights)
    return network


def _outline(network: Any, weights: Mapping[str, Floats]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # Keras reads TensorFlow's variables in numpy's old way
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        file = Path(scratch) / KERAS_FILE
        network.save(file)
        name_by_place = _names(read_places(file), weights)
        return outline_of(file, {name: place for place, name in name_by_place.items()})


def _exported(config: Mapping[str, Any], network: Any) -> Any:
    """What Keras' own exporter makes of the network, as an onnx.ModelProto."""
    import onnx
    from keras import InputSpec

    from recsys.networks.deepfm_pairs import DeepFmPairs

    pairs = DeepFmPairs(network)
    signature = {
        "user": InputSpec(shape=(None, len(config["user_sizes"])), dtype="int32", name="user"),
        "history": InputSpec(shape=(None, None), dtype="int32", name="history"),
        "history_weight": InputSpec(shape=(None, None), dtype="float32", name="history_weight"),
        "item": InputSpec(shape=(None, len(config["item_sizes"])), dtype="int32", name="item"),
        "user_of_pair": InputSpec(shape=(None,), dtype="int32", name="user_of_pair"),
    }
    one = {name: np.zeros([size or 1 for size in spec.shape], spec.dtype) for name, spec in signature.items()}
    pairs(one)  # the exporter wants a model that has been called
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*np.object", category=FutureWarning)  # Keras' shim for tf2onnx
        pairs.export(f"{scratch}/{NETWORK}", format="onnx", input_signature=[signature], verbose=False)
        return onnx.load(f"{scratch}/{NETWORK}")


def _name_weights(model: Any, weights: Mapping[str, Floats]) -> None:
    """Give the graph our names of its weights and its output, and take the weights' values out."""
    from onnx import numpy_helper

    ours = _names({one.name: numpy_helper.to_array(one) for one in model.graph.initializer}, weights)
    for output, name in zip(model.graph.output, (OUTPUT, ITEM_SIDE), strict=True):
        ours[output.name] = output.name = name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [ours.get(name, name) for name in names]
    kept = [one for one in model.graph.initializer if one.name not in ours]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _names(arrays: Mapping[str, Floats], weights: Mapping[str, Floats]) -> dict[str, str]:
    """Of an export's arrays those that are weights, with our names for them, told by what they hold."""
    ours = {
        theirs: name
        for theirs, array in arrays.items()
        for name, value in weights.items()
        if array.shape == value.shape and np.array_equal(array, value)
    }
    if sorted(ours.values()) != sorted(weights):
        lost = ", ".join(sorted(set(weights) - set(ours.values()))) or "none, but some are there twice"
        raise ModelError(f"an exporter changed the network's weights; lost: {lost}")
    return ours


def _outside(name: str, folder: Path) -> Any:
    """The initializer that stands for a written array."""
    from onnx import TensorProto

    array = np.load(folder / weight_file(name), mmap_mode="r", allow_pickle=False)
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", weight_file(name)), ("offset", array.offset), ("length", array.nbytes)):
        made.external_data.add(key=key, value=str(value))
    return made
