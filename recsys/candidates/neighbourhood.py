"""Generators that know items by their neighbours: a user's score of an item is the sum over the user's own items
of (what the own item counts now) × (how near the item is to it), all in sparse matrices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp

from recsys.candidates.base import (
    Best,
    best_of_sparse,
    known_history,
    load_model,
    ranked,
    require_finite,
    rows_of,
    save_model,
    scored,
    seen_positions,
    usable_history,
)
from recsys.keys import KeyIndex, Positions, pairs_of, positions
from recsys.types import Candidates, Catalogue, Interactions, Keys, Scores


@dataclass
class Neighbourhood(ABC):
    """Base of the neighbour models; a subclass says what counts as near and what a user's history is worth."""

    name: ClassVar[str]

    def known_items(self, history: Interactions, catalogue: Catalogue) -> KeyIndex:
        """The items that have neighbours: those with an event."""
        return KeyIndex.of(history.item_key)

    @abstractmethod
    def nearness(self, history: Interactions, users: KeyIndex, items: KeyIndex, catalogue: Catalogue) -> sp.csr_matrix:
        """How near each item (column) is to each item (row), ≥ 0: CSR float32 (n_items, n_items)."""

    @abstractmethod
    def user_history(self, history: Interactions, users: KeyIndex, items: KeyIndex) -> sp.csr_matrix:
        """What each item counts for each user, ≥ 0: CSR float32 (n_users, n_items)."""

    def fit(self, interactions: Interactions, catalogue: Catalogue) -> Self:
        """As the protocol says. Only available items are kept as neighbours."""
        history = usable_history(interactions, catalogue)
        users, items = KeyIndex.of(history.user_key), self.known_items(history, catalogue)
        available = catalogue.offers(items.keys)
        near = self.nearness(history, users, items, catalogue)
        near.data[~available[near.indices]] = 0.0
        near = strongest(near, self.n_neighbours)  # type: ignore[attr-defined]
        weighted = self.user_history(history, users, items)
        require_finite(self.name, nearness=near.data, history=weighted.data)
        self._set(interactions.cut_at, users, items, near, weighted)
        return self

    def with_histories(self, interactions: Interactions) -> Self:
        """As the protocol says."""
        model, history = copy(self), known_history(interactions, self.items)
        users = KeyIndex.of(history.user_key)
        model._set(interactions.cut_at, users, self.items, self.near, self.user_history(history, users, self.items))
        return model

    def _set(self, cut_at: int, users: KeyIndex, items: KeyIndex, near: sp.csr_matrix, weighted: sp.csr_matrix) -> None:
        self.cut_at, self.users, self.items, self.near, self.weighted = cut_at, users, items, near, weighted

    def candidates(self, user_keys: Keys, n: int, *, seen: Any | None = None) -> Candidates:
        at = self.users.positions(user_keys)
        mask = seen_positions(seen, self.items, len(user_keys))

        def best(rows: Positions) -> Best:
            scores = self.weighted[at[rows]] @ self.near
            if mask is not None:
                scores = scores - scores.multiply(mask[rows])
            return best_of_sparse(scores.tocsr(), n)

        return ranked(user_keys, n, at >= 0, self.items, best, rows_per_chunk=4096)

    def similar(self, item_keys: Keys, n: int) -> Candidates:
        """The best `n` available neighbours of each item, itself excluded; -1 beyond those that are known."""
        at = self.items.positions(item_keys)

        def best(rows: Positions) -> Best:
            own = at[rows]
            itself = sp.csr_matrix(
                (np.ones(len(rows), dtype=np.float32), (np.arange(len(rows)), own)), shape=(len(rows), len(self.items))
            )
            near = self.near[own]
            return best_of_sparse((near - near.multiply(itself)).tocsr(), n)

        return ranked(item_keys, n, at >= 0, self.items, best, rows_per_chunk=65_536)

    def nearness_between(self, own: Positions, others: Positions) -> Scores:
        """As `KnowsItems` says: entries of the nearness of neighbours, 0 for all others."""
        place = np.full(len(self.items), -1, dtype=np.int32)
        place[others] = np.arange(len(others), dtype=np.int32)
        near = self.near[own]
        row, column = rows_of(near), place[near.indices]
        there = column >= 0
        result = np.zeros((len(own), len(others)), dtype=np.float32)
        result[row[there], column[there]] = near.data[there]
        return result

    def scores(self, user_keys: Keys, item_keys: Keys) -> Scores:
        """(n,) and (n, k) → (n, k); 0 where no own item is a neighbour of a known item."""

        def score(users: Positions, items: Positions) -> Scores:
            distinct, row = np.unique(users, return_inverse=True)
            return entries(self.weighted[distinct] @ self.near, row, items)

        return scored(user_keys, item_keys, self.users, self.items, score, rows_per_chunk=4096)

    def save(self, folder: Path) -> None:
        arrays = {"user_keys": self.users.keys, "item_keys": self.items.keys}
        save_model(folder, self, self.cut_at, arrays | {"near": self.near, "weighted": self.weighted})

    @classmethod
    def load(cls, folder: Path) -> Self:
        params, cut_at, arrays = load_model(folder, cls.name)
        model = cls(**params)
        users, items = KeyIndex(arrays["user_keys"]), KeyIndex(arrays["item_keys"])
        model._set(cut_at, users, items, arrays["near"], arrays["weighted"])
        return model


def strongest(matrix: sp.csr_matrix, n: int) -> sp.csr_matrix:
    """The `n` largest positive entries of each row, the others dropped."""
    columns, values = best_of_sparse(matrix, n)
    rows, place = np.nonzero(columns >= 0)
    kept = sp.csr_matrix((values[rows, place], (rows, columns[rows, place].astype(np.int32))), shape=matrix.shape)
    kept.sort_indices()
    return kept


def entries(matrix: sp.csr_matrix, rows: Positions, columns: Positions) -> Scores:
    """Entries of a CSR matrix at `rows` (n,) and `columns` (n, k), 0 where none is stored: float32 (n, k)."""
    matrix = matrix.tocsr()
    matrix.sort_indices()
    at = positions(pairs_of(rows_of(matrix), matrix.indices), pairs_of(rows[:, None], columns))
    found: Scores = np.append(matrix.data, 0.0).astype(np.float32)[at]
    return found
