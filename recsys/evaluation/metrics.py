"""Accuracy, novelty and coverage of ranked lists, by arrays.

Lists are (n_users, k) item keys, best first, padded at the end with -1. Every accuracy metric is given per user,
so that intervals (`bootstrap`) and segments need no second pass; a user without a list counts as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InputError
from recsys.keys import pairs_of, parts_of
from recsys.types import Interactions, Keys

Values = NDArray[np.float64]
CUTOFFS = (5, 10)


@dataclass(frozen=True)
class Labels:
    """What each user did in a label window: the items of user `i` are `item_key[starts[i]:starts[i + 1]]`."""

    user_key: Keys  # (n_users,), ascending
    starts: NDArray[np.int64]  # (n_users + 1,)
    item_key: Keys  # (n_labels,), distinct within a user, ascending

    @classmethod
    def from_pairs(cls, user_key: NDArray[np.integer], item_key: NDArray[np.integer]) -> Labels:
        """From parallel arrays (n,) in any order; repeated pairs count once."""
        owners, items = parts_of(np.unique(pairs_of(user_key, item_key)))
        users, first = np.unique(owners, return_index=True)
        return cls(users, np.append(first, len(items)).astype(np.int64), items)

    def __len__(self) -> int:
        return len(self.user_key)

    @property
    def n_labels(self) -> NDArray[np.int64]:
        """How many items each user has, (n_users,)."""
        return np.diff(self.starts)

    @property
    def row(self) -> NDArray[np.int64]:
        """For each label the position of its user, (n_labels,)."""
        return np.repeat(np.arange(len(self)), self.n_labels)

    def of_users(self, user_keys: NDArray[np.integer]) -> Labels:
        """Only the labels of the users in `user_keys`."""
        keep = np.isin(self.user_key, user_keys)[self.row]
        return Labels.from_pairs(self.user_key[self.row[keep]], self.item_key[keep])

    def of_items(self, item_keys: NDArray[np.integer]) -> Labels:
        """Only the labels on items of `item_keys`, and so only the users who have one."""
        keep = np.isin(self.item_key, item_keys)
        return Labels.from_pairs(self.user_key[self.row[keep]], self.item_key[keep])


def hits(lists: Keys, labels: Labels) -> NDArray[np.bool_]:
    """Which places of `lists` (n_users, k), rows in the order of `labels`, hold a label; (n_users, k).

    Raises InputError when the rows do not fit the labels or a list holds an item twice.
    """
    if lists.ndim != 2 or len(lists) != len(labels):
        raise InputError(f"lists of shape {lists.shape} do not fit the labels of {len(labels)} users")
    ordered = np.sort(lists, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise InputError("a list holds the same item twice; make lists distinct before they are measured")
    wanted, pairs = pairs_of(labels.row, labels.item_key), pairs_of(np.arange(len(lists))[:, None], lists)
    if not len(wanted):
        return np.zeros(lists.shape, dtype=bool)
    at = np.searchsorted(wanted, pairs)  # they ascend, and are few: `isin` would sort the many
    found: NDArray[np.bool_] = (wanted[np.minimum(at, len(wanted) - 1)] == pairs) & (lists >= 0)
    return found


def accuracy(lists: Keys, labels: Labels, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, Values]:
    """Precision, recall, NDCG and MAP at each cutoff, per user: name → (n_users,) in [0, 1].

    With hits h_1 … h_k and n labels: precision = Σh / k; recall = Σh / n;
    NDCG = Σ h_i / log2(i + 1) over the same sum of an ideal list of min(k, n) hits (Järvelin & Kekäläinen 2002);
    MAP = Σ h_i · precision@i / min(k, n).
    """
    found = hits(lists, labels).astype(np.float64)
    n = labels.n_labels.astype(np.float64)
    result: dict[str, Values] = {}
    for k in cutoffs:
        h = found[:, :k]
        h = np.pad(h, ((0, 0), (0, k - h.shape[1])))
        place = np.arange(1, k + 1)
        gain = 1.0 / np.log2(place + 1)
        best = np.minimum(n, k).astype(np.int64)
        result[f"precision@{k}"] = h.sum(axis=1) / k
        result[f"recall@{k}"] = h.sum(axis=1) / n
        result[f"ndcg@{k}"] = h @ gain / np.cumsum(gain)[best - 1]
        result[f"map@{k}"] = (h * np.cumsum(h, axis=1) / place).sum(axis=1) / best
    return result


def pool_recall(pool: Keys, labels: Labels) -> Values:
    """Share of each user's labels that is among the candidates (n_users, any): the ranker's ceiling."""
    return hits(pool, labels).sum(axis=1) / labels.n_labels


def n_users_by_item(history: Interactions, n_item_keys: int) -> NDArray[np.int64]:
    """How many users have each item in `history`, by item key: (n_item_keys,)."""
    return np.bincount(parts_of(np.unique(history.pairs))[1], minlength=n_item_keys)


def novelty(lists: Keys, n_users_by_item: NDArray[np.integer], n_users: int, k: int = 5) -> Values:
    """Mean self-information of the first `k` items, in bits, per user (NaN where the list is empty); (n_lists,).

    -log2(p), p = share of the `n_users` known users who have the item in their history (at least one user is
    assumed, so that an item nobody has is as novel as one with a single user). `n_users_by_item` is indexed by
    item key. Zhou et al. 2010.
    """
    top = lists[:, :k]
    share = np.maximum(n_users_by_item, 1) / max(n_users, 1)
    bits = np.where(top >= 0, -np.log2(share[np.maximum(top, 0)]), 0.0)
    filled = (top >= 0).sum(axis=1)
    return np.where(filled > 0, bits.sum(axis=1) / np.maximum(filled, 1), np.nan)


def item_coverage(lists: Keys, n_items: int, k: int = 10) -> float:
    """Distinct items within the first `k` places, as a share of the `n_items` of the catalogue."""
    top = lists[:, :k]
    return len(np.unique(top[top >= 0])) / max(n_items, 1)


def user_coverage(lists: Keys) -> float:
    """Share of the users who got at least one item; 0 when there are no users."""
    return float((lists >= 0).any(axis=1).mean()) if len(lists) else 0.0


def overlap(lists: Keys, others: Keys, k: int = 10) -> float:
    """How much two models agree: the mean share of the first `k` places that hold an item of the other's first `k`.

    Rows are the same owners; an owner with an empty list in both is left out. NaN without any.
    """
    top, other = lists[:, :k], others[:, :k]
    rows = np.arange(len(top))[:, None]
    common = (np.isin(pairs_of(rows, top), pairs_of(rows, other)) & (top >= 0)).sum(axis=1)
    longer = np.maximum((top >= 0).sum(axis=1), (other >= 0).sum(axis=1))
    return float((common[longer > 0] / longer[longer > 0]).mean()) if longer.any() else float("nan")


def top_item_share(lists: Keys, n_items: int, k: int = 10, share: float = 0.01) -> float:
    """Share of the first `k` places that the most recommended 1 % of the catalogue takes; near 1 is a collapse."""
    top = lists[:, :k]
    counts = np.unique(top[top >= 0], return_counts=True)[1]
    n_top = max(int(np.ceil(share * n_items)), 1)
    return float(np.sort(counts)[::-1][:n_top].sum() / counts.sum()) if len(counts) else 0.0
