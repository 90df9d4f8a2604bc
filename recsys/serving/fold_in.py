"""Folds new users in: the vector of a user whom the nightly ALS does not have, from their events and the item vectors.

Hu, Koren & Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, equation 4:

    x = (YᵀY + Yᵀ(C - I)Y + λI)⁻¹ Yᵀ C p

with Y the item vectors, p = 1 for the items of their events and 0 for all others, and C their confidence in
them, which is 1 for all others; YᵀY + λI is the same for all users. Confidences are weighted as in training
(recsys.candidates.als): BM25 with the statistics of the training. It is the equation of `implicit`'s
`recalculate_user`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.errors import ArtifactError
from recsys.serving.item_factors import ItemFactors

log = logging.getLogger(__name__)

LEAST_ITEMS: Final = 3  # distinct items with a vector that a user needs
N_BEST: Final = 100
MOST_SCORED: Final = 1 << 16  # the longest vectors; in a larger catalogue the others are rarely among the best
_BLOCK: Final = 1 << 13  # items scored at a time
_NEVER: Final = np.float32(-np.inf)


class FoldIn:
    """Solves and scores for one user at a time, in one or two milliseconds, on the event loop."""

    def __init__(
        self,
        factors: ItemFactors,
        trend: NDArray[np.floating],
        rarity: NDArray[np.floating],
        mean_user_weight: float,
        mean_weight: float,
        params: Mapping[str, Any],
        least_items: int = LEAST_ITEMS,
    ) -> None:
        """`trend` and `rarity` (n_items,) in the item order of the arguments of `factors`; `mean_weight` of an event,
        by which weights are divided, and `mean_user_weight` of a user, the sum of divided ones; `params`: of the ALS.

        The vectors of `factors` include the trend; the equation uses them without it.
        """
        self.factors, self.least_items = factors, least_items
        self.half_life_days = float(params["half_life_days"])
        self._trend = trend[factors.order].astype(np.float32)
        self._rarity = rarity[factors.order].astype(np.float32)
        self._mean_user_weight, self._mean_weight = mean_user_weight, mean_weight
        self._alpha = float(params["alpha"])
        self._k1, self._b = float(params["bm25_k1"]), float(params["bm25_b"])
        self._gram = self._products()
        self._gram[np.diag_indices_from(self._gram)] += float(params["regularization"])
        np.linalg.cholesky(self._gram)  # LinAlgError unless the solution is unique for every user

    def recommend(
        self, weights: Mapping[int, float], available_by_key: Callable[[], NDArray[np.bool_]], n: int = N_BEST
    ) -> tuple[list[int], list[float]]:
        """The best `n` available items, best first, and their scores, all positive; without the user's own items.

        `weights`: item key → its decayed weight (> 0) in the user's events. `available_by_key`: returns the mask of
        available items by key. Empty where fewer than `least_items` of the items have a vector.
        """
        rows = self.factors.rows_of(np.fromiter(weights, np.int64, len(weights)))
        has = rows >= 0
        if np.count_nonzero(has) < self.least_items:
            return [], []
        rows = rows[has]
        user = self.user_factors(rows, np.fromiter(weights.values(), np.float64, len(weights))[has])
        best, scores = self._best(user, rows, available_by_key(), n)
        return self.factors.keys[best].tolist(), scores.tolist()

    def user_factors(self, rows: NDArray[np.int32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The user's vector (n_factors,) by equation 4. `rows` of distinct items, their decayed `weights` (n,)."""
        confidence = self._confidence(rows, weights)
        vectors = self._untrended(rows)
        left = self._gram + vectors.T @ ((confidence - 1)[:, None] * vectors)
        return np.asarray(np.linalg.solve(left, confidence @ vectors), dtype=np.float64)

    def _confidence(self, rows: NDArray[np.int32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        weights = weights / self._mean_weight
        if self._k1 > 0:
            length = 1 - self._b + self._b * weights.sum() / self._mean_user_weight
            rarity = self._rarity[rows].astype(np.float64)
            return self._alpha * weights * (self._k1 + 1) / (self._k1 * length + weights) * rarity
        return self._alpha * weights

    def _untrended(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        vectors: NDArray[np.float64] = self.factors.vectors[rows] / self._trend[rows, None].astype(np.float64)
        return vectors

    def _products(self) -> NDArray[np.float64]:
        """YᵀY."""
        n_items, n_factors = self.factors.vectors.shape
        gram = np.zeros((n_factors, n_factors))
        for start in range(0, n_items, _BLOCK):  # float64, by blocks to bound the memory
            vectors = self._untrended(np.arange(start, min(start + _BLOCK, n_items)))
            gram += vectors.T @ vectors
        return gram

    def _best(
        self, user: NDArray[np.float64], own: NDArray[np.int32], available: NDArray[np.bool_], n: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and scores of the best. By blocks, the longest vectors first: a product is at most that of the two
        lengths (Cauchy-Schwarz), so the search ends when no later vector can be among the best."""
        factors, query = self.factors, user.astype(np.float32)
        reach = float(np.linalg.norm(query))
        n_scored = min(len(factors.keys), MOST_SCORED)
        best, scores = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        for start in range(0, n_scored, _BLOCK):
            if len(best) == n and reach * factors.lengths[start] <= scores.min():
                break
            block = slice(start, min(start + _BLOCK, n_scored))
            found = factors.vectors[block] @ query
            found[~_at(available, factors.keys[block])] = _NEVER
            found[own[(own >= start) & (own < block.stop)] - start] = _NEVER
            above = np.flatnonzero(found > (scores.min() if len(best) == n else 0))
            best, scores = np.concatenate((best, above + start)), np.concatenate((scores, found[above]))
            if len(best) > n:
                kept = np.argpartition(-scores, n - 1)[:n]
                best, scores = best[kept], scores[kept]
        order = np.lexsort((factors.keys[best], -scores))
        return best[order], scores[order]


def read(folder: Path) -> tuple[ItemFactors, FoldIn | None]:
    """The factors of an ALS artifact's folder; no FoldIn where the model lacks its arrays, which is logged.

    Raises ArtifactError where the factors cannot be read.
    """
    try:
        with np.load(folder / "model.npz", allow_pickle=False) as arrays:
            factors = ItemFactors(arrays["item_keys"], arrays["item_factors"])
            if "mean_weight" not in arrays:
                log.warning("%s is older than the fold-in of new users; train als again", folder.name)
                return factors, None
            params = json.loads((folder / "model.json").read_text())["params"]
            mean_user_weight, mean_weight = (float(arrays[name][0]) for name in ("mean_user_weight", "mean_weight"))
            weighting = arrays["trend"], arrays["rarity"], mean_user_weight, mean_weight
            try:
                return factors, FoldIn(factors, *weighting, params)
            except np.linalg.LinAlgError as error:
                log.warning("%s: no new user can be folded in: %s; raise the regularization", folder.name, error)
                return factors, None
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"no item factors can be read from {folder}: {error}; train als again") from error


def _at(available: NDArray[np.bool_], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mask of the available keys; those beyond the array are not available."""
    inside = keys < len(available)
    if inside.all():
        return available[keys]
    found = np.zeros(len(keys), dtype=bool)
    found[inside] = available[keys[inside]]
    return found
