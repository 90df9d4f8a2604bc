"""DeepFM over pairs, each user's side computed once: the form in which it is exported and served."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from recsys.networks.deepfm import DeepFmNetwork
from recsys.networks.field_embedding import FieldEmbedding


@keras.saving.register_keras_serializable(package="recsys")
class DeepFmPairs(keras.Model):
    """The same function as `DeepFmNetwork`, of which it holds all weights, for any mix of users and items.

    Written for few operations: served for a hundred pairs, each costs more than the numbers in it. Gathers are
    TensorFlow's own, because those of `keras.ops` first look for negative rows.

    Inputs, a dictionary, all int32 but the weights:
        user            (n_users, n_user_fields)
        history         (n_users, length)
        history_weight  (n_users, length) float32
        item            (n_pairs, n_item_fields)
        user_of_pair    (n_pairs,), rows of the user's side
    Output: logits (n_pairs,) float32.
    """

    def __init__(self, network: DeepFmNetwork, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network

    def call(self, inputs: dict[str, Any]) -> Any:
        network = self.network
        dim = network.config["dim"]
        user, user_first = _fields(network.user_fields, inputs["user"])  # (n_users, n_user, dim), (n_users,)
        item, item_first = _fields(network.item_fields, inputs["item"])  # (n_pairs, n_item, dim), (n_pairs,)
        latest = tf.gather(network.history_bag.table.value, inputs["history"])  # (n_users, length, dim)
        bag = ops.matmul(ops.expand_dims(inputs["history_weight"], 1), latest)  # (n_users, 1, dim)
        user = ops.concatenate([user, bag], axis=1)

        user_total, user_within = _within(user)
        item_total, item_within = _within(item)
        user_hidden = network.deep_user(ops.reshape(user, (-1, user.shape[1] * dim)))  # (n_users, hidden)
        item_hidden = network.deep_item(ops.reshape(item, (-1, item.shape[1] * dim)))  # (n_pairs, hidden)
        user_bias = ops.expand_dims(user_first + user_within, 1)
        user_side = ops.concatenate([user_total, user_hidden, user_bias], axis=1)
        user_side = tf.gather(user_side, inputs["user_of_pair"])  # (n_pairs, dim + hidden + 1)

        hidden = ops.relu(user_side[:, dim:-1] + item_hidden)
        for layer in network.deep:
            hidden = layer(hidden)
        deep = ops.squeeze(network.deep_out(hidden), -1)
        second_order = item_within + ops.sum(user_side[:, :dim] * item_total, axis=1)
        return deep + second_order + item_first + user_side[:, -1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DeepFmPairs:
        return cls(**{**config, "network": keras.saving.deserialize_keras_object(config["network"])})


def _fields(layer: FieldEmbedding, rows: Any) -> tuple[Any, Any]:
    """Embeddings (n, n_fields, dim) and the sum of the first-order weights (n,)."""
    values = tf.gather(layer.table.value, rows + layer.offsets)  # (n, n_fields, dim + 1)
    return values[..., : layer.dim], ops.sum(values[..., layer.dim], axis=1)


def _within(embeddings: Any) -> tuple[Any, Any]:
    """Sum of the fields' embeddings (n, dim), and the factorisation part among them (n,), as in `Factorization`."""
    total = ops.sum(embeddings, axis=1)
    flat = ops.reshape(embeddings, (-1, embeddings.shape[1] * embeddings.shape[2]))
    return total, 0.5 * (ops.sum(ops.square(total), axis=1) - ops.sum(ops.square(flat), axis=1))
