"""DeepFM: a factorisation machine and a multi-layer perceptron over the same embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from recsys.networks.factorization import Factorization
from recsys.networks.field_embedding import FieldEmbedding
from recsys.networks.weighted_bag import WeightedBag


@keras.saving.register_keras_serializable(package="recsys")
class DeepFmNetwork(keras.Model):
    """Logit of a user–item pair = first-order terms + factorisation part + deep part (Guo et al., IJCAI 2017).

    The fields have two sides, so that a user's side is computed once for all of its candidates. With
    n_candidates = 1 it is the network of the paper; the first dense layer over the concatenated embeddings is
    written as the sum of one layer per side, which is the same function.

    Inputs, a dictionary:
        user            (batch, n_user_fields) int32, rows within each field, 0 = unknown
        history         (batch, length) int32, rows of the user's latest items, 0 = padding or unknown
        history_weight  (batch, length) float32, 0 where padded
        item            (batch, n_candidates, n_item_fields) int32
    Output: logits (batch, n_candidates) float32.

    `dropout` is the share of each hidden layer's units that a training step leaves out, drawn by `seed`.

    Weights start at zero or at Keras' defaults; `recsys.candidates.deepfm` sets all of them by its own seed.
    """

    def __init__(
        self,
        user_sizes: Sequence[int],
        item_sizes: Sequence[int],
        history_size: int,
        dim: int = 16,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not hidden:
            raise ValueError("DeepFmNetwork needs at least one hidden layer; received hidden=()")
        self.config: dict[str, Any] = {
            "user_sizes": [int(size) for size in user_sizes],
            "item_sizes": [int(size) for size in item_sizes],
            "history_size": int(history_size),
            "dim": int(dim),
            "hidden": [int(units) for units in hidden],
        }
        self.user_fields = FieldEmbedding(user_sizes, dim, name="user_fields")
        self.item_fields = FieldEmbedding(item_sizes, dim, name="item_fields")
        self.history_bag = WeightedBag(history_size, dim, name="history_bag")
        self.factorization = Factorization(name="factorization")
        self.deep_user = keras.layers.Dense(hidden[0], name="deep_user")
        self.deep_item = keras.layers.Dense(hidden[0], use_bias=False, name="deep_item")
        self.deep = [keras.layers.Dense(n, activation="relu", name=f"deep_{i}") for i, n in enumerate(hidden[1:], 1)]
        self.deep_out = keras.layers.Dense(1, name="deep_out")
        self.regularization = {"dropout": float(dropout), "seed": seed}
        self.dropout = keras.layers.Dropout(dropout, seed=seed, name="dropout") if dropout else None

    def build(self, input_shape: Any = None) -> None:
        n_user, n_item = len(self.config["user_sizes"]), len(self.config["item_sizes"])
        dim, hidden = self.config["dim"], self.config["hidden"]
        self.user_fields.build((None, n_user))
        self.item_fields.build((None, None, n_item))
        self.history_bag.build((None, None), (None, None))
        self.deep_user.build((None, (n_user + 1) * dim))
        self.deep_item.build((None, None, n_item * dim))
        for layer, n in zip([*self.deep, self.deep_out], hidden, strict=True):
            layer.build((None, None, n))
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        dim, n_user, n_item = self.config["dim"], len(self.config["user_sizes"]), len(self.config["item_sizes"])
        user = self.user_fields(inputs["user"])  # (batch, n_user, dim + 1)
        item = self.item_fields(inputs["item"])  # (batch, n_candidates, n_item, dim + 1)
        bag = self.history_bag(inputs["history"], inputs["history_weight"])  # (batch, dim)
        # not slices, whose gradient takes TensorFlow more than all the rest of a training step
        user, user_first = ops.split(user, [dim], axis=-1)
        item, item_first = ops.split(item, [dim], axis=-1)  # (batch, n_candidates, n_item, dim), (…, 1)
        first_order = ops.sum(user_first, axis=(1, 2))[:, None] + ops.sum(item_first, axis=(2, 3))

        user = ops.concatenate([user, ops.expand_dims(bag, 1)], axis=1)  # (batch, n_user + 1, dim)
        second_order = self.factorization([ops.expand_dims(user, 1), item])  # (batch, n_candidates)

        n_candidates = ops.shape(item)[1]
        user_half = self.deep_user(ops.reshape(user, (-1, (n_user + 1) * dim)))  # (batch, hidden)
        item_half = self.deep_item(ops.reshape(item, (-1, n_candidates, n_item * dim)))
        hidden = ops.relu(ops.expand_dims(user_half, 1) + item_half)  # (batch, n_candidates, hidden)
        for layer in self.deep:
            hidden = layer(self._dropped(hidden, training))
        hidden = self._dropped(hidden, training)
        return first_order + second_order + ops.squeeze(self.deep_out(hidden), -1)

    def _dropped(self, hidden: Any, training: bool | None) -> Any:
        return hidden if self.dropout is None else self.dropout(hidden, training=training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.config, **self.regularization}
