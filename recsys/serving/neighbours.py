"""The best neighbours of every item, in memory with 8 bytes each, so that blending needs no second round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from recsys.serving import core
from recsys.serving.core import NO_ITEM
from recsys.types import Lists

N_NEIGHBOURS: Final = 20  # kept in memory for each item; the lists in Postgres are longer


class NeighbourIndex:
    """The best neighbours by item key, in arrays that may be mapped from a file and are only read."""

    def __init__(self, rows: NDArray[np.int32], keys: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        """`rows` (greatest owner + 2,): item key → row of the other two; `n_owners` for items without one, and at the
        end. `keys` and `scores` (n_owners + 1, N_NEIGHBOURS): best first, padded with NO_ITEM and 0, as is all of the
        last row; scores are relative to the best of the list."""
        self._n_owners = len(keys) - 1
        self._best = core.Neighbours(rows, keys, scores)

    @classmethod
    def of_lists(cls, lists: Mapping[int, tuple[Sequence[int], Sequence[float]]]) -> Self:
        """From item keys and scores by owner, best first."""
        owners = [owner for owner, (keys, _) in lists.items() if len(keys)]
        rows = np.full(max(owners, default=-1) + 2, len(owners), dtype=np.int32)
        rows[owners] = np.arange(len(owners))
        best = [best_of(_one_list(*lists[owner])) for owner in owners] + [empty_row()]
        keys, scores = (np.concatenate(column) for column in zip(*best, strict=True))
        return cls(rows, keys, scores)

    def __len__(self) -> int:
        return self._n_owners

    def called(self, seed_weights: dict[int, float], n: int) -> core.Called:
        """The best neighbours of the seeds, by the sum of seed weight · neighbour score, without the seeds themselves.
        Not thread-safe."""
        return self._best.called(seed_weights, n)


def best_of(lists: Lists) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Keys and scores (n, N_NEIGHBOURS) of the best of each list, as in NeighbourIndex.

    Of lists with scores that are not positive, only the order is used: the scores become 1, 1/2, 1/3 …
    """
    n, k = len(lists.item_key), min(lists.item_key.shape[1], N_NEIGHBOURS)
    keys = np.full((n, N_NEIGHBOURS), NO_ITEM, dtype=np.int32)
    keys[:, :k] = lists.item_key[:, :k]
    scores = np.zeros((n, N_NEIGHBOURS), dtype=np.float32)
    given = lists.score[:, :k]
    lengths = np.minimum(lists.lengths, k)
    last = np.take_along_axis(given, np.maximum(lengths - 1, 0)[:, None], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores[:, :k] = np.where(last > 0, given / given[:, :1], 1 / np.arange(1, k + 1))
    scores[keys == NO_ITEM] = 0
    return keys, scores


def empty_row() -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The last row, for owners without neighbours."""
    return np.full((1, N_NEIGHBOURS), NO_ITEM, np.int32), np.zeros((1, N_NEIGHBOURS), np.float32)


def _one_list(item_keys: Sequence[int], scores: Sequence[float]) -> Lists:
    keys, score = np.array([item_keys], dtype=np.int32), np.array([scores], dtype=np.float32)
    return Lists(np.zeros(1, np.int32), keys, score, np.zeros(keys.shape, np.int16))
