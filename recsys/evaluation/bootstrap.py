"""Confidence intervals of means over users, by resampling users with replacement."""

from __future__ import annotations

from collections.abc import Sequence
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


def resampled_means(
    values: Sequence[Floats], users: Sequence[NDArray[np.integer]], *, seed: int, n_resamples: int = 1_000
) -> Floats:
    """Means of several cuts, averaged over the cuts, with users drawn whole: (n_resamples, n_metrics).

    `values`: of each cut (n_users, n_metrics), NaN left out; `users`: their keys, (n_users,). A user who is in several
    cuts is drawn with all rows, so that what the cuts have in common stays in the spread (the cluster bootstrap;
    Davison & Hinkley 1997, section 3.8). A cut of which nobody is drawn is left out of that average. Calls with the
    same users and seed draw the same, so that differences of two results are paired.
    """
    keys = np.unique(np.concatenate(users))
    row = [np.searchsorted(keys, one) for one in users]
    known = [~np.isnan(one) for one in values]
    filled = [np.where(is_known, one, 0.0) for one, is_known in zip(values, known, strict=True)]
    rng, step = np.random.default_rng(seed), max(_CELLS_AT_ONCE // len(keys), 1)
    found = []
    for start in range(0, n_resamples, step):
        n = min(step, n_resamples - start)
        drawn = rng.integers(0, len(keys), size=(n, len(keys))) + len(keys) * np.arange(n)[:, None]
        times = np.bincount(drawn.ravel(), minlength=n * len(keys)).reshape(n, -1).astype(np.float64)
        sums = np.stack([times[:, at] @ one for at, one in zip(row, filled, strict=True)])
        counts = np.stack([times[:, at] @ one.astype(np.float64) for at, one in zip(row, known, strict=True)])
        means = sums / np.maximum(counts, 1)
        n_cuts = (counts > 0).sum(axis=0)
        found.append(np.where(n_cuts > 0, means.sum(axis=0) / np.maximum(n_cuts, 1), np.nan))
    return np.concatenate(found)


def ends(means: Floats, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of resampled means (n_resamples,), NaN left out; NaN where there is none."""
    known = means[~np.isnan(means)]
    return _ends(known, level) if len(known) else (float("nan"), float("nan"))
