"""How near a candidate is to each of its user's own items, by every generator that knows items by each other.

A generator's score sums over all own items; what often decides is the nearest of them, or the last. These columns
were the strongest features of the winners of OTTO's and H&M's contests (2022, 2023). Columns of a generator `g`:
`g_near_max`, the greatest nearness of an own item to the candidate; `g_near_last`, that of the items of the user's last
instant; `g_near_recent`, of their last three sessions; `g_near_n`, how many own items are near at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from recsys.keys import KeyIndex, Positions, runs
from recsys.ranking.pool import Pool
from recsys.types import Interactions, Keys, Scores

MAX_OWN_ITEMS = 50  # of a user, the latest
RECENT_SESSIONS = 3
_COLUMNS = ("near_max", "near_last", "near_recent", "near_n")


@runtime_checkable
class KnowsItems(Protocol):
    """A generator that knows how near items are to each other."""

    name: ClassVar[str]
    items: KeyIndex

    def nearness_between(self, own: Positions, others: Positions) -> Scores:
        """How near each of `others` (k,) is to each of `own` (m,), positions in `items`: (m, k)."""
        ...


@dataclass(frozen=True)
class OwnItems:
    """The latest distinct items of each user; those of user `i` are `starts[i]:starts[i + 1]`."""

    users: KeyIndex
    starts: NDArray[np.int64]  # (n_users + 1,)
    item_key: Keys  # (n,)
    is_last: NDArray[np.bool_]  # (n,): of the user's last instant
    is_recent: NDArray[np.bool_]  # (n,): of the user's last sessions

    @classmethod
    def of(cls, history: Interactions) -> OwnItems:
        """Of events in time order, those that speak for their item."""
        events = history.in_favour
        newest_first = np.argsort(events.user_key[::-1], kind="stable")
        user, item, at, session = (
            column[::-1][newest_first]
            for column in (events.user_key, events.item_key, events.occurred_at, events.session_id)
        )
        instant, session_from_end = _number_from_end(user, at), _number_from_end(user, session)
        once = np.lexsort((np.arange(len(user)), item, user))  # of equal pairs the newest
        kept = np.sort(once[runs(user[once], item[once])[0]])
        kept = kept[runs(user[kept])[1] < MAX_OWN_ITEMS]
        first = runs(user[kept])[0]
        return cls(
            KeyIndex(user[kept][first].astype(np.int32)),
            np.append(first, len(kept)),
            item[kept].astype(np.int32),
            instant[kept] == 0,
            session_from_end[kept] < RECENT_SESSIONS,
        )

    def rows_of(self, user_keys: Keys) -> tuple[Positions, Positions]:
        """Where the items of users (n,) are, user after user, and where each user's begin among these, (n + 1,)."""
        at = self.users.positions(user_keys)
        begins = np.where(at < 0, 0, self.starts[at])
        starts = np.append(0, np.cumsum(np.where(at < 0, 0, self.starts[at + 1] - begins)))
        return np.arange(starts[-1]) + np.repeat(begins - starts[:-1], np.diff(starts)), starts


def _number_from_end(user: NDArray[Any], step: NDArray[Any]) -> NDArray[np.int64]:
    """How many times `step` changed since the user's newest row; rows are grouped by user, newest first."""
    begins = np.zeros(len(user), dtype=np.int64)
    begins[runs(user, step)[0]] = 1
    number = np.cumsum(begins)
    first = runs(user)[0]
    return number - np.repeat(number[first], np.diff(first, append=len(user)))


def affinity(generators: Sequence[Any], own: OwnItems, pool: Pool) -> dict[str, Scores]:
    """The columns for all rows of a pool (n_rows,), 0 where nothing is near or the user has no item."""
    known = [generator for generator in generators if isinstance(generator, KnowsItems)]
    columns = {f"{g.name}_{c}": np.zeros(len(pool), dtype=np.float32) for g in known for c in _COLUMNS}
    rows, starts = own.rows_of(pool.user_key)
    own_rows = list(starmap(slice, pairwise(starts.tolist())))
    item_key, is_last, is_recent = own.item_key[rows], own.is_last[rows], own.is_recent[rows]
    for generator in known:
        own_at, candidate_at = generator.items.positions(item_key), generator.items.positions(pool.item_key)
        into = [columns[f"{generator.name}_{column}"] for column in _COLUMNS]
        for mine, (start, stop) in zip(own_rows, pairwise(pool.starts.tolist()), strict=True):
            here = own_at[mine] >= 0
            columns_of_user = start + np.flatnonzero(candidate_at[start:stop] >= 0)
            if not here.any() or not len(columns_of_user):
                continue
            near = generator.nearness_between(own_at[mine][here], candidate_at[columns_of_user])
            into[0][columns_of_user] = near.max(axis=0)
            into[1][columns_of_user] = near[is_last[mine][here]].max(axis=0, initial=0)
            into[2][columns_of_user] = near[is_recent[mine][here]].max(axis=0, initial=0)
            into[3][columns_of_user] = (near > 0).sum(axis=0)
    return columns
