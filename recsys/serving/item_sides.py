"""Caches the item side of the network (the part that depends on the item only): half of the cost of a prediction."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import numpy as np

from recsys.features.deepfm_fields import Floats, Rows

N_KEPT: Final = 1 << 16  # items; 27 MB with the default network, allocated as it is used
_AT_ONCE: Final = 2048  # larger calls bypass the cache


class ItemSides:
    """A direct-mapped cache by the item's own row, which stores all rows of an item and compares them, so that a hit is
    always for exactly these rows. Items whose rows are equal modulo N_KEPT evict each other.

    Thread-safe. The sides are those of the weights at the last `forget` or later.
    """

    def __init__(self, compute: Callable[[Rows], Floats], n_fields: int, width: int) -> None:
        """`compute`: rows (n, n_fields) → sides (n, width)."""
        self._compute = compute
        self._rows = np.full((N_KEPT, n_fields), -1, dtype=np.int32)
        self._sides = np.empty((N_KEPT, width), dtype=np.float32)
        self._is_old = False
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Invalidate the cache, after weights have changed."""
        with self._lock:
            self._is_old = True

    def of(self, rows: Rows) -> Floats:
        """Sides (n, width) of items (n, n_fields)."""
        if len(rows) > _AT_ONCE:
            return self._compute(rows)
        with self._lock:
            if self._is_old:
                self._rows.fill(-1)
                self._is_old = False
            place = rows[:, 0] & (N_KEPT - 1)
            missing = np.flatnonzero((self._rows.take(place, axis=0) != rows).any(axis=1))
            found = self._sides.take(place, axis=0)
            if len(missing):
                found[missing] = computed = self._compute(rows[missing])
                place = place[missing]
                self._rows[place], self._sides[place] = rows[missing], computed
            return found
