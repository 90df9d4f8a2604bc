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
    Outputs: logits (n_pairs,) float32, and what they take of each pair's item, whoever the user is
    (n_pairs, dim + hidden + 1).
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

        user_side = _side(user, user_first, network.deep_user)  # (n_users, dim + hidden + 1)
        item_side = _side(item, item_first, network.deep_item)  # (n_pairs, dim + hidden + 1)
        of_user = tf.gather(user_side, inputs["user_of_pair"])
        both = of_user + item_side
        hidden = ops.relu(both[:, dim:-1])
        for layer in network.deep:
            hidden = layer(hidden)
        deep = ops.squeeze(network.deep_out(hidden), -1)
        second_order = ops.sum(of_user[:, :dim] * item_side[:, :dim], axis=1)
        return deep + second_order + both[:, -1], item_side

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DeepFmPairs:
        return cls(**{**config, "network": keras.saving.deserialize_keras_object(config["network"])})


def _fields(layer: FieldEmbedding, rows: Any) -> tuple[Any, Any]:
    """Embeddings (n, n_fields, dim) and the sum of the first-order weights (n,)."""
    values = tf.gather(layer.table.value, rows + layer.offsets)  # (n, n_fields, dim + 1)
    # Summed as one column of many: a sum of each row's few numbers is rounded as the row lies in memory, and so in
    # another way with other rows before it.
    return values[..., : layer.dim], ops.sum(values, axis=1)[:, layer.dim]


def _side(embeddings: Any, first_order: Any, dense: Any) -> Any:
    """Of each row: the sum of its fields' embeddings (dim), its half of the first hidden layer, and what it adds to the
    logit by itself: first-order terms, and the factorisation part among its fields, as in `Factorization`."""
    total = ops.sum(embeddings, axis=1)
    flat = ops.reshape(embeddings, (-1, embeddings.shape[1] * embeddings.shape[2]))
    within = 0.5 * (ops.sum(ops.square(total), axis=1) - ops.sum(ops.square(flat), axis=1))
    return ops.concatenate([total, dense(flat), ops.expand_dims(first_order + within, 1)], axis=1)
