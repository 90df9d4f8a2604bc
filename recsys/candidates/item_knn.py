"""Item-item neighbours by the cosine of TF-IDF weights: Deshpande and Karypis, "Item-Based Top-N Recommendation
Algorithms" (2004), over whole histories, for catalogues of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from recsys.candidates.base import current_weight, decayed_weight, user_item_matrix
from recsys.candidates.neighbourhood import Neighbourhood
from recsys.keys import KeyIndex
from recsys.parameters import Count, Positive, Whole
from recsys.types import Catalogue, Interactions


@dataclass
class ItemKnn(Neighbourhood):
    """Nearness is the cosine of two items' columns of √weight × log(1 + n_items / items of the user), where the
    product of the columns decays with age and their lengths do not: what was near only long ago is near no more.

    A user's own items count √(weight · 2^(-age / history_half_life_days)).
    """

    half_life_days: Positive = 30.0
    history_half_life_days: Positive = 60.0
    history_half_life_sessions: Positive = 2.0
    n_neighbours: Count = 50
    num_threads: Whole = 0  # 0: all cores
    name: ClassVar[str] = "item_knn"

    def nearness(self, history: Interactions, users: KeyIndex, items: KeyIndex, catalogue: Catalogue) -> sp.csr_matrix:
        from implicit.nearest_neighbours import ItemItemRecommender

        full = np.sqrt(user_item_matrix(history, history.weight, users, items))
        decayed = np.sqrt(user_item_matrix(history, decayed_weight(history, self.half_life_days), users, items))
        n_items_of_user = np.diff(full.indptr)
        rarity = np.repeat(np.log1p(len(items) / np.maximum(n_items_of_user, 1)), n_items_of_user)
        full.data *= rarity
        length = np.sqrt(np.asarray(full.multiply(full).sum(axis=0)).ravel())
        decayed.data *= rarity / length[decayed.indices]
        model = ItemItemRecommender(K=self.n_neighbours + 1, num_threads=self.num_threads)  # one is the item itself
        model.fit(decayed.astype(np.float64), show_progress=False)
        return model.similarity.astype(np.float32)

    def user_history(self, history: Interactions, users: KeyIndex, items: KeyIndex) -> sp.csr_matrix:
        weight = current_weight(history, self.history_half_life_days, self.history_half_life_sessions)
        return np.sqrt(user_item_matrix(history, weight, users, items))
