"""A look at something in Postgres, again and again; what one of them waits for holds up no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fast_api_service.postgres.away import DatabaseAwayError
from recsys.errors import InputError

log = logging.getLogger(__name__)
_TOGETHER_S = 0.05  # many requests may see the same change


class Follower:
    """Looks every `every_s` seconds, and at once when somebody has heard of a change."""

    def __init__(self, what: str, look: Callable[[], Awaitable[str]], every_s: float) -> None:
        """`look` gives a problem in words, or nothing; what it raises is told, and the next look may go better."""
        self._what, self._look, self._every_s = what, look, every_s
        self._wake = asyncio.Event()
        self.problem = "starting: nothing is loaded yet"

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                self._tell(await self._look())
            except (DatabaseAwayError, InputError) as error:
                self._tell(str(error))
            except Exception:  # whatever it is, what was read before serves on
                log.exception("the %s could not be read", self._what)
                self.problem = f"the {self._what} could not be read; the log of the service has the reason"
            try:
                await asyncio.wait_for(self._wake.wait(), self._every_s)
            except TimeoutError:
                continue
            self._wake.clear()
            await asyncio.sleep(_TOGETHER_S)

    def _tell(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem
