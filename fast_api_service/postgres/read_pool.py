"""A pool of read connections for one kind of work: statements stay prepared, and sessions are not reset between uses.

asyncpg's own pool takes three times as long for a request of one row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

STALL_S: Final = 0.03  # a timer that fires so much too late means that the event loop was blocked
_MAX_STALLS: Final = 10  # after so many the timeout applies anyway
FAILURES_TO_OPEN: Final = 3  # in a row
REST_S: Final = 0.5
MAX_STATEMENTS: Final = 16  # per connection; each publication has its own
_PREPARE_S: Final = 5.0


class NoneFreeError(TimeoutError):
    """No connection became free in time: the pool is exhausted, while Postgres may be fine."""


class ReadPool:
    """At most `size` connections, opened on demand, the most recently used first."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], size: int) -> None:
        self._connect = connect
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[asyncpg.Connection, dict[str, PreparedStatement]]] = []
        self.n_in_use = 0

    @property
    def n_idle(self) -> int:
        return len(self._idle)

    async def fetch(self, sql: str, arguments: tuple[Any, ...], limit_s: float) -> list[asyncpg.Record]:
        """All rows of a query; TimeoutError when connecting and reading take longer than `limit_s`, NoneFreeError when
        no connection is free after as long.

        A connection is closed after any error.
        """
        await self._slot(limit_s)
        self.n_in_use += 1
        try:
            async with Limit(limit_s) as limit:
                limit.connection, statements = connection, _ = await self._take()
                try:
                    statement = statements.get(sql) or await _prepare(connection, statements, sql)
                    rows: list[asyncpg.Record] = await statement.fetch(*arguments)
                except BaseException:
                    connection.terminate()
                    raise
            self._idle.append((connection, statements))
            return rows
        finally:
            self.n_in_use -= 1
            self._slots.release()

    async def _slot(self, wait_s: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # does not wait
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._slots.acquire()
        except TimeoutError:
            raise NoneFreeError("all connections are in use") from None

    async def prepare(self, sql: str, arguments: tuple[Any, ...], at_least: int = 0) -> None:
        """Prepare a statement on all idle connections, and on new ones up to `at_least` in total, and run it once on
        each, so that the next requests are fast."""
        n_idle = len(self._idle)
        for place in range(max(n_idle, at_least)):
            async with self._slots:
                async with Limit(_PREPARE_S) as limit:
                    if place < n_idle and self._idle:
                        connection, statements = self._idle.pop(0)
                    elif self.n_idle + self.n_in_use < at_least:
                        connection, statements = await self._connect(), {}
                    else:
                        return
                    limit.connection = connection
                    try:
                        if sql not in statements:
                            # Also run it: asyncpg leaves a prepared statement in a transaction that holds the locks
                            # of its tables until the next query: no import could replace them.
                            await (await _prepare(connection, statements, sql)).fetch(*arguments)
                    except BaseException:
                        connection.terminate()
                        raise
                self._idle.append((connection, statements))

    async def close(self) -> None:
        """Close the idle connections; those in use end with their queries."""
        while self._idle:
            self._idle.pop()[0].terminate()

    async def _take(self) -> tuple[asyncpg.Connection, dict[str, PreparedStatement]]:
        while self._idle:
            connection, statements = self._idle.pop()
            if not connection.is_closed():
                return connection, statements
        return await self._connect(), {}


async def _prepare(
    connection: asyncpg.Connection, statements: dict[str, PreparedStatement], sql: str
) -> PreparedStatement:
    """Prepare a statement and cache it, evicting the oldest beyond MAX_STATEMENTS."""
    if len(statements) >= MAX_STATEMENTS:
        del statements[next(iter(statements))]
    statement = statements[sql] = await connection.prepare(sql)
    return statement


class Limit:
    """`async with Limit(seconds) as limit`: TimeoutError when the block takes longer.

    `limit.connection`, once set, is terminated then: to cancel a statement, asyncpg would open another connection and
    wait. If the event loop was blocked meanwhile, the response may be there unread, so the timer restarts.
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
        if now - self._timer.when() > STALL_S and self._n_stalls < _MAX_STALLS:
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
            if self._task.uncancel() > 0:  # cancelled by another caller, too
                return
            raise TimeoutError from None
        if isinstance(error, Exception):
            raise TimeoutError from None


class Breaker:
    """A circuit breaker: after consecutive failures no request is sent to Postgres for a while, then one is tried.

    Closed: all may try. Open: none, for REST_S. Half-open: one may, and its outcome decides."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._n_failures = 0
        self._resting_until = 0.0  # also set while half-open, so that only one request tries

    @property
    def is_open(self) -> bool:
        return self._n_failures >= FAILURES_TO_OPEN

    def allows(self) -> bool:
        """Whether to try now; the request that may after REST_S blocks the others for another REST_S."""
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
