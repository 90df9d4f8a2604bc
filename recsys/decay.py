"""How much less an event counts as it gets older."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def decay(age_days: Any, half_life_days: float) -> NDArray[np.float64]:
    """`2^(-age / half life)`, shape as `age_days`."""
    return np.exp2(-age_days / half_life_days)
