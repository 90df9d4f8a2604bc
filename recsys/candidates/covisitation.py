"""Items that follow each other in time: in one session, or within hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.candidates.base import current_weight, freshness, user_item_matrix
from recsys.candidates.neighbourhood import Neighbourhood
from recsys.keys import KeyIndex, runs
from recsys.parameters import Count, NotNegative, Positive
from recsys.types import Catalogue, Interactions, Scores

MICROSECONDS_PER_HOUR = 3_600_000_000
PAIRS_PER_BLOCK = 8_000_000
Pairs = tuple[NDArray[np.int32], NDArray[np.int32], Scores]  # rows, columns, weights, each (n_pairs,)


@dataclass
class Covisitation(Neighbourhood):
    """Near is what the same user touches at most `max_distance` events apart, in one session or `within_hours`.

    A pair of events (a, then b) adds w = 2^(-age of b / half_life_days) · distance^(-distance_power), times the
    weight of b, to a → b; and w times `backward` times the weight of a to b → a (`backward` is 1 where they happened
    at the same instant: an invoice has no order). The sums are divided by (weight of a · weight of b)^damping,
    weights summed without decay, so that popular items are not near to everything, and what was near only long ago
    is near no more. A user's own items count √(weight · 2^(-age / history_half_life_days)). `max_events` last
    events per user bound time and memory.
    """

    within_hours: Positive = 24.0
    max_distance: Count = 50
    max_events: Count = 500
    distance_power: NotNegative = 0.5
    backward: NotNegative = 0.5
    damping: NotNegative = 0.5
    half_life_days: Positive = 30.0
    history_half_life_days: Positive = 60.0
    history_half_life_sessions: Positive = 4.0
    n_neighbours: Count = 100
    name: ClassVar[str] = "covisitation"

    def nearness(self, history: Interactions, users: KeyIndex, items: KeyIndex, catalogue: Catalogue) -> sp.csr_matrix:
        recent = last_events(history, self.max_events)
        item = items.positions(recent.item_key).astype(np.int32)
        together = sp.csr_matrix((len(items), len(items)), dtype=np.float32)
        fresh = freshness(recent, self.half_life_days)
        waiting: list[Pairs] = []
        for distance in range(1, self.max_distance + 1):
            waiting += self._pairs(recent, item, fresh, distance)
            if sum(len(weight) for _, _, weight in waiting) > PAIRS_PER_BLOCK or distance == self.max_distance:
                row, column, weight = (np.concatenate(part) for part in zip(*waiting, strict=True))
                together = together + sp.csr_matrix((weight, (row, column)), shape=together.shape)
                waiting = []
        return self._damped(together.tocsr(), np.bincount(item, recent.weight, minlength=len(items)))

    def _pairs(self, recent: Interactions, item: NDArray[np.int32], fresh: Scores, distance: int) -> list[Pairs]:
        """The pairs of events `distance` apart, there and back; `item`, `fresh` (n,): each event's item and decay."""
        user, at, session = recent.user_key, recent.occurred_at, recent.session_id
        gap = at[distance:] - at[:-distance]
        near = (gap <= self.within_hours * MICROSECONDS_PER_HOUR) | (session[distance:] == session[:-distance])
        first = np.flatnonzero((user[distance:] == user[:-distance]) & near & (item[distance:] != item[:-distance]))
        later = first + distance
        shared = fresh[later] * np.float32(distance**-self.distance_power)
        back = np.where(gap[first] == 0, 1.0, self.backward).astype(np.float32)
        there = (item[first], item[later], shared * recent.weight[later])
        return [there, (item[later], item[first], shared * recent.weight[first] * back)]

    def _damped(self, together: sp.csr_matrix, total: NDArray[Any]) -> sp.csr_matrix:
        """Sums of pairs over (total of the row's item · total of the column's)^damping; `total` is (n_items,)."""
        scale = np.maximum(total, np.finfo(np.float32).tiny) ** -self.damping
        row = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
        together.data = (together.data * scale[row] * scale[together.indices]).astype(np.float32)
        return together

    def user_history(self, history: Interactions, users: KeyIndex, items: KeyIndex) -> sp.csr_matrix:
        recent = last_events(history, self.max_events)
        weight = current_weight(recent, self.history_half_life_days, self.history_half_life_sessions)
        return np.sqrt(user_item_matrix(recent, weight, users, items))


def last_events(history: Interactions, n: int) -> Interactions:
    """The last `n` events of each user, grouped by user, in time order within."""
    order = np.argsort(history.user_key, kind="stable")
    from_end = runs(history.user_key[order[::-1]])[1][::-1]
    return history.take(order[from_end < n])
