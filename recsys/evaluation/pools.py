"""What each generator brings to the pool of candidates: recall by size, what it alone finds, what it shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.metrics import Labels, Values, hits
from recsys.keys import pairs_of
from recsys.types import Keys

SIZES = (10, 50, 100, 200)
POOL = "pool"
EVERY = "items"  # the group of all items
_NOT_FOUND = np.iinfo(np.int64).max  # as a place
UNKNOWN = "unknown items"  # those first seen in the label window: no stage can propose them


def pool_report(lists: Mapping[str, Keys], labels: Labels, sizes: Sequence[int] = SIZES) -> list[dict[str, Any]]:
    """A row for each generator, and one for all together (`POOL`); means over the users of `labels`.

    `lists`: generator → (n_users, k), best first, padded with -1, rows in the order of `labels`. Columns: `recall@n` of
    the generator's first n candidates; `unique`, the share of the pool's hits that no other generator found;
    `overlap`, the share of its candidates that another one proposes, too; `candidates` per user.
    """
    found = {name: hits(keys, labels) for name, keys in lists.items()}
    places = {name: _places(keys, found[name], labels) for name, keys in lists.items()}
    times_found = np.sum([place < _NOT_FOUND for place in places.values()], axis=0)
    n_found = int((times_found > 0).sum())
    shared, n_distinct = _shared(lists)
    rows = []
    for name, keys in lists.items():
        alone = (places[name] < _NOT_FOUND) & (times_found == 1)
        rows.append(
            {
                "generator": name,
                **{f"recall@{n}": float((found[name][:, :n].sum(axis=1) / labels.n_labels).mean()) for n in sizes},
                "unique": float(alone.sum() / max(n_found, 1)),
                "overlap": float(shared[name].mean()) if len(shared[name]) else 0.0,
                "candidates": float((keys >= 0).sum(axis=1).mean()),
            }
        )
    best = np.min(list(places.values()), axis=0)
    recalls = {f"recall@{n}": float(_recall(best < n, labels).mean()) for n in sizes}
    whole = {"generator": POOL, **recalls, "unique": None, "overlap": None}
    return [*rows, whole | {"candidates": n_distinct / max(len(labels), 1)}]


def recall_of_union(lists: Mapping[str, Keys], labels: Labels, n: int | None = None) -> Values:
    """Share of each user's labels that is among the first `n` (all when None) of any of the lists, (n_users,)."""
    return _recall(_found(lists, labels, n), labels)


@dataclass(frozen=True)
class PoolHits:
    """How many labels each user has, and how many of them are candidates: group of items → (n_users,)."""

    n_labels: Mapping[str, NDArray[np.int64]]
    n_found: Mapping[str, NDArray[np.int64]]

    @property
    def recall(self) -> Values:
        """Share of each user's labels that is among the candidates, (n_users,)."""
        share: Values = self.n_found[EVERY] / self.n_labels[EVERY]
        return share

    def missed(self, users: NDArray[np.bool_]) -> dict[str, float | None]:
        """Of the labels of some users (a mask), the share that is not among the candidates: `missed`, and by group
        `missed_<group>`, None where they have no such label; and the share `unknown_items` that no stage could find.

        Every label counts alike, where `recall` counts every user alike.
        """
        n = {name: int(counts[users].sum()) for name, counts in self.n_labels.items()}
        shares: dict[str, float | None] = {
            "missed" if name == EVERY else f"missed_{name.replace(' ', '_')}": (
                1 - float(self.n_found[name][users].sum()) / n[name] if n[name] else None
            )
            for name in n
            if name != UNKNOWN
        }
        return shares | {UNKNOWN.replace(" ", "_"): n[UNKNOWN] / n[EVERY] if n[EVERY] else None}


@dataclass(frozen=True)
class PoolCount:
    """Labels of some users, and those among their candidates; counts of several groups of users can be added."""

    n_users: int = 0
    n_labels: int = 0
    n_found: int = 0
    sum_of_shares: float = 0.0  # found ones of each user's labels, added up

    @classmethod
    def of(cls, n_labels: NDArray[np.integer], n_found: NDArray[np.integer]) -> PoolCount:
        """From counts per user (n_users,), `n_labels` ≥ 1."""
        return cls(len(n_labels), int(n_labels.sum()), int(n_found.sum()), float((n_found / n_labels).sum()))

    def __add__(self, other: PoolCount) -> PoolCount:
        return PoolCount(
            self.n_users + other.n_users,
            self.n_labels + other.n_labels,
            self.n_found + other.n_found,
            self.sum_of_shares + other.sum_of_shares,
        )

    @property
    def recall(self) -> float:
        """The mean over users of the share that was found; 0 without users."""
        return self.sum_of_shares / max(self.n_users, 1)

    @property
    def missed(self) -> float:
        """Share of all labels that was not found; 0 without labels."""
        return 1 - self.n_found / self.n_labels if self.n_labels else 0.0


NO_LABELS = PoolCount()


def pool_hits(lists: Mapping[str, Keys], labels: Labels, known: Keys, groups: Mapping[str, Keys]) -> PoolHits:
    """What all lists together find, as in `pool_report`.

    `known`: the keys of the catalogue; `groups`: those of parts of it, by name.
    """
    found = _found(lists, labels)
    masks = {EVERY: np.ones(len(found), dtype=bool), UNKNOWN: ~np.isin(labels.item_key, known)}
    masks |= {name: np.isin(labels.item_key, keys) for name, keys in groups.items()}
    n = len(labels)
    return PoolHits(
        {name: np.bincount(labels.row[mask], minlength=n) for name, mask in masks.items()},
        {name: np.bincount(labels.row[mask & found], minlength=n) for name, mask in masks.items()},
    )


def _found(lists: Mapping[str, Keys], labels: Labels, n: int | None = None) -> NDArray[np.bool_]:
    """Which labels are among the first `n` of any list, (n_labels,)."""
    found = np.zeros(len(labels.item_key), dtype=bool)
    for keys in lists.values():
        first = keys[:, :n]
        found |= _places(first, hits(first, labels), labels) < _NOT_FOUND
    return found


def _recall(found: NDArray[np.bool_], labels: Labels) -> Values:
    return np.bincount(labels.row, found, minlength=len(labels)) / labels.n_labels


def _places(lists: Keys, found: NDArray[np.bool_], labels: Labels) -> NDArray[np.int64]:
    """Where each label stands in its user's list, from 0, `_NOT_FOUND` where it does not: (n_labels,)."""
    places = np.full(len(labels.item_key), _NOT_FOUND, dtype=np.int64)
    row, place = np.nonzero(found)
    at = np.searchsorted(pairs_of(labels.row, labels.item_key), pairs_of(row, lists[row, place]))
    places[at] = place
    return places


def _shared(lists: Mapping[str, Keys]) -> tuple[dict[str, NDArray[np.bool_]], int]:
    """Of each generator's candidates, whether another one proposes them, too; and how many distinct ones there are."""
    pairs = []
    for keys in lists.values():
        row, place = np.nonzero(keys >= 0)
        pairs.append(pairs_of(row, keys[row, place]))
    distinct, at, count = np.unique(np.concatenate(pairs), return_inverse=True, return_counts=True)
    ends = np.cumsum([len(part) for part in pairs])[:-1]
    shared = np.split(count[at] > 1, ends)
    return dict(zip(lists, shared, strict=True)), len(distinct)
