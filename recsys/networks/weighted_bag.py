"""A field with many values: the weighted sum of their embeddings."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="recsys")
class WeightedBag(keras.layers.Layer):
    """Σ_l weight_l · table[row_l]: what a user did lately, as one embedding.

    With weights 1/√n this is the user side of FISM (Kabbur et al., KDD 2013). Takes rows (batch, length) int32
    and weights (batch, length) float32, 0 where padded; gives (batch, dim).
    """

    def __init__(self, size: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size < 1 or dim < 1:
            raise ValueError(f"WeightedBag needs a size and a dim of at least 1; received {size} and {dim}")
        self.size, self.dim = int(size), int(dim)

    def build(self, rows_shape: Any, weights_shape: Any = None) -> None:
        self.table = self.add_weight(shape=(self.size, self.dim), initializer="zeros", name="table")

    def call(self, rows: Any, weights: Any) -> Any:
        values = ops.take(self.table, rows, axis=0)  # (batch, length, dim)
        return ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), values), 1)  # (batch, dim)

    def compute_output_shape(self, rows_shape: Any, weights_shape: Any = None) -> tuple[int | None, ...]:
        return (rows_shape[0], self.dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "dim": self.dim}
