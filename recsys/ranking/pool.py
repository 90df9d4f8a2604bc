"""The candidates of all generators, merged: one row for each user and item that any generator proposed.

Every generator scores every row, whichever proposed it, so that no column is missing. Columns of a generator `g`:
`g_score`; `g_rank`, the rank of the score among the user's rows (1 is best); `g_share`, the score min-max scaled per
user to [0, 1]; `g_found`, whether it proposed the item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InputError
from recsys.keys import pairs_of, parts_of
from recsys.types import NO_ITEM, CandidateGenerator, Keys, Scores


@dataclass(frozen=True)
class Pool:
    """Rows grouped by user: those of user `i` are `starts[i]:starts[i + 1]`, items ascending."""

    user_key: Keys  # (n_users,), in the order requested
    starts: NDArray[np.int64]  # (n_users + 1,)
    item_key: Keys  # (n_rows,)
    columns: dict[str, Scores]  # name → (n_rows,), NaN where unknown

    def __len__(self) -> int:
        return len(self.item_key)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Candidates per user, (n_users,)."""
        return np.diff(self.starts)

    @property
    def row_of_user(self) -> NDArray[np.int64]:
        """For each row the position of its user in `user_key`, (n_rows,)."""
        return np.repeat(np.arange(len(self.user_key)), self.sizes)

    def padded(self, values: NDArray[Any], fill: Any) -> NDArray[Any]:
        """Values of the rows (n_rows,) as (n_users, largest pool), `fill` where a user has fewer."""
        width = int(self.sizes.max(initial=0))
        result = np.full((len(self.user_key), width), fill, dtype=values.dtype)
        result[np.arange(width) < self.sizes[:, None]] = values
        return result


def build_pool(
    generators: Sequence[CandidateGenerator], user_keys: Keys, n: int | Mapping[str, int], seen: Any | None = None
) -> Pool:
    """The union of each generator's best `n` (one number, or one per generator's name) for `user_keys`.

    `seen` as in `CandidateGenerator.candidates`. Users whom no generator knows have no row. Raises InputError
    without generators or when two share a name.
    """
    names = [generator.name for generator in generators]
    if not names or len(set(names)) < len(names):
        raise InputError(f"a pool needs generators with distinct names, received {names}")
    counts = dict.fromkeys(names, n) if isinstance(n, int) else dict(n)
    proposed = [g.candidates(user_keys, counts[g.name], seen=seen).item_key for g in generators]
    pairs = [_pairs(lists) for lists in proposed]
    union = np.unique(np.concatenate(pairs))
    rows, items = parts_of(union)
    pool = Pool(user_keys, np.searchsorted(rows, np.arange(len(user_keys) + 1)), items, {})
    padded_items = pool.padded(pool.item_key, NO_ITEM)
    for generator, found in zip(generators, pairs, strict=True):
        scores = generator.scores(user_keys, padded_items)
        scores[padded_items == NO_ITEM] = np.nan
        pool.columns.update(_columns(generator.name, scores, padded_items != NO_ITEM))
        pool.columns[f"{generator.name}_found"] = np.isin(union, found, assume_unique=True).astype(np.float32)
    return pool


def _pairs(lists: Keys) -> NDArray[np.int64]:
    """(n_users, n) padded lists → one integer per pair of row and item."""
    row, place = np.nonzero(lists >= 0)
    return pairs_of(row, lists[row, place])


def _columns(name: str, scores: Scores, filled: NDArray[np.bool_]) -> dict[str, Scores]:
    """Score, rank and share of a generator from (n_users, width), at the places `filled`, each (n_rows,)."""
    rank, share = within_user(scores)
    return {f"{name}_score": scores[filled], f"{name}_rank": rank[filled], f"{name}_share": share[filled]}


def within_user(scores: Scores) -> tuple[Scores, Scores]:
    """Rank from 1 (ties share the better one) and min-max scaled score (0 to 1) within each row.

    (n_users, width) with NaN where there is no score → two arrays of the same shape, NaN at the same places.
    """
    unknown = np.isnan(scores)
    descending = np.where(unknown, np.inf, -scores)
    order = np.argsort(descending, axis=1, kind="stable")
    ordered = np.take_along_axis(descending, order, axis=1)
    place = np.broadcast_to(np.arange(1, scores.shape[1] + 1), scores.shape)
    starts_tie = np.ones(scores.shape, dtype=bool)
    starts_tie[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(starts_tie, place, 0), axis=1)
    rank = np.empty(scores.shape, dtype=np.float32)
    np.put_along_axis(rank, order, first.astype(np.float32), axis=1)
    least = np.where(unknown, np.inf, scores).min(axis=1, keepdims=True, initial=np.inf)
    greatest = np.where(unknown, -np.inf, scores).max(axis=1, keepdims=True, initial=-np.inf)
    span = np.where(greatest > least, greatest - least, 1.0)
    share = ((scores - least) / span).astype(np.float32)
    rank[unknown] = np.nan
    share[unknown] = np.nan
    return rank, share
