"""The forward pass of `SequenceNetwork` in numpy: candidates need no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float32]
_EPSILON = np.float32(1e-6)
_LEAST_LENGTH = np.float32(1e-6)
_PLACES_AT_ONCE = 4096  # items of histories, padding included: keeps the hidden layers in cache


class SequenceScorer:
    """Numpy twin of a `SequenceNetwork`; `weights` are that network's (`network_weights`)."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Floats]) -> None:
        """Raises ValueError when a weight is missing or has another shape than `config` says."""
        for name, shape in weight_shapes(config).items():
            if name not in weights or weights[name].shape != shape:
                received = "nothing" if name not in weights else f"shape {weights[name].shape}"
                raise ValueError(f"weight {name} should have shape {shape}; received {received}")
        self.config, self.weights = dict(config), dict(weights)

    def user_vectors(self, items: NDArray[np.int32], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Floats:
        """The vector after the last item of each history, (n, dim); its products with `item_vectors` are the logits.

        History i is `items[starts[i]:ends[i]]`, at least one row of the table; its last `max_length` are read.
        """
        starts = np.maximum(starts, ends - self.config["max_length"])
        result = np.empty((len(ends), self.config["dim"]), dtype=np.float32)
        by_length = np.argsort(ends - starts, kind="stable")  # histories of like lengths together: little padding
        first = len(by_length)
        with threadpool_limits(1, "blas"):  # products this small: several threads would wait for each other
            while first:
                length = int((ends - starts)[by_length[first - 1]])
                last, first = first, max(first - max(_PLACES_AT_ONCE // length, 1), 0)
                chosen = by_length[first:last]
                place = ends[chosen, None] - length + np.arange(length)
                real = place >= starts[chosen, None]  # (n, length); padding comes first
                result[chosen] = self._last_vectors(items[np.where(real, place, 0)], real)
        return _unit(result) * np.exp(self.weights["log_scale"])

    def item_vectors(self) -> Floats:
        """Rows of length 1, (n_items, dim)."""
        return _unit(self.weights["items/embeddings"])

    def _last_vectors(self, item: NDArray[np.int32], real: NDArray[np.bool_]) -> Floats:
        length = item.shape[1]
        x = self._norm(self.weights["items/embeddings"][item], "item_norm")  # (n, length, dim)
        distance = np.arange(length)[:, None] - np.arange(length)
        for place in range(self.config["blocks"]):
            block = f"block_{place}"
            bias = self.weights[f"{block}/distance_bias"][:, np.maximum(distance, 0)]  # (heads, length, length)
            bias[:, distance < 0] = -np.inf
            is_last = place == self.config["blocks"] - 1  # of the last block the last vector alone is wanted
            x = self._block(x, x[:, -1:] if is_last else x, bias[:, -1:] if is_last else bias, real, block)
        result: Floats = x[:, -1]
        return result

    def _block(self, x: Floats, at: Floats, bias: Floats, real: NDArray[np.bool_], block: str) -> Floats:
        """The block's vectors at the places `at` (n, m, dim), which look at x (n, length, dim)."""
        dim, heads = self.config["dim"], self.config["heads"]
        kernel, offset = self.weights[f"{block}/qkv/kernel"], self.weights[f"{block}/qkv/bias"]

        def by_head(values: Floats, part: int) -> Floats:  # (n, heads, places, dim / heads)
            columns = slice(part * dim, (part + 1) * dim)
            projected = values @ kernel[:, columns] + offset[columns]
            return projected.reshape(*values.shape[:2], heads, -1).transpose(0, 2, 1, 3)

        logits = by_head(at, 0) @ by_head(x, 1).transpose(0, 1, 3, 2)
        logits /= np.float32((dim // heads) ** 0.5)
        logits += bias
        hidden_places = ~real
        padded = hidden_places.any(axis=1)
        if padded.any():  # a padding place sees nothing real, and is seen by nothing real
            logits[padded] = np.where(hidden_places[padded][:, None, None, :], np.float32(-1e9), logits[padded])
        logits -= logits.max(axis=-1, keepdims=True)
        attention = np.exp(logits, out=logits)
        attention /= attention.sum(axis=-1, keepdims=True)
        seen = (attention @ by_head(x, 2)).transpose(0, 2, 1, 3).reshape(at.shape)
        y = self._norm(at + self._dense(seen, f"{block}/out"), f"{block}/attention_norm")
        return self._norm(y + self._dense(_gelu(self._dense(y, f"{block}/up")), f"{block}/down"), f"{block}/dense_norm")

    def _dense(self, x: Floats, layer: str) -> Floats:
        result: Floats = x @ self.weights[f"{layer}/kernel"]
        result += self.weights[f"{layer}/bias"]
        return result

    def _norm(self, x: Floats, layer: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + _EPSILON)
        result: Floats = centred / scale * self.weights[f"{layer}/gamma"] + self.weights[f"{layer}/beta"]
        return result


def weight_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each weight of a `SequenceNetwork`, by name."""
    dim = config["dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "items/embeddings": (config["n_items"], dim),
        "item_norm/gamma": (dim,),
        "item_norm/beta": (dim,),
        "log_scale": (),
    }
    for place in range(config["blocks"]):
        block = f"block_{place}"
        shapes[f"{block}/distance_bias"] = (config["heads"], config["max_length"])
        for layer, (n_in, n_out) in {
            "qkv": (dim, 3 * dim),
            "out": (dim, dim),
            "up": (dim, 4 * dim),
            "down": (4 * dim, dim),
        }.items():
            shapes[f"{block}/{layer}/kernel"], shapes[f"{block}/{layer}/bias"] = (n_in, n_out), (n_out,)
        for layer in ("attention_norm", "dense_norm"):
            shapes[f"{block}/{layer}/gamma"] = shapes[f"{block}/{layer}/beta"] = (dim,)
    return shapes


def network_weights(network: Any) -> dict[str, Floats]:
    """The weights of a built `SequenceNetwork` as float32 arrays, by the path within the network."""
    return {_name(weight): np.array(weight.numpy(), dtype=np.float32) for weight in network.trainable_weights}


def set_network_weights(network: Any, weights: Mapping[str, Floats]) -> None:
    """The inverse of `network_weights`."""
    for weight in network.trainable_weights:
        weight.assign(weights[_name(weight)])


def _name(weight: Any) -> str:
    name: str = weight.path.partition("/")[2]
    return name


def _unit(vectors: Floats) -> Floats:
    result: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _LEAST_LENGTH)
    return result


def _gelu(x: Floats) -> Floats:
    """x · Φ(x) by tanh, as `approximate=True` has it."""
    inner = x * x
    inner *= np.float32(0.044715)
    inner += 1.0
    inner *= x
    inner *= np.float32((2.0 / np.pi) ** 0.5)
    np.tanh(inner, out=inner)
    inner += 1.0
    inner *= x
    inner *= np.float32(0.5)
    return inner
