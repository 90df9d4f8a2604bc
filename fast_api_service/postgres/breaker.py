"""A circuit breaker: after failures in a row a source is left alone for a while, then tried by one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

FAILURES_TO_OPEN: Final = 3  # in a row
REST_S: Final = 0.5


class Breaker:
    """Closed: all may try. Open: nobody, for REST_S. Then one may, and what becomes of it decides."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._n_failures = 0
        self._resting_until = 0.0  # also while one is trying: nobody else does for so long

    @property
    def is_open(self) -> bool:
        return self._n_failures >= FAILURES_TO_OPEN

    def allows(self) -> bool:
        """Whether to try now; the one that may at the end of a rest holds the others off for another REST_S."""
        if self._n_failures < FAILURES_TO_OPEN:
            return True
        now = self._clock()
        if now < self._resting_until:
            return False
        self._resting_until = now + REST_S
        return True

    def succeeded(self) -> None:
        self._n_failures = 0

    def failed(self) -> None:
        self._n_failures += 1
        if self._n_failures >= FAILURES_TO_OPEN:
            self._resting_until = self._clock() + REST_S
