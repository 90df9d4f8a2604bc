"""The best neighbours of every item, in memory: 8 bytes a neighbour, so that a blend needs no second round trip."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

N_NEIGHBOURS: Final = 20  # kept in memory for each item, the best of the longer lists in Postgres
NO_ITEM: Final = -1
_KEY_BITS = 0xFFFFFFFF


class NeighbourIndex:
    """Lists of item keys and scores by item key, filled once and then only read."""

    def __init__(self) -> None:
        self._owners = array("i")
        self._keys = array("i")  # N_NEIGHBOURS of each owner, NO_ITEM where there are fewer
        self._scores = array("f")

    def add(self, owner_key: int, item_keys: Sequence[int], scores: Sequence[float]) -> None:
        """Take the list of one item in, best first. Scores are kept relative to the best of the list.

        A list with scores that are not positive says its order only: they become 1, 1/2, 1/3 …
        """
        n = min(len(item_keys), N_NEIGHBOURS)
        if not n:
            return
        self._owners.append(owner_key)
        self._keys.extend(item_keys[:n])
        if scores[n - 1] > 0:
            self._scores.extend([score / scores[0] for score in scores[:n]])
        else:
            self._scores.extend([1 / (1 + place) for place in range(n)])
        self._keys.extend([NO_ITEM] * (N_NEIGHBOURS - n))
        self._scores.extend([0.0] * (N_NEIGHBOURS - n))

    def __len__(self) -> int:
        return len(self._owners)

    @cached_property
    def _table(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Keys and scores (n_owners + 1, N_NEIGHBOURS), the last row empty; nothing can be added after the first
        look."""
        self._keys.extend([NO_ITEM] * N_NEIGHBOURS)
        self._scores.extend([0.0] * N_NEIGHBOURS)
        shape = (len(self) + 1, N_NEIGHBOURS)
        return np.frombuffer(self._keys, np.int32).reshape(shape), np.frombuffer(self._scores, np.float32).reshape(
            shape
        )

    @cached_property
    def _row_by_key(self) -> NDArray[np.int32]:
        """By item key the row in the table; at the end, for keys beyond, the empty one."""
        owners = np.frombuffer(self._owners, np.int32)
        rows = np.full(int(owners.max(initial=-1)) + 2, len(owners), dtype=np.int32)
        rows[owners] = np.arange(len(owners))
        return rows

    @cached_property
    def _sums(self) -> NDArray[np.float32]:
        """By item key, and at the end for NO_ITEM: zeros, between two uses."""
        greatest = max(int(self._table[0].max(initial=0)), len(self._row_by_key))
        return np.zeros(greatest + 2, dtype=np.float32)

    def of(self, seed_weights: Mapping[int, float]) -> Calls:
        """What the seeds call: each its neighbours, with seed weight · neighbour score. For one thread at a time."""
        keys, scores = self._table
        seeds = np.array(list(seed_weights), dtype=np.int64)
        weights = np.array(list(seed_weights.values()), dtype=np.float32)
        at = self._row_by_key.take(seeds, mode="clip")
        has_callers = bool(np.count_nonzero(at < len(self._owners)))
        return Calls(keys.take(at, 0), scores.take(at, 0) * weights[:, None], seeds, has_callers, self._sums)


@dataclass(slots=True)
class Calls:
    """Items that seeds call, and how loudly: (n_seeds, N_NEIGHBOURS), NO_ITEM where there is none."""

    keys: NDArray[np.int32]
    parts: NDArray[np.float32]  # ≥ 0
    seeds: NDArray[np.int64]  # (n_seeds,)
    has_callers: bool  # whether one of them has neighbours
    _sums: NDArray[np.float32]  # room of the index to add up in

    def best(self, n: int) -> tuple[list[int], list[float]]:
        """The `n` items with the greatest sum of calls, best first (of equals the lesser key), and the sums.

        The seeds themselves are not among them, whether they have neighbours or not.
        """
        if not self.has_callers:
            return [], []
        sums, keys = self._sums, self.keys.ravel().astype(np.int64)
        np.add.at(sums, keys, self.parts.ravel())
        sums.put(self.seeds, 0, mode="clip")  # beyond the last item is the place of NO_ITEM
        sums[NO_ITEM] = 0
        called = sums[keys]
        sums[keys] = 0
        # One sort orders by both: the bits of a float that is not negative, as an integer, are in the order of its
        # value. An item that many seeds call stands there as often, side by side.
        both = keys - (called.view(np.int32).astype(np.int64) << 32)
        both.sort()
        is_first = np.empty(len(both), dtype=bool)
        is_first[0] = True
        np.not_equal(both[1:], both[:-1], out=is_first[1:])
        best = both[is_first][:n]
        best = best[best < NO_ITEM]  # those with a sum above 0
        of_best = best & _KEY_BITS
        return of_best.tolist(), ((of_best - best) >> 32).astype(np.int32).view(np.float32).tolist()

    def because(self, item_key: int) -> int:
        """The seed that calls an item most loudly; the item must be called."""
        parts = np.where(self.keys == item_key, self.parts, -1.0)
        return int(self.seeds[parts.max(axis=1).argmax()])
