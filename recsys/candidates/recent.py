"""A user's own past items: what is bought again. Of use where seen items may be recommended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from recsys.candidates.base import decayed_weight, user_item_matrix
from recsys.candidates.neighbourhood import Neighbourhood
from recsys.keys import KeyIndex
from recsys.parameters import Positive
from recsys.types import Catalogue, Interactions


@dataclass
class Recent(Neighbourhood):
    """Own items by the sum of weight · 2^(-age / half_life_days) over the user's events on them.

    As a neighbour model: each item is its own only neighbour.
    """

    half_life_days: Positive = 180.0
    n_neighbours: ClassVar[int] = 1
    name: ClassVar[str] = "recent"

    def nearness(self, history: Interactions, users: KeyIndex, items: KeyIndex, catalogue: Catalogue) -> sp.csr_matrix:
        return sp.identity(len(items), dtype=np.float32, format="csr")

    def user_history(self, history: Interactions, users: KeyIndex, items: KeyIndex) -> sp.csr_matrix:
        return user_item_matrix(history, decayed_weight(history, self.half_life_days), users, items)
