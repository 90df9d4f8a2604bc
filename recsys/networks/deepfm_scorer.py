"""The forward pass of `DeepFmNetwork` in numpy: ranking needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]
_USERS_AT_ONCE = 4096  # bounds the memory of their histories' embeddings
_PAIRS_AT_ONCE = 65_536  # bounds the memory of the hidden layers, and keeps them in cache


@dataclass(frozen=True)
class Side:
    """One side of the network, computed once per user or item."""

    vector: Floats  # (n, dim): sum of the side's field embeddings
    bias: Floats  # (n,): the side's first-order terms and the interactions among its own fields
    hidden: Floats  # (n, hidden[0]): its share of the first hidden layer, before the activation

    def take(self, rows: NDArray[Any]) -> Side:
        return Side(self.vector[rows], self.bias[rows], self.hidden[rows])


class DeepFmScorer:
    """Numpy twin of a `DeepFmNetwork`; `weights` are that network's, by path (`network_weights`)."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Floats]) -> None:
        """Raises ValueError when a weight is missing or has another shape than `config` says."""
        for name, shape in weight_shapes(config).items():
            if name not in weights or weights[name].shape != shape:
                received = "nothing" if name not in weights else f"shape {weights[name].shape}"
                raise ValueError(f"weight {name} should have shape {shape}; received {received}")
        self.config, self.weights = dict(config), dict(weights)
        self._dim = int(config["dim"])
        self._user_offsets = _offsets(config["user_sizes"])
        self._item_offsets = _offsets(config["item_sizes"])
        n_deep = len(config["hidden"]) - 1
        self._deep = [(weights[f"deep_{i}/kernel"], weights[f"deep_{i}/bias"]) for i in range(1, n_deep + 1)]

    def user_side(self, rows: Rows, history: Rows, history_weight: Floats) -> Side:
        """`rows` (n, n_user_fields), `history` and `history_weight` (n, length) → the users' side."""
        fields = self.weights["user_fields/table"][rows + self._user_offsets]  # (n, n_user, dim + 1)
        bag = np.empty((len(rows), 1, self._dim), dtype=np.float32)
        for start in range(0, len(rows), _USERS_AT_ONCE):
            part = slice(start, start + _USERS_AT_ONCE)
            values = self.weights["history_bag/table"][history[part]]  # (n, length, dim)
            np.matmul(history_weight[part, None, :], values, out=bag[part])
        embeddings = np.concatenate([fields[..., : self._dim], bag], axis=1)
        first_order = fields[..., self._dim].sum(axis=1)
        hidden = embeddings.reshape(len(rows), -1) @ self.weights["deep_user/kernel"]
        return _side(embeddings, first_order, hidden + self.weights["deep_user/bias"])

    def item_side(self, rows: Rows) -> Side:
        """`rows` (n, n_item_fields) → the items' side."""
        fields = self.weights["item_fields/table"][rows + self._item_offsets]  # (n, n_item, dim + 1)
        embeddings = fields[..., : self._dim]
        hidden = embeddings.reshape(len(rows), -1) @ self.weights["deep_item/kernel"]
        return _side(embeddings, fields[..., self._dim].sum(axis=1), hidden)

    def logits(self, users: Side, user: NDArray[Any], items: Side, item: NDArray[Any]) -> Floats:
        """The network's logits of pairs: `user` (n,) and `item` (n, k) are rows of the two sides → (n, k)."""
        n, k = item.shape
        result = np.empty((n, k), dtype=np.float32)
        step = max(_PAIRS_AT_ONCE // max(k, 1), 1)
        for start in range(0, n, step):
            part = slice(start, start + step)
            u, i = user[part], item[part]
            hidden = items.hidden[i]  # (step, k, hidden)
            hidden += users.hidden[u][:, None, :]
            np.maximum(hidden, 0.0, out=hidden)
            flat = hidden.reshape(-1, hidden.shape[-1])
            for kernel, bias in self._deep:
                flat = flat @ kernel
                flat += bias
                np.maximum(flat, 0.0, out=flat)
            deep = (flat @ self.weights["deep_out/kernel"] + self.weights["deep_out/bias"]).reshape(i.shape)
            second = np.matmul(items.vector[i], users.vector[u][:, :, None])[..., 0]
            result[part] = deep + second + users.bias[u][:, None] + items.bias[i]
        return result


def weight_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a `DeepFmNetwork` with these arguments, by `layer/weight`."""
    dim, hidden = config["dim"], list(config["hidden"])
    n_user, n_item = len(config["user_sizes"]), len(config["item_sizes"])
    shapes: dict[str, tuple[int, ...]] = {
        "user_fields/table": (sum(config["user_sizes"]), dim + 1),
        "item_fields/table": (sum(config["item_sizes"]), dim + 1),
        "history_bag/table": (config["history_size"], dim),
        "deep_user/kernel": ((n_user + 1) * dim, hidden[0]),
        "deep_user/bias": (hidden[0],),
        "deep_item/kernel": (n_item * dim, hidden[0]),
    }
    for i, (n_in, n_out) in enumerate(pairwise(hidden), 1):
        shapes |= {f"deep_{i}/kernel": (n_in, n_out), f"deep_{i}/bias": (n_out,)}
    return shapes | {"deep_out/kernel": (hidden[-1], 1), "deep_out/bias": (1,)}


def network_weights(network: Any) -> dict[str, Floats]:
    """The weights of a built `DeepFmNetwork` as float32 arrays, by `layer/weight`."""
    return {
        f"{layer.name}/{weight.name}": np.asarray(weight.numpy(), dtype=np.float32)
        for layer in network.layers
        for weight in layer.weights
    }


def set_network_weights(network: Any, weights: Mapping[str, Floats]) -> None:
    """The inverse of `network_weights`."""
    for layer in network.layers:
        for weight in layer.weights:
            weight.assign(weights[f"{layer.name}/{weight.name}"])


def _offsets(sizes: Any) -> Rows:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)


def _side(embeddings: Floats, first_order: Floats, hidden: Floats) -> Side:
    """`embeddings` (n, n_fields, dim), `first_order` (n,); the sum of pairs as in `Factorization`."""
    total = embeddings.sum(axis=1)
    within = 0.5 * (np.square(total).sum(axis=1) - np.square(embeddings).sum(axis=(1, 2)))
    return Side(total, (first_order + within).astype(np.float32), hidden)
