"""How long Postgres may take, by a clock that does not count the time for which our own event loop stood still."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

import asyncpg

STALL_S: Final = 0.03  # a timer that comes so much later than it should says that the loop stood still
_MOST_STALLS: Final = 10  # then the limit holds all the same


class Limit:
    """`async with Limit(seconds) as limit`: TimeoutError when the block takes longer.

    `limit.connection`, once it is known, is ended then: to cancel a statement asyncpg makes another connection, and
    waits. Where the loop stood still meanwhile, what came from Postgres is still to be read, so the time begins again.
    """

    __slots__ = ("_has_ended", "_loop", "_n_stalls", "_seconds", "_task", "_timer", "connection")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._n_stalls = 0
        self._has_ended = False
        self.connection: asyncpg.Connection | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(self._seconds, self._end)
        return self

    def _end(self) -> None:
        now = self._loop.time()
        if now - self._timer.when() > STALL_S and self._n_stalls < _MOST_STALLS:
            self._n_stalls += 1
            self._timer = self._loop.call_later(self._seconds, self._end)
            return
        self._has_ended = True
        if self.connection is not None:
            self.connection.terminate()
        elif self._task is not None:
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if not self._has_ended or kind is None:
            return
        if kind is asyncio.CancelledError and self.connection is None and self._task is not None:
            if self._task.uncancel() > 0:  # somebody else wants it to end, too
                return
            raise TimeoutError from None
        if isinstance(error, Exception):
            raise TimeoutError from None
