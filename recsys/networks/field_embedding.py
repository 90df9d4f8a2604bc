"""Embeddings of several categorical fields in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="recsys")
class FieldEmbedding(keras.layers.Layer):
    """Looks up the embedding and the first-order weight of each field in a single gather.

    All fields share one table (Σ sizes, dim + 1); field f owns the rows from Σ sizes[:f] on. The first `dim`
    columns are the embedding, the last one is the first-order weight. One table instead of one per field: a
    gather and its gradient cost by call, not by row, at this size.

    Takes rows (…, n_fields) int32, each counted within its field (0 = unknown value);
    gives (…, n_fields, dim + 1).
    """

    def __init__(self, sizes: Sequence[int], dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not sizes or min(sizes) < 1 or dim < 1:
            raise ValueError(f"FieldEmbedding needs sizes and a dim of at least 1; received {list(sizes)} and {dim}")
        self.sizes, self.dim = [int(size) for size in sizes], int(dim)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int32)  # (n_fields,)

    def build(self, input_shape: Any) -> None:
        if input_shape[-1] != len(self.sizes):
            raise ValueError(f"{self.name} has {len(self.sizes)} fields; received rows of shape {tuple(input_shape)}")
        self.table = self.add_weight(shape=(sum(self.sizes), self.dim + 1), initializer="zeros", name="table")

    def call(self, rows: Any) -> Any:
        return ops.take(self.table, rows + self.offsets, axis=0)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*input_shape, self.dim + 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sizes": self.sizes, "dim": self.dim}
