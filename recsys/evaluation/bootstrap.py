"""Confidence intervals of means over users, by resampling users with replacement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CELLS_AT_ONCE = 4_000_000


def interval(
    values: NDArray[np.float64], *, seed: int, level: float = 0.95, n_resamples: int = 1_000
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` (n_users,), NaN left out (Efron & Tibshirani 1993, chapter 13).

    For the difference of two systems pass the per-user differences: the users are then paired. Both ends are
    NaN when there is no value.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    step = max(_CELLS_AT_ONCE // len(known), 1)
    means = np.concatenate(
        [
            known[rng.integers(0, len(known), size=(min(step, n_resamples - start), len(known)))].mean(axis=1)
            for start in range(0, n_resamples, step)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
