"""The item vectors of the publication's ALS, in memory as float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class ItemFactors:
    """Item vectors (n_items, n_factors) as float32, by item key; the longest first."""

    def __init__(self, item_keys: NDArray[Any], factors: NDArray[np.float32]) -> None:
        """`item_keys` (n_items,), `factors` (n_items, n_factors); a zero vector counts as missing."""
        lengths = np.linalg.norm(factors, axis=1)
        self.order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]  # row → place in the arguments
        self.keys = item_keys[self.order].astype(np.int64)
        self.vectors = factors[self.order].astype(np.float32, copy=False)
        self.lengths = lengths[self.order]
        self._row_by_key = np.full(int(item_keys.max(initial=-1)) + 2, -1, dtype=np.int32)  # the last is a sentinel
        self._row_by_key[self.keys] = np.arange(len(self.keys))

    def rows_of(self, item_keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """The row of each key, -1 where it has no vector; same shape as `item_keys`, which are ≥ 0."""
        rows: NDArray[np.int32] = self._row_by_key[np.minimum(item_keys, len(self._row_by_key) - 1)]
        return rows

    def of(self, item_keys: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Unit vectors (n, n_factors) of the keys, zeros where there is none, and the mask of the others (n,)."""
        rows = self.rows_of(item_keys)
        has = rows >= 0
        unit = np.zeros((len(rows), self.vectors.shape[1]), dtype=np.float32)
        unit[has] = self.vectors[rows[has]] / self.lengths[rows[has], None]
        return unit, has
