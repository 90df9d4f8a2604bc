"""Confidence intervals of means over users, by resampling users with replacement."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

_CELLS_AT_ONCE = 4_000_000

Floats = NDArray[np.float64]


def interval(values: Floats, *, seed: int, level: float = 0.95, n_resamples: int = 1_000) -> tuple[float, float]:
    """Percentile interval of the mean of `values` (n_users,), NaN left out (Efron & Tibshirani 1993, chapter 13).

    For the difference of two systems pass the per-user differences: the users are then paired. Both ends are
    NaN when there is no value.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    return _ends(_means(known[:, None], seed, n_resamples)[:, 0], level)


def relative_interval(
    values: Floats, reference: Floats, *, seed: int, level: float, n_resamples: int = 1_000
) -> tuple[float, float]:
    """Percentile interval of mean(values) / mean(reference) - 1, both (n_users,) of the same users: 0.1 is 10 % more.

    Users are drawn with both of their values. Both ends are NaN when there is no user.
    """
    if not len(values):
        return float("nan"), float("nan")
    means = _means(np.stack([values, reference], axis=1), seed, n_resamples)
    return _ends(relative(means[:, 0], means[:, 1]), level, "inverted_cdf")  # no mean of infinity and another


def relative(value: Floats, reference: Floats) -> Floats:
    """value / reference - 1; of a reference of 0, anything is infinitely more, and 0 is equal."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio: Floats = np.where(reference > 0, value / reference - 1, np.where(value > 0, np.inf, 0.0))
    return ratio


def _means(values: Floats, seed: int, n_resamples: int) -> Floats:
    """Means of the rows of `values` (n, m) drawn with replacement, (n_resamples, m)."""
    rng = np.random.default_rng(seed)
    step = max(_CELLS_AT_ONCE // values.size, 1)
    return np.concatenate(
        [
            values[rng.integers(0, len(values), size=(min(step, n_resamples - start), len(values)))].mean(axis=1)
            for start in range(0, n_resamples, step)
        ]
    )


def _ends(means: Floats, level: float, method: Literal["linear", "inverted_cdf"] = "linear") -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], method=method)
    return float(low), float(high)
