"""The next item of replayed events by the service's own cascade: how much it is worth to follow what was just done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsys.candidates.als import Als
from recsys.candidates.session_neighbours import SessionNeighbours
from recsys.evaluation.metrics import Values
from recsys.serving import cascade
from recsys.serving.config import DEFAULT, ServingConfig
from recsys.serving.core import StoredList
from recsys.serving.recent import N_FOLLOWED, EventMeaning, Events
from recsys.serving.snapshot import Query, Snapshot, UserState
from recsys.steps.benchmarks import served
from recsys.types import Catalogue, Interactions

TOP_K = 10
LIST_LENGTH = 100
FROZEN, RENEWED, I2I, SESSIONS, FOLD_IN = (
    "lists of the night",
    "lists of each period's start",
    "lists, blended with neighbours of the latest events",
    "lists, blended with what follows in sessions",
    "ALS folded in from the latest events",
)
_NO_EVENTS = ServingConfig(use_latest_events=False)
Lists = Mapping[int, StoredList]  # by user


@dataclass(frozen=True)
class Answered:
    """Place of the next item, 1 for the best, infinite where it is not among the first TOP_K; (n_queries,)."""

    system: str
    rank: Values

    @property
    def hits(self) -> Values:
        return np.isfinite(self.rank).astype(np.float64)

    @property
    def ndcg(self) -> Values:
        return 1 / np.log2(self.rank + 1)


def answered(
    events: Interactions,
    cut_at: int,
    starts: Sequence[int],
    catalogue: Catalogue,
    weight_by_type: Mapping[str, float],
    rows: NDArray[np.int64],
    *,
    only: Sequence[str] = (),
) -> list[Answered]:
    """Ask for the items of `events` at `rows` (ascending, at or after `cut_at`), each as of just before it.

    Nothing is masked: people buy again. What happened in the same instant is not known. `only`: these systems; all.
    """
    night, users = events.before(cut_at), events.user_key[rows]
    snapshot = _snapshot(night, catalogue, weight_by_type)
    without = replace(snapshot, sessions=None)
    alone = replace(without, neighbours={})
    of_night = [lists_of(night, catalogue, np.unique(users))] * len(rows)
    systems: dict[str, tuple[Snapshot, ServingConfig, Sequence[Lists]]] = {
        FROZEN: (snapshot, _NO_EVENTS, of_night),
        RENEWED: (snapshot, _NO_EVENTS, _renewed(events, starts, catalogue, rows)),
        I2I: (without, DEFAULT, of_night),
        SESSIONS: (snapshot, DEFAULT, of_night),
        FOLD_IN: (alone, DEFAULT, [{}] * len(rows)),
    }
    before, targets = _events_before(events, rows), events.item_key[rows].tolist()
    return [
        Answered(
            system,
            np.array(
                [
                    _rank(state, UserState(personal=of_row.get(user), recent=recent), target, config)
                    for user, of_row, recent, target in zip(users.tolist(), lists, before, targets, strict=True)
                ]
            ),
        )
        for system, (state, config, lists) in systems.items()
        if not only or system in only
    ]


def _snapshot(night: Interactions, catalogue: Catalogue, weight_by_type: Mapping[str, float]) -> Snapshot:
    """What a worker holds of a night; the personal lists come with each user."""
    index = SessionNeighbours().fit(night, catalogue).index
    snapshot = served.snapshot_of(night, catalogue, index)
    lists = dict(snapshot.publication.lists)
    lists["personal"] = replace(lists["default"], kind="personal", sources=("als",))
    publication = replace(snapshot.publication, lists=lists)
    meaning = EventMeaning(weight_by_type, bought=(), hides_bought=False)
    return replace(snapshot, publication=publication, meaning=meaning)


def _renewed(events: Interactions, starts: Sequence[int], catalogue: Catalogue, rows: NDArray[np.int64]) -> list[Lists]:
    """For each row the lists that were made at the start of its period."""
    period = np.searchsorted(np.asarray(starts), events.occurred_at[rows], side="right") - 1
    users = events.user_key[rows]
    lists = {
        place: lists_of(events.before(starts[place]), catalogue, np.unique(users[period == place]))
        for place in np.unique(period).tolist()
    }
    return [lists[place] for place in period.tolist()]


def lists_of(history: Interactions, catalogue: Catalogue, users: NDArray[np.int32]) -> Lists:
    """The personal lists of a night: the best items by ALS, without masking."""
    best = Als().fit(history, catalogue).candidates(users, LIST_LENGTH)
    rows = zip(users.tolist(), best.item_key, best.score, best.item_key >= 0, strict=True)
    return {
        user: StoredList.of(keys[is_item].tolist(), scores[is_item].tolist(), [0] * int(is_item.sum()))
        for user, keys, scores, is_item in rows
        if is_item.any()
    }


def _events_before(events: Interactions, rows: NDArray[np.int64]) -> list[Events]:
    """The latest events of each row's user before its instant, newest first."""
    order = np.lexsort((events.occurred_at, events.user_key))
    user, at = events.user_key[order], events.occurred_at[order]
    found = []
    for row in rows.tolist():
        first, end = np.searchsorted(user, [events.user_key[row], events.user_key[row] + 1])
        last = first + int(np.searchsorted(at[first:end], events.occurred_at[row], side="left"))
        part = order[max(first, last - N_FOLLOWED) : last][::-1]
        kinds = [events.event_types[kind] for kind in events.event_type[part].tolist()]
        found.append(Events(events.item_key[part].tolist(), kinds, (events.occurred_at[part] // 1000).tolist()))
    return found


def _rank(snapshot: Snapshot, user: UserState, target: int, config: ServingConfig) -> float:
    picks = cascade.recommend(snapshot, user, Query(TOP_K), config)
    return served.rank_of(target, [pick.item_key for pick in picks])
