"""What comes right after the last items: sequential rules (Ludewig & Jannach, "Evaluation of Session-based
Recommendation Algorithms", 2018) over all of a user's events, whichever session they were in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from recsys.candidates.base import LEAST_DECAY, later_steps, user_item_matrix
from recsys.candidates.covisitation import Covisitation, last_events
from recsys.decay import decay
from recsys.keys import KeyIndex
from recsys.parameters import Count, NotNegative, Positive
from recsys.types import Interactions


@dataclass
class NextItem(Covisitation):
    """Near is what users touch next: `Covisitation` over at most ten events, across sessions, in the order of time with
    a small share backward, little damped and never out of date.

    A user's own items count 2^(-place / history_half_life_places), the place counted from the user's last instant: the
    latest item is most of what counts.
    """

    within_hours: Positive = 1e9
    max_distance: Count = 10
    distance_power: NotNegative = 0.75
    backward: NotNegative = 0.2
    damping: NotNegative = 0.2
    half_life_days: Positive = 1e6
    history_half_life_places: Positive = 1.0
    n_neighbours: Count = 300
    name: ClassVar[str] = "next_item"

    def user_history(self, history: Interactions, users: KeyIndex, items: KeyIndex) -> sp.csr_matrix:
        recent = last_events(history, self.max_events)
        recency = np.maximum(decay(later_steps(recent, recent.occurred_at), self.history_half_life_places), LEAST_DECAY)
        return user_item_matrix(recent, recency, users, items)
