"""Items that follow each other in time: in one session, or within hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.candidates.base import KeyIndex, Positions, user_item_matrix
from recsys.candidates.neighbourhood import Neighbourhood
from recsys.types import Interactions

MICROSECONDS_PER_HOUR = 3_600_000_000
PAIRS_PER_BLOCK = 8_000_000


@dataclass
class Covisitation(Neighbourhood):
    """Near is what the same user touches at most `max_distance` events apart, in one session or `within_hours`.

    A pair of events (a, then b) adds w = 2^(-age of b / half_life_days) · distance^(-distance_power) to a → b, and
    `backward` · w to b → a (both w where they happened at the same instant: an invoice has no order). The sums
    are divided by (Σ of the row's item · Σ of the column's item)^damping, so that popular items are not near to
    everything. A user's own items count weight · 2^(-age / history_half_life_days).
    Memory is bounded by `max_events` last events per user.
    """

    within_hours: float = 24.0
    max_distance: int = 50
    max_events: int = 500
    distance_power: float = 0.0
    backward: float = 0.5
    half_life_days: float = 90.0
    history_half_life_days: float = 30.0
    history_power: float = 1.0
    damping: float = 0.4
    n_neighbours: int = 200
    name: ClassVar[str] = "covisitation"

    def nearness(self, history: Interactions, users: KeyIndex, items: KeyIndex) -> sp.csr_matrix:
        recent = last_events(history, self.max_events)
        matrix = sp.csr_matrix((len(items), len(items)), dtype=np.float32)
        rows: list[Positions] = []
        columns: list[Positions] = []
        values: list[NDArray[np.float32]] = []
        item = items.positions(recent.item_key).astype(np.int32)
        decay = np.exp2(-recent.age_days / self.half_life_days)
        waiting = 0
        for distance in range(1, self.max_distance + 1):
            first = self._pairs(recent, distance)
            if not len(first):
                break
            later = first + distance
            first, later = (part[item[first] != item[later]] for part in (first, later))
            weight = (decay[later] * distance**-self.distance_power).astype(np.float32)
            together = recent.occurred_at[first] == recent.occurred_at[later]
            rows += [item[first], item[later]]
            columns += [item[later], item[first]]
            values += [weight, np.where(together, weight, self.backward * weight).astype(np.float32)]
            waiting += 2 * len(first)
            if waiting > PAIRS_PER_BLOCK or distance == self.max_distance:
                matrix = matrix + _summed(rows, columns, values, len(items))
                rows, columns, values, waiting = [], [], [], 0
        if waiting:
            matrix = matrix + _summed(rows, columns, values, len(items))
        return self._damped(matrix)

    def _pairs(self, recent: Interactions, distance: int) -> Positions:
        """Positions of the events that have a partner `distance` events later (events are grouped by user)."""
        same_user = recent.user_key[:-distance] == recent.user_key[distance:]
        gap = recent.occurred_at[distance:] - recent.occurred_at[:-distance]
        close = gap <= self.within_hours * MICROSECONDS_PER_HOUR
        same_session = recent.session_id[:-distance] == recent.session_id[distance:]
        return np.flatnonzero(same_user & (close | same_session))

    def _damped(self, matrix: sp.csr_matrix) -> sp.csr_matrix:
        matrix = matrix.tocsr()
        total_row = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), np.finfo(np.float32).tiny)
        total_column = np.maximum(np.asarray(matrix.sum(axis=0)).ravel(), np.finfo(np.float32).tiny)
        row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        matrix.data = (matrix.data / (total_row[row] * total_column[matrix.indices]) ** self.damping).astype(np.float32)
        return matrix

    def user_history(self, history: Interactions, users: KeyIndex, items: KeyIndex) -> sp.csr_matrix:
        recent = last_events(history, self.max_events)
        x = user_item_matrix(recent, recent.decayed_weight(self.history_half_life_days), users, items)
        x.data **= self.history_power
        return x


def last_events(history: Interactions, n: int) -> Interactions:
    """The last `n` events of each user, grouped by user, in time order within."""
    order = np.argsort(history.user_key, kind="stable")
    _, starts, counts = np.unique(history.user_key[order], return_index=True, return_counts=True)
    from_end = np.repeat(starts + counts, counts) - np.arange(len(order))
    return history.take(order[from_end <= n])


def _summed(
    rows: list[Positions], columns: list[Positions], values: list[NDArray[np.float32]], n_items: int
) -> sp.csr_matrix:
    return sp.csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(n_items, n_items)
    )
