"""EASE: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (2019): items from items, in closed form."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from recsys.candidates.base import (
    Best,
    best_of_dense,
    current_weight,
    decayed_weight,
    item_trend,
    known_history,
    load_model,
    mean_weight,
    ranked,
    require_finite,
    save_model,
    scored,
    seen_positions,
    usable_history,
    user_item_matrix,
)
from recsys.errors import InputError, ModelError
from recsys.keys import KeyIndex, Positions
from recsys.parameters import Count, Finite, Positive
from recsys.types import Candidates, Catalogue, Interactions, Keys, Scores


@dataclass
class Ease:
    """Scores X·B, where B minimises |X - X·B|² + l2·|B|² with a zero diagonal: B = I - P·diag(1/P), P = (XᵀX + l2·I)⁻¹.

    X holds √(sum of decayed event weights) of users and items. Each column of B is then multiplied by the item's
    trend to the power of `trend` (`base.item_trend`; 0 turns it off). B is dense: memory is 4·n_items² bytes twice
    while fitting (3.2 GB at 20,000 items), time grows with n_items³.
    """

    l2: Positive = 200.0
    half_life_days: Positive = 60.0
    history_half_life_sessions: Positive = 2.0
    trend: Finite = 1.0
    trend_half_life_days: Positive = 20.0
    max_items: Count = 20_000
    name: ClassVar[str] = "ease"

    @property
    def largest_catalogue(self) -> int:
        """See `registry.largest_catalogue`."""
        return self.max_items

    def fit(self, interactions: Interactions, catalogue: Catalogue) -> Self:
        """As the protocol says; InputError when more than `max_items` items have events."""
        history = usable_history(interactions, catalogue)
        self.mean_weight = mean_weight(history)
        users, items = KeyIndex.of(history.user_key), KeyIndex.of(history.item_key)
        if len(items) > self.max_items:
            raise InputError(
                f"EASE needs a dense {len(items):,}² matrix, more than max_items = {self.max_items:,} allows; "
                "leave ease out of the generators, or raise max_items if memory suffices"
            )
        x = np.sqrt(user_item_matrix(history, decayed_weight(history, self.half_life_days), users, items))
        x.data /= np.sqrt(self.mean_weight)
        weights = self._weights(x)
        weights *= item_trend(history, items, self.trend_half_life_days, self.trend)
        require_finite(self.name, weights=weights)
        x = self._user_history(history, users, items)
        self._set(interactions.cut_at, users, items, x, weights, catalogue.offers(items.keys))
        return self

    def _user_history(self, history: Interactions, users: KeyIndex, items: KeyIndex) -> sp.csr_matrix:
        weight = current_weight(history, self.half_life_days, self.history_half_life_sessions)
        return np.sqrt(user_item_matrix(history, weight / self.mean_weight, users, items))

    def with_histories(self, interactions: Interactions) -> Self:
        """As the protocol says."""
        model, history = copy(self), known_history(interactions, self.items)
        users = KeyIndex.of(history.user_key)
        x = self._user_history(history, users, self.items)
        model._set(interactions.cut_at, users, self.items, x, self.weights, self.available)
        return model

    def _weights(self, x: sp.csr_matrix) -> Scores:
        """B of the class's formula, float32 (n_items, n_items)."""
        gram = (x.T @ x).toarray(order="F")
        gram[np.diag_indices_from(gram)] += self.l2
        factor, failed = lapack.spotrf(gram, overwrite_a=True)
        if not failed:
            factor, failed = lapack.spotri(factor, overwrite_c=True)  # the upper triangle of the inverse
        if failed:
            raise ModelError("ease: XᵀX + l2·I cannot be inverted; check the event weights, or raise l2")
        inverse = np.triu(factor)
        inverse += np.triu(factor, 1).T
        weights = np.asarray(inverse / -np.diag(inverse), dtype=np.float32)
        np.fill_diagonal(weights, 0.0)
        return weights

    def _set(
        self, cut_at: int, users: KeyIndex, items: KeyIndex, x: sp.csr_matrix, weights: Scores, available: Any
    ) -> None:
        self.cut_at, self.users, self.items, self.available = cut_at, users, items, available
        self.history, self.weights = x, weights

    def candidates(self, user_keys: Keys, n: int, *, seen: Any | None = None) -> Candidates:
        at = self.users.positions(user_keys)
        mask = seen_positions(seen, self.items, len(user_keys))

        def best(rows: Positions) -> Best:
            scores = self.history[at[rows]] @ self.weights
            scores[:, ~self.available] = -np.inf
            if mask is not None:
                scores[mask[rows].nonzero()] = -np.inf
            return best_of_dense(scores, n)

        return ranked(user_keys, n, at >= 0, self.items, best)

    def scores(self, user_keys: Keys, item_keys: Keys) -> Scores:
        """Entries of X·B: (n,) and (n, k) → (n, k)."""

        def score(users: Positions, items: Positions) -> Scores:
            distinct, row = np.unique(users, return_inverse=True)
            return np.take_along_axis((self.history[distinct] @ self.weights)[row], items, axis=1)

        return scored(user_keys, item_keys, self.users, self.items, score)

    def nearness_between(self, own: Positions, others: Positions) -> Scores:
        """As `KnowsItems` says: entries of B."""
        near: Scores = self.weights[own[:, None], others]
        return near

    def save(self, folder: Path) -> None:
        arrays = {"user_keys": self.users.keys, "item_keys": self.items.keys, "available": self.available}
        arrays |= {"history": self.history, "weights": self.weights, "mean_weight": np.array([self.mean_weight])}
        save_model(folder, self, self.cut_at, arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        params, cut_at, arrays = load_model(folder, cls.name)
        model = cls(**params)
        model.mean_weight = float(arrays["mean_weight"][0])
        users, items = KeyIndex(arrays["user_keys"]), KeyIndex(arrays["item_keys"])
        model._set(cut_at, users, items, arrays["history"], arrays["weights"], arrays["available"])
        return model
