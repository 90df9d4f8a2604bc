"""Matrix factorisation for implicit feedback: Hu, Koren, Volinsky, "Collaborative Filtering for Implicit
Feedback Datasets" (2008), solved by conjugate gradients (Takács, Pilászy, Tikk 2011), as `implicit` does it."""

from __future__ import annotations

import logging
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from recsys import log
from recsys.candidates.base import (
    Best,
    best_products,
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
from recsys.errors import ModelError
from recsys.keys import KeyIndex, Positions
from recsys.parameters import Count, Finite, NotNegative, Positive, Seed, Share, Whole
from recsys.types import Candidates, Catalogue, Interactions, Keys, Scores

logger = logging.getLogger(__name__)

# What was in the training beside the factors; with it the service solves for users who came later
WEIGHTING = ("trend", "rarity", "mean_user_weight", "mean_weight")  # (n_items,), (n_items,), (1,), (1,)


@dataclass
class Als:
    """Users and items as vectors of `factors` numbers; a score is their product.

    The confidence of a user in an item is `alpha` times the sum of decayed event weights, BM25-weighted unless
    `bm25_k1` is 0 (users and items that are busy anyway count less). `similar` compares item vectors by cosine.
    """

    factors: Count = 64
    regularization: Positive = 0.05
    alpha: Positive = 1.0
    iterations: Count = 15
    half_life_days: Positive = 90.0
    history_half_life_sessions: Positive = 2.0
    bm25_k1: NotNegative = 10.0
    bm25_b: Share = 0.4
    trend: Finite = 1.0
    trend_half_life_days: Positive = 20.0
    seed: Seed = 42
    num_threads: Whole = 0  # 0: all cores
    name: ClassVar[str] = "als"

    def confidence(self, matrix: sp.csr_matrix, rarity: Scores, mean_user_weight: float) -> sp.csr_matrix:
        """Confidences, float32, from decayed weights over the mean event's, both CSR (n_users, n_items): BM25 with
        users as documents and items as terms. `rarity` (n_items,), `mean_user_weight`: the sum of a mean user."""
        weights = matrix.data
        if self.bm25_k1 > 0:
            of_user = np.asarray(matrix.sum(axis=1)).ravel()
            length = 1.0 - self.bm25_b + self.bm25_b * of_user / mean_user_weight
            saturation = np.repeat(self.bm25_k1 * length, np.diff(matrix.indptr))
            weights = weights * (self.bm25_k1 + 1.0) / (saturation + weights) * rarity[matrix.indices]
        return sp.csr_matrix((self.alpha * weights.astype(np.float32), matrix.indices, matrix.indptr), matrix.shape)

    def fit(self, interactions: Interactions, catalogue: Catalogue) -> Self:
        from implicit.recommender_base import ModelFitError

        history = usable_history(interactions, catalogue)
        users, items = KeyIndex.of(history.user_key), KeyIndex.of(history.item_key)
        mean = mean_weight(history)
        weights = user_item_matrix(history, decayed_weight(history, self.half_life_days) / mean, users, items)
        mean_of_user = float(weights.sum(dtype=np.float64)) / len(users)
        self.weighting = {
            "trend": item_trend(history, items, self.trend_half_life_days, self.trend),
            "rarity": _rarity(weights),
            "mean_user_weight": np.array([mean_of_user]),
            "mean_weight": np.array([mean]),
        }
        matrix = self.confidence(weights, self.weighting["rarity"], mean_of_user)
        with threadpool_limits(1, "blas"):  # implicit brings its own threads
            model = self._unfitted()
            pace = log.Pace()

            def log_iteration(iteration: int, *_: float) -> None:
                if pace.is_due():
                    logger.info("als: iteration %d of %d", iteration + 1, self.iterations)

            try:
                model.fit(matrix, show_progress=False, callback=log_iteration)
            except ModelFitError as error:
                raise ModelError(f"als: {error}; check the event weights, or raise the regularization") from error
        item_factors = model.item_factors * self.weighting["trend"][:, None]
        require_finite(self.name, user_factors=model.user_factors, item_factors=item_factors)
        user_factors = self._user_factors(history, users, items, item_factors)
        self._set(interactions.cut_at, users, items, user_factors, item_factors, catalogue.offers(items.keys))
        return self

    def _unfitted(self) -> Any:
        from implicit.cpu.als import AlternatingLeastSquares

        return AlternatingLeastSquares(
            factors=self.factors,
            regularization=self.regularization,
            iterations=self.iterations,
            random_state=self.seed,
            num_threads=self.num_threads,
        )

    def _user_factors(self, history: Interactions, users: KeyIndex, items: KeyIndex, item_factors: Scores) -> Scores:
        """Users' vectors (n_users, factors) for what their events say of now, the items' being given."""
        mean = float(self.weighting["mean_weight"][0])
        weight = current_weight(history, self.half_life_days, self.history_half_life_sessions) / mean
        weights = user_item_matrix(history, weight, users, items)
        matrix = self.confidence(weights, self.weighting["rarity"], float(self.weighting["mean_user_weight"][0]))
        model = self._unfitted()
        model.item_factors = item_factors / self.weighting["trend"][:, None]
        with threadpool_limits(1, "blas"):
            user_factors: Scores = model.recalculate_user(np.arange(len(users)), matrix)
        return user_factors

    def with_histories(self, interactions: Interactions) -> Self:
        """As the protocol says."""
        model, history = copy(self), known_history(interactions, self.items)
        users = KeyIndex.of(history.user_key)
        user_factors = self._user_factors(history, users, self.items, self.item_factors)
        model._set(interactions.cut_at, users, self.items, user_factors, self.item_factors, self.available)
        return model

    def _set(
        self, cut_at: int, users: KeyIndex, items: KeyIndex, user_factors: Scores, item_factors: Scores, available: Any
    ) -> None:
        self.cut_at, self.users, self.items, self.available = cut_at, users, items, available
        self.user_factors, self.item_factors = user_factors, item_factors
        self.offered = KeyIndex(items.keys[available])  # what may be proposed, and its vectors
        self.offered_factors = np.ascontiguousarray(item_factors[available])

    def candidates(self, user_keys: Keys, n: int, *, seen: Any | None = None) -> Candidates:
        """As the protocol says; users are scored in parallel by implicit's own top-k."""
        at = self.users.positions(user_keys)
        mask = seen_positions(seen, self.offered, len(user_keys))

        def best(rows: Positions) -> Best:
            return self._nearest(self.user_factors[at[rows]], n, None if mask is None else mask[rows])

        return ranked(user_keys, n, at >= 0, self.offered, best, rows_per_chunk=16_384)

    def similar(self, item_keys: Keys, n: int) -> Candidates:
        """The best `n` available neighbours of each item by cosine of the item vectors, itself excluded."""
        at = self.items.positions(item_keys)
        itself = self.offered.positions(item_keys)
        unit = _unit(self.item_factors)
        unit_offered = np.ascontiguousarray(unit[self.available])

        def best(rows: Positions) -> Best:
            own = itself[rows]
            there = np.flatnonzero(own >= 0)
            ones = np.ones(len(there), dtype=np.float32)
            mask = sp.csr_matrix((ones, (there, own[there])), shape=(len(rows), len(self.offered)))
            return self._nearest(unit[at[rows]], n, mask, unit_offered)

        return ranked(item_keys, n, at >= 0, self.offered, best, rows_per_chunk=16_384)

    def nearness_between(self, own: Positions, others: Positions) -> Scores:
        """As `KnowsItems` says: cosines of the item vectors."""
        near: Scores = _unit(self.item_factors[own]) @ _unit(self.item_factors[others]).T
        return near

    def _nearest(self, query: Scores, n: int, mask: sp.csr_matrix | None, factors: Scores | None = None) -> Best:
        """The best `n` products of each query (rows, factors) with the offered vectors, less the masked."""
        return best_products(
            query, self.offered_factors if factors is None else factors, n, mask, threads=self.num_threads
        )

    def scores(self, user_keys: Keys, item_keys: Keys) -> Scores:
        """Products of the vectors of each user and its items: (n,) and (n, k) → (n, k)."""

        def score(users: Positions, items: Positions) -> Scores:
            return np.einsum("uf,ukf->uk", self.user_factors[users], self.item_factors[items], optimize=True)

        return scored(user_keys, item_keys, self.users, self.items, score)

    def save(self, folder: Path) -> None:
        arrays = {
            "user_keys": self.users.keys,
            "item_keys": self.items.keys,
            "user_factors": self.user_factors,
            "item_factors": self.item_factors,
            "available": self.available,
            **self.weighting,
        }
        save_model(folder, self, self.cut_at, arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        params, cut_at, arrays = load_model(folder, cls.name)
        model = cls(**params)
        model._set(
            cut_at,
            KeyIndex(arrays["user_keys"]),
            KeyIndex(arrays["item_keys"]),
            arrays["user_factors"],
            arrays["item_factors"],
            arrays["available"],
        )
        model.weighting = {name: arrays[name] for name in WEIGHTING if name in arrays}
        return model


def _rarity(matrix: sp.csr_matrix) -> Scores:
    """log(1 + users / users of the item), float64 (n_items,), of a matrix (n_users, n_items)."""
    n_users_of_item = np.bincount(matrix.indices, minlength=matrix.shape[1])
    rarity: Scores = np.log1p(matrix.shape[0] / np.maximum(n_users_of_item, 1))
    return rarity


def _unit(vectors: Scores) -> Scores:
    """Vectors (n, factors) scaled to length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Scores = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
