"""A model against a reference over the same users: the relative difference, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.evaluation.bootstrap import relative, relative_interval
from recsys.evaluation.metrics import Values
from recsys.types import Keys

LEVEL = 0.9  # of the intervals, two-sided: each end alone holds with 95 %, and verdicts look at one end
MOST = 1_000_000  # users: more are needed than anybody asks for


@dataclass(frozen=True)
class PerUser:
    """A metric of distinct users, in the order of their keys."""

    user_key: Keys  # (n,), ascending
    values: Values  # (n,)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Comparison:
    """Means of both, and the relative difference with its interval: -0.1 is 10 % less than the reference."""

    n_users: int
    challenger: float
    reference: float
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{percent(self.difference)}, {LEVEL:.0%} interval {percent(self.low)} to {percent(self.high)}"

    def n_needed(self, bound: float) -> int:
        """About how many users it takes until the interval leaves -`bound` out, at most MOST.

        The difference stays as it was measured, but for a gain, which counts as none; the width of the interval
        falls with the root of the number of users.
        """
        if self.low == self.high:  # both may be infinite
            return self.n_users
        assumed = min(self.difference, 0.0)
        width = self.difference - self.low if assumed > -bound else self.high - self.difference
        apart = abs(assumed + bound)
        times = min(width / apart, MOST) if apart > 0 else MOST  # the interval is too wide so many times
        return min(MOST, math.ceil(self.n_users * times**2))


def percent(difference: float) -> str:
    """A relative difference for people."""
    return f"{difference:+.1%}" if difference < 10 else "over +1000%"


def compare(challenger: Values, reference: Values, *, seed: int) -> Comparison:
    """Compare the values (n,), n ≥ 1, of the same users."""
    means = np.array([challenger.mean()]), np.array([reference.mean()])
    low, high = relative_interval(challenger, reference, seed=seed, level=LEVEL)
    difference = float(relative(*means)[0])
    return Comparison(len(challenger), float(means[0][0]), float(means[1][0]), difference, low, high)


def mean_by_user(parts: Sequence[PerUser]) -> PerUser:
    """The users of several windows, each once with the mean over their windows: they are drawn whole."""
    users = np.concatenate([part.user_key for part in parts])
    distinct, place = np.unique(users, return_inverse=True)
    total = np.bincount(place, np.concatenate([part.values for part in parts]), minlength=len(distinct))
    return PerUser(distinct, total / np.bincount(place, minlength=len(distinct)))
