"""Keys of users and items in arrays: pairs of keys as one integer, and where keys stand among others.

Keys are ≥ 0 and below 2^31; -1 stands for none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


def pairs_of(owner: NDArray[np.integer], key: NDArray[np.integer]) -> NDArray[np.int64]:
    """One integer for each pair, in the order of (owner, key), -1 where the key is -1; shapes are broadcast."""
    return owner.astype(np.int64) << 32 | key


def parts_of(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Owners and keys of pairs."""
    return (pairs >> 32).astype(np.int32), (pairs & 0xFFFFFFFF).astype(np.int32)


def positions(ordered: NDArray[Any], wanted: NDArray[Any]) -> Positions:
    """Where each of `wanted` stands in `ordered` (ascending, distinct), -1 where it does not; shape as `wanted`."""
    if not len(ordered):
        return np.full(np.shape(wanted), -1, dtype=np.int64)
    found = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[found] == wanted, found, -1)


def runs(*columns: NDArray[Any]) -> tuple[Positions, Positions]:
    """Where runs of equal rows begin, (n_runs,), and the place of each row in its run, (n,); `columns` are (n,)."""
    n = len(columns[0])
    begins = np.ones(n, dtype=np.bool_)
    if n:
        begins[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    starts = np.flatnonzero(begins)
    return starts, np.arange(n) - np.repeat(starts, np.diff(starts, append=n))


@dataclass(frozen=True)
class KeyIndex:
    """A dense numbering of keys: the position of a key is its rank among `keys` (ascending, distinct).

    Finds by a table as long as the greatest key: quicker than `positions` for many keys, and dearer for a few.
    """

    keys: NDArray[np.int32]

    @classmethod
    def of(cls, keys: NDArray[Any]) -> KeyIndex:
        """The index of the distinct values of `keys` (n,), all ≥ 0."""
        present = np.zeros(int(keys.max()) + 1 if len(keys) else 0, dtype=bool)
        present[keys] = True
        return cls(np.flatnonzero(present).astype(np.int32))

    def __len__(self) -> int:
        return len(self.keys)

    def positions(self, keys: NDArray[Any]) -> Positions:
        """Position of each key, -1 where it is unknown; same shape as `keys`."""
        if not len(self):
            return np.full(np.shape(keys), -1, dtype=np.int64)
        lookup = np.full(int(self.keys[-1]) + 2, -1, dtype=np.int64)  # the last place answers for keys out of range
        lookup[self.keys] = np.arange(len(self))
        outside = (keys < 0) | (keys > self.keys[-1])
        return lookup[np.where(outside, len(lookup) - 1, keys)]
