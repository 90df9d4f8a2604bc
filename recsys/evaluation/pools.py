"""What each generator brings to the pool of candidates: recall by size, what it alone finds, what it shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.evaluation.metrics import Labels, Values, hits
from recsys.keys import pairs_of
from recsys.types import Keys

SIZES = (10, 50, 100, 200)
POOL = "pool"


def pool_report(lists: Mapping[str, Keys], labels: Labels, sizes: Sequence[int] = SIZES) -> list[dict[str, Any]]:
    """A row for each generator, and one for all together (`POOL`); means over the users of `labels`.

    `lists`: generator → (n_users, k), best first, padded with -1, rows in the order of `labels`. Columns: `recall@n` of
    the generator's first n candidates; `unique`, the share of the pool's hits that no other generator found;
    `overlap`, the share of its candidates that another one proposes, too; `candidates` per user.
    """
    found = {name: hits(keys, labels) for name, keys in lists.items()}
    pairs = {name: _pairs(keys) for name, keys in lists.items()}
    hit_pairs = {name: _pairs(np.where(found[name], keys, -1)) for name, keys in lists.items()}
    all_hits = np.unique(np.concatenate(list(hit_pairs.values())))
    rows = []
    for name, keys in lists.items():
        others = [other for other in lists if other != name]
        elsewhere = np.concatenate([pairs[other] for other in others]) if others else np.zeros(0, dtype=np.int64)
        hit_elsewhere = np.isin(hit_pairs[name], elsewhere).sum()
        rows.append(
            {
                "generator": name,
                **{f"recall@{n}": float((found[name][:, :n].sum(axis=1) / labels.n_labels).mean()) for n in sizes},
                "unique": float((len(hit_pairs[name]) - hit_elsewhere) / max(len(all_hits), 1)),
                "overlap": float(np.isin(pairs[name], elsewhere).mean()) if len(pairs[name]) else 0.0,
                "candidates": float((keys >= 0).sum(axis=1).mean()),
            }
        )
    recalls = {f"recall@{n}": float(recall_of_union(lists, labels, n).mean()) for n in sizes}
    n_candidates = len(np.unique(np.concatenate(list(pairs.values())))) / max(len(labels), 1)
    return [*rows, {"generator": POOL, **recalls, "unique": None, "overlap": None, "candidates": n_candidates}]


def recall_of_union(lists: Mapping[str, Keys], labels: Labels, n: int | None = None) -> Values:
    """Share of each user's labels that is among the first `n` (all when None) of any of the lists, (n_users,)."""
    wanted = pairs_of(labels.row, labels.item_key)
    found = np.zeros(len(wanted), dtype=bool)
    for keys in lists.values():
        found |= np.isin(wanted, _pairs(keys[:, :n]))
    return np.bincount(labels.row, found, minlength=len(labels)) / labels.n_labels


def _pairs(lists: Keys) -> np.ndarray[Any, np.dtype[np.int64]]:
    row, place = np.nonzero(lists >= 0)
    return pairs_of(row, lists[row, place])
