"""What every list must be, checked on whole blocks of lists in numpy, while they are written or read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.errors import EmptyResultError, PublicationError
from recsys.types import Lists

# The kind of what users did, not of what they are shown: an item stands in it once for each type of event.
HISTORY: Final = "history"
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class ListChecks:
    """Goes through blocks of lists, refuses bad ones, and remembers counts, distinct items and a checksum.

    Refused with PublicationError, naming up to three owners: arrays of other shapes than the item keys, padding
    before an item, empty lists, an item twice in a list (of kind `history`: twice of one source), scores that are not
    finite or not descending, sources without a name, negative owner keys, an owner twice.
    """

    def __init__(self, kind: str, n_sources: int) -> None:
        self.kind = kind
        self.n_sources = n_sources
        self.n_rows = 0
        self.n_entries = 0
        self._shortest: int | None = None
        self._longest = 0
        self._checksum = 0
        self._owners: list[NDArray[np.int32]] = []
        self._item_seen = np.zeros(1024, dtype=bool)

    def add(self, lists: Lists) -> None:
        """Check one block and count it."""
        n, k = lists.item_key.shape
        shapes = (lists.owner_key.shape, lists.score.shape, lists.source.shape)
        if shapes != ((n,), (n, k), (n, k)):
            raise PublicationError(
                f"{self.kind} lists: items are of shape {(n, k)}, but owners, scores, sources of {shapes}"
            )
        if n == 0:
            return
        filled = lists.item_key >= 0
        lengths = filled.sum(axis=1)
        self._refuse(lists, lists.owner_key < 0, "have a negative owner key")
        self._refuse(lists, lengths == 0, "are empty")
        self._refuse(lists, (filled[:, 1:] & ~filled[:, :-1]).any(axis=1), "have padding before an item")
        self._refuse(lists, self._holds_twice(lists), "hold an item twice")
        self._refuse(lists, (filled & ~np.isfinite(lists.score)).any(axis=1), "have a score that is not finite")
        rising = (lists.score[:, 1:] > lists.score[:, :-1]) & filled[:, 1:]
        self._refuse(lists, rising.any(axis=1), "have scores that do not descend")
        unnamed = filled & ((lists.source < 0) | (lists.source >= self.n_sources))
        self._refuse(lists, unnamed.any(axis=1), f"have a source outside of the {self.n_sources} named ones")
        self._count(lists, filled, lengths)

    def finish(self) -> dict[str, Any]:
        """What was counted, as JSON. EmptyResultError when there was no list at all, PublicationError when an owner
        came twice."""
        if self.n_rows == 0:
            raise EmptyResultError(f"there is not one {self.kind} list; nothing was written")
        owners = np.sort(np.concatenate(self._owners))
        twice = np.unique(owners[1:][owners[1:] == owners[:-1]])
        if len(twice):
            raise PublicationError(f"{len(twice)} owners have two {self.kind} lists, e.g. {twice[:3].tolist()}")
        return {
            "n_rows": self.n_rows,
            "n_entries": self.n_entries,
            "shortest": self._shortest,
            "longest": self._longest,
            "n_items": len(self.item_keys),
            "checksum": f"{self._checksum:016x}",
        }

    @property
    def item_keys(self) -> NDArray[np.int32]:
        """The distinct items of all lists, ascending."""
        return np.flatnonzero(self._item_seen).astype(np.int32)

    def _holds_twice(self, lists: Lists) -> NDArray[np.bool_]:
        """Which rows hold an item more than once, (n,)."""
        keys = lists.item_key
        if self.kind == HISTORY:
            keys = np.where(keys >= 0, keys * np.int64(2**16) + lists.source, keys)
        ordered = np.sort(keys, axis=1)
        return ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)

    def _refuse(self, lists: Lists, bad: Any, what: str) -> None:
        n_bad = int(bad.sum())
        if not n_bad:
            return
        row = int(np.flatnonzero(bad)[0])
        owners = lists.owner_key[bad][:3].tolist()
        raise PublicationError(
            f"{n_bad} of {len(lists)} {self.kind} lists {what}, e.g. of owners {owners}; the first begins with "
            f"items {lists.item_key[row, :5].tolist()} and scores {np.round(lists.score[row, :5], 4).tolist()}"
        )

    def _count(self, lists: Lists, filled: NDArray[np.bool_], lengths: NDArray[np.int64]) -> None:
        self.n_rows += len(lists)
        self.n_entries += int(lengths.sum())
        shortest = int(lengths.min())
        self._shortest = shortest if self._shortest is None else min(self._shortest, shortest)
        self._longest = max(self._longest, int(lengths.max()))
        self._owners.append(lists.owner_key.astype(np.int32))
        largest = int(lists.item_key.max())
        if largest >= len(self._item_seen):
            self._item_seen = np.concatenate([self._item_seen, np.zeros(largest + 1, dtype=bool)])
        self._item_seen[lists.item_key if filled.all() else lists.item_key[filled]] = True
        self._checksum = (self._checksum + _checksum(lists, filled)) % 2**64


def without(checks: Mapping[str, Any], gone: Lists) -> dict[str, Any]:
    """What `finish` gave, after the lists `gone` are no longer there.

    Rows, entries and checksum stay exact; `n_erased` says that extremes and distinct items may be less than counted.
    """
    filled = gone.item_key >= 0
    checksum = (int(checks["checksum"], 16) - _checksum(gone, filled)) % 2**64
    return {
        **checks,
        "n_rows": checks["n_rows"] - len(gone),
        "n_entries": checks["n_entries"] - int(filled.sum()),
        "checksum": f"{checksum:016x}",
        "n_erased": checks.get("n_erased", 0) + len(gone),
    }


def _checksum(lists: Lists, filled: NDArray[np.bool_]) -> int:
    """A sum over lists of a hash of (owner, items, scores, sources), whatever the order of lists and the padding.

    It finds damage, not malice: each row is a multilinear hash modulo 2^64 with fixed odd factors.
    """
    k = lists.item_key.shape[1]
    with np.errstate(over="ignore"):
        factors = (np.arange(1, 3 * k + 1, dtype=np.uint64) * _GOLDEN) | np.uint64(1)
        parts: tuple[NDArray[Any], ...] = (
            lists.item_key.astype(np.int64) + 1,  # 0 where padded
            lists.score.astype(np.float32).view(np.uint32) * filled,
            lists.source * filled,
        )
        row: NDArray[np.uint64] = lists.owner_key.astype(np.uint64) * _GOLDEN
        for i, part in enumerate(parts):
            row = row + part.astype(np.uint64) @ factors[i::3]
        row = (row ^ (row >> np.uint64(29))) * _GOLDEN
        return int((row ^ (row >> np.uint64(32))).sum(dtype=np.uint64))
