"""What the network makes of items by themselves, kept from call to call: half of the work of a prediction."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import numpy as np

from recsys.features.deepfm_fields import Floats, Rows

N_KEPT: Final = 1 << 16  # items; 27 MB with the default network, of which only what was asked for is touched
_AT_ONCE: Final = 2048  # more items in one call are computed without a look at what is kept


class ItemSides:
    """Keeps the side of an item under the item's own row, together with all of its rows: what is given out always
    belongs to just these rows. Items whose rows are equal modulo N_KEPT displace each other.

    Calls may come from several threads. The sides are those of the weights at the last `forget` or later.
    """

    def __init__(self, compute: Callable[[Rows], Floats], n_fields: int, width: int) -> None:
        """`compute`: rows (n, n_fields) → sides (n, width)."""
        self._compute = compute
        self._rows = np.full((N_KEPT, n_fields), -1, dtype=np.int32)
        self._sides = np.empty((N_KEPT, width), dtype=np.float32)
        self._is_old = False
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Weights have changed."""
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
