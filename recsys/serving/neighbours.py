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
_ZERO = np.zeros(1, dtype=np.int64)
_NOT_CALLED = np.full(1, -1e30, dtype=np.float32)  # what the seeds themselves are called with


class NeighbourIndex:
    """Lists of item keys and scores by item key, filled once and then only read."""

    def __init__(self) -> None:
        self._row_by_owner: dict[int, int] = {}
        self._keys = array("i")  # N_NEIGHBOURS of each owner, NO_ITEM where there are fewer
        self._scores = array("f")

    def add(self, owner_key: int, item_keys: Sequence[int], scores: Sequence[float]) -> None:
        """Take the list of one item in, best first. Scores are kept relative to the best of the list.

        A list with scores that are not positive says its order only: they become 1, 1/2, 1/3 …
        """
        n = min(len(item_keys), N_NEIGHBOURS)
        if not n:
            return
        self._row_by_owner[owner_key] = len(self._row_by_owner)
        self._keys.extend(item_keys[:n])
        if scores[n - 1] > 0:
            self._scores.extend([score / scores[0] for score in scores[:n]])
        else:
            self._scores.extend([1 / (1 + place) for place in range(n)])
        self._keys.extend([NO_ITEM] * (N_NEIGHBOURS - n))
        self._scores.extend([0.0] * (N_NEIGHBOURS - n))

    def __len__(self) -> int:
        return len(self._row_by_owner)

    @cached_property
    def _table(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Keys and scores (n_owners, N_NEIGHBOURS); nothing can be added after the first look."""
        shape = (len(self), N_NEIGHBOURS)
        return np.frombuffer(self._keys, np.int32).reshape(shape), np.frombuffer(self._scores, np.float32).reshape(
            shape
        )

    def of(self, seed_weights: Mapping[int, float]) -> Calls:
        """What the seeds call: each its neighbours, with seed weight · neighbour score."""
        rows = [(self._row_by_owner[seed], seed) for seed in seed_weights if seed in self._row_by_owner]
        if not rows:
            return Calls(np.zeros((0, N_NEIGHBOURS), np.int32), np.zeros((0, N_NEIGHBOURS), np.float32), ())
        keys, scores = self._table
        at = np.array([row for row, _ in rows])
        weights = np.array([seed_weights[seed] for _, seed in rows], dtype=np.float32)
        return Calls(keys.take(at, 0), scores.take(at, 0) * weights[:, None], [seed for _, seed in rows])


@dataclass(frozen=True)
class Calls:
    """Items that seeds call, and how loudly: (n_seeds, N_NEIGHBOURS), NO_ITEM where there is none."""

    keys: NDArray[np.int32]
    parts: NDArray[np.float32]
    seeds: Sequence[int]  # (n_seeds,)

    def best(self, n: int) -> tuple[list[int], list[float]]:
        """The `n` items with the greatest sum of calls, best first (of equals the lesser key), and the sums.

        The seeds themselves are not among them.
        """
        if not len(self.keys):
            return [], []
        flat = np.concatenate((self.keys.ravel(), (NO_ITEM, *self.seeds)), dtype=np.int32)
        parts = np.concatenate((self.parts.ravel(), _NOT_CALLED.repeat(1 + len(self.seeds))))
        order = flat.argsort(kind="stable")
        ordered = flat[order]
        starts = np.concatenate((_ZERO, (ordered[1:] != ordered[:-1]).nonzero()[0] + 1))
        sums = np.add.reduceat(parts[order], starts)
        best = (-sums).argsort(kind="stable")[:n]
        called = sums[best]
        n_called = int(np.count_nonzero(called > 0))
        return ordered[starts[best[:n_called]]].tolist(), called[:n_called].tolist()

    def because(self, item_key: int) -> int:
        """The seed that calls an item most loudly; the item must be called."""
        parts = np.where(self.keys == item_key, self.parts, -1.0)
        return self.seeds[int(parts.max(axis=1).argmax())]
