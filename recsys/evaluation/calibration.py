"""Whether probabilities come true: reliability and the expected calibration error, and two corrections of the odds.

Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", 2017. Bins hold equally many pairs (Nguyen &
O'Connor 2015), since nearly all probabilities of a purchase are near 0 and bins of equal width would be one bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.metrics import Values

N_BINS = 15
ALL = "all"
POOLED = "all cuts"
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reliability:
    """The bins of a reliability diagram, by ascending probability; all (n_bins,)."""

    predicted: Values  # mean probability
    observed: Values  # share that came true
    n: NDArray[np.int64]  # pairs

    @property
    def error(self) -> float:
        """Expected calibration error: Σ n_b / n · |observed_b - predicted_b|; NaN without a pair.

        What a bin has by chance counts, too: a perfect forecast has about √(p / n_b) in a bin, not 0.
        """
        total = self.n.sum()
        return float((self.n * np.abs(self.observed - self.predicted)).sum() / total) if total else float("nan")


def reliability(probability: NDArray[Any], came_true: Mask, n_bins: int = N_BINS) -> Reliability:
    """Bins of about equally many pairs; equal probabilities (n,) share a bin, so there may be fewer than `n_bins`."""
    if not len(probability):
        return Reliability(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))
    p = probability.astype(np.float64)
    _, value, times = np.unique(p, return_inverse=True, return_counts=True)
    middle = np.cumsum(times) - times / 2  # of each distinct value among all, in order
    place = (middle * n_bins / len(p)).astype(np.int64)[value]
    n = np.bincount(place)
    kept = n > 0
    predicted, observed = (np.bincount(place, one)[kept] / n[kept] for one in (p, came_true.astype(np.float64)))
    return Reliability(predicted, observed, n[kept])


def sigmoid(logit: NDArray[Any]) -> Values:
    """1 / (1 + e^-logit), in float64."""
    value: Values = 1 / (1 + np.exp(-np.clip(logit.astype(np.float64), -500, 500)))
    return value


def all_negatives(logit: NDArray[Any], rate: NDArray[Any]) -> Values:
    """Logits as they are when no negative is left out, of a model that learned from the share `rate` in (0, 1] of them.

    A negative that is kept with `rate` makes the learned odds 1 / rate times as high: logit + ln(rate). King & Zeng,
    "Logistic regression in rare events data", 2001, section 4.1; as used for clicks on ads at Facebook, ADKDD 2014.
    """
    corrected: Values = logit.astype(np.float64) + np.log(rate)
    return corrected


def with_prior(logit: NDArray[Any], prior: float, before: float = 0.5) -> Values:
    """Logits for another prior probability than the one that they were learned with (Elkan 2001, theorem 2)."""
    odds = np.log(prior) - np.log1p(-prior) - (np.log(before) - np.log1p(-before))
    changed: Values = logit.astype(np.float64) + odds
    return changed


@dataclass(frozen=True)
class Predicted:
    """The probabilities that a system gave at one cut, pair by pair, and what came true."""

    task: str
    cut: str
    system: str
    probability: NDArray[np.float32]  # (n,)
    came_true: Mask  # (n,)
    user: NDArray[np.int32]  # (n,), positions in the masks of `segments`
    segments: dict[str, Mask] = field(default_factory=dict)  # name → mask over users


def rows_of(predicted: Sequence[Predicted]) -> list[dict[str, Any]]:
    """For each task, system and segment the pairs of all cuts together: users (a user counts once for each cut), pairs,
    mean probability, share that came true, and the error."""
    rows = []
    for (task, system, segment), parts in _groups(predicted).items():
        bins = _bins(parts)
        n = bins.n.sum()
        rows.append(
            {
                "task": task,
                "cut": POOLED,
                "segment": segment,
                "system": system,
                "users": sum(len(np.unique(one.user[mask])) for one, mask in parts),
                "pairs": int(n),
                "predicted": float((bins.predicted * bins.n).sum() / n),
                "observed": float((bins.observed * bins.n).sum() / n),
                "ece": bins.error,
            }
        )
    return rows


def curves(predicted: Sequence[Predicted]) -> dict[str, dict[str, Reliability]]:
    """Task → system and segment → bins, for `plots.reliability_diagram`."""
    found: dict[str, dict[str, Reliability]] = {}
    for (task, system, segment), parts in _groups(predicted).items():
        found.setdefault(task, {})[f"{system}, {segment}"] = _bins(parts)
    return found


def _groups(predicted: Sequence[Predicted]) -> dict[tuple[str, str, str], list[tuple[Predicted, Mask]]]:
    """By task, system and segment: which pairs of which part; those without a pair are left out."""
    groups: dict[tuple[str, str, str], list[tuple[Predicted, Mask]]] = {}
    for one in predicted:
        everyone = np.ones(len(one.user), dtype=bool)
        for segment, mask in {ALL: everyone, **{name: users[one.user] for name, users in one.segments.items()}}.items():
            if mask.any():
                groups.setdefault((one.task, one.system, segment), []).append((one, mask))
    return groups


def _bins(parts: Sequence[tuple[Predicted, Mask]]) -> Reliability:
    return reliability(
        np.concatenate([one.probability[mask] for one, mask in parts]),
        np.concatenate([one.came_true[mask] for one, mask in parts]),
    )
