"""DeepFM over pairs, each user's side computed once: the form in which it is exported and served."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from recsys.networks.deepfm import DeepFmNetwork


@keras.saving.register_keras_serializable(package="recsys")
class DeepFmPairs(keras.Model):
    """The same function as `DeepFmNetwork`, of which it holds all weights, for any mix of users and items.

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
        network, of_pair = self.network, inputs["user_of_pair"]
        dim = network.config["dim"]
        n_user, n_item = len(network.config["user_sizes"]), len(network.config["item_sizes"])
        user = network.user_fields(inputs["user"])  # (n_users, n_user, dim + 1)
        bag = network.history_bag(inputs["history"], inputs["history_weight"])  # (n_users, dim)
        item = network.item_fields(inputs["item"])  # (n_pairs, n_item, dim + 1)
        first_order = ops.take(ops.sum(user[..., dim], axis=1), of_pair, axis=0) + ops.sum(item[..., dim], axis=1)

        user = ops.concatenate([user[..., :dim], ops.expand_dims(bag, 1)], axis=1)  # (n_users, n_user + 1, dim)
        item = item[..., :dim]
        second_order = network.factorization([ops.take(user, of_pair, axis=0), item])  # (n_pairs,)

        user_half = network.deep_user(ops.reshape(user, (-1, (n_user + 1) * dim)))  # (n_users, hidden)
        item_half = network.deep_item(ops.reshape(item, (-1, n_item * dim)))
        hidden = ops.relu(ops.take(user_half, of_pair, axis=0) + item_half)
        for layer in network.deep:
            hidden = layer(hidden)
        return first_order + second_order + ops.squeeze(network.deep_out(hidden), -1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DeepFmPairs:
        return cls(**{**config, "network": keras.saving.deserialize_keras_object(config["network"])})
