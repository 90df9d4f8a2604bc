"""The best neighbours of every item, in memory: 8 bytes a neighbour, so that a blend needs no second round trip."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

N_NEIGHBOURS: Final = 20  # kept in memory for each item, the best of the longer lists in Postgres


class NeighbourIndex:
    """Lists of item keys and scores by item key, filled once and then only read."""

    def __init__(self) -> None:
        self._place_by_owner: dict[int, tuple[int, int]] = {}
        self._keys = array("i")
        self._scores = array("f")

    def add(self, owner_key: int, item_keys: Sequence[int], scores: Sequence[float]) -> None:
        """Take the list of one item in, best first. Scores are kept relative to the best of the list.

        A list with scores that are not positive says its order only: they become 1, 1/2, 1/3 …
        """
        n = min(len(item_keys), N_NEIGHBOURS)
        if not n:
            return
        start = len(self._keys)
        self._place_by_owner[owner_key] = (start, start + n)
        self._keys.extend(item_keys[:n])
        if scores[n - 1] > 0:
            self._scores.extend(score / scores[0] for score in scores[:n])
        else:
            self._scores.extend(1 / (1 + place) for place in range(n))

    def __len__(self) -> int:
        return len(self._place_by_owner)

    def of(self, owner_key: int) -> tuple[Sequence[int], Sequence[float]]:
        """Keys and scores in (0, 1] of an item's neighbours, best first; empty where it has none."""
        start, end = self._place_by_owner.get(owner_key, (0, 0))
        return self._keys[start:end], self._scores[start:end]
