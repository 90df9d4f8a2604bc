"""The label windows that the ranker trains on, and the split of users into training, validation and held-out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.errors import TooFewLabelsError
from recsys.evaluation.protocol import Window, date, windows
from recsys.types import MICROSECONDS_PER_DAY, Interactions

HELD_OUT_SHARE = 0.1  # of the users: they never train the ranker, the gate compares models on them
VALIDATION_SHARE = 0.15  # of the users: they stop the training early and choose the loss
_MULTIPLIER, _MODULUS = 2_654_435_761, 2**32  # Knuth's multiplicative hash


def training_windows(interactions: Interactions, *, n: int, days: float) -> list[Window]:
    """The last `n` windows of `days`, oldest first, the last one ending at `interactions.cut_at`.

    Windows that begin before the first event are left out. Raises TooFewLabelsError when none is left: the data must
    span more than one window.
    """
    found = windows(interactions.cut_at, n=n, days=days)
    first_at = int(interactions.occurred_at[0]) if len(interactions) else interactions.cut_at
    usable = [window for window in found if window.cut_at > first_at]
    if not usable:
        span = (interactions.cut_at - first_at) / MICROSECONDS_PER_DAY
        raise TooFewLabelsError(
            f"the events span {span:.1f} days, from {date(first_at)} to {date(interactions.cut_at)}, less than one "
            f"label window of {days:g} days; load a longer history or shorten RECSYS_LABEL_WINDOW_DAYS"
        )
    return usable


def place_of_user(user_keys: NDArray[np.integer]) -> NDArray[np.float64]:
    """A hash of each user key in [0, 1), the same in every run, on every machine, for every window."""
    return (user_keys.astype(np.uint64) * _MULTIPLIER % _MODULUS).astype(np.float64) / _MODULUS


def is_held_out(user_keys: NDArray[np.integer], share: float = HELD_OUT_SHARE) -> NDArray[np.bool_]:
    """Mask of the held-out users, who never train a ranker, same shape as `user_keys`."""
    return place_of_user(user_keys) < share


def is_validation(user_keys: NDArray[np.integer], share: float = VALIDATION_SHARE) -> NDArray[np.bool_]:
    """Mask of the validation users, same shape as `user_keys`; disjoint from the held-out ones (share ≤ 0.9)."""
    return place_of_user(user_keys) >= 1 - share
