"""Area under the ROC curve and log loss of yes-or-no predictions, with intervals over users."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.metrics import Values

Mask = NDArray[np.bool_]


def auc(score: NDArray[Any], came_true: Mask) -> float:
    """How often a positive scores above a negative, a tie counting half; both (n,). NaN without one of either."""
    _, place = np.unique(score, return_inverse=True)
    return _auc(place, came_true, np.ones(len(place)))


def auc_draws(
    score: NDArray[Any], came_true: Mask, user: NDArray[np.integer], *, seed: int, n_resamples: int = 500
) -> Values:
    """AUC of resamples that draw users with all of their rows, (n_resamples,); all arguments (n,).

    Calls with the same users and seed draw the same, so that differences of two results are paired.
    """
    _, place = np.unique(score, return_inverse=True)
    _, owner = np.unique(user, return_inverse=True)
    n_users, rng = int(owner.max()) + 1, np.random.default_rng(seed)
    times = (np.bincount(rng.integers(0, n_users, n_users), minlength=n_users) for _ in range(n_resamples))
    return np.array([_auc(place, came_true, drawn[owner].astype(np.float64)) for drawn in times])


def log_loss(logit: NDArray[Any], came_true: Mask) -> Values:
    """-ln of the probability of what came, of each row, in nats, (n,)."""
    value: Values = np.logaddexp(0, np.where(came_true, -1, 1) * logit.astype(np.float64))
    return value


def _auc(place: NDArray[np.integer], came_true: Mask, weight: Values) -> float:
    """`place` (n,): that of the row's score among the distinct ones, ascending."""
    n = int(place.max(initial=0)) + 1
    positive, negative = (np.bincount(place, weight * one, minlength=n) for one in (came_true, ~came_true))
    below = np.cumsum(negative) - negative / 2
    total = positive.sum() * negative.sum()
    return float(positive @ below / total) if total else float("nan")
