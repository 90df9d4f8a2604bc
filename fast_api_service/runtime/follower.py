"""Polls something in Postgres; followers are independent of each other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fast_api_service.postgres.away import DatabaseAwayError
from recsys.errors import InputError

log = logging.getLogger(__name__)
_DEBOUNCE_S = 0.05  # several notifications may be of the same change


class Follower:
    """Polls every `every_s` seconds, and at once when woken by a notification."""

    def __init__(self, what: str, look: Callable[[], Awaitable[str]], every_s: float) -> None:
        """`look` returns a problem, or an empty string; its errors are logged, and it is retried at the next poll."""
        self._what, self._look, self._every_s = what, look, every_s
        self._wake = asyncio.Event()
        self.problem = "starting: nothing is loaded yet"

    def wake(self) -> None:
        """Poll now."""
        self._wake.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                self._report(await self._look())
            except (DatabaseAwayError, InputError) as error:
                self._report(str(error))
            except Exception:  # the data in memory stay in service
                log.exception("the %s could not be read", self._what)
                self.problem = f"the {self._what} could not be read; the log of the service has the reason"
            try:
                await asyncio.wait_for(self._wake.wait(), self._every_s)
            except TimeoutError:
                continue
            self._wake.clear()
            await asyncio.sleep(_DEBOUNCE_S)

    def _report(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem
