"""Runs a process step by step: one active process of a kind, retrying while Postgres or Kafka are away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable

import asyncpg

from recsys.events.connections import Connections
from recsys.events.log import LogAwayError

log = logging.getLogger(__name__)
_IDLE_S = 0.2
_AWAY_S = 1.0


async def run_steps(step: Callable[[], Awaitable[int]], connections: Connections, lock: int, *, once: bool) -> int:
    """Run steps until SIGTERM or SIGINT, or with `once` until a step returns 0; the sum of what they returned.

    `lock`: key of the advisory lock of the active process of the kind; the others wait for it. A step that raises
    LogAwayError is retried; other errors propagate.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    advisory, done, away = _AdvisoryLock(connections, lock), 0, False
    while not stop.is_set():
        try:
            n = await step() if await advisory.is_acquired() else -1
            away = False
        except LogAwayError as error:
            if not away:
                log.warning("%s; retrying", error)
            n, away = -1, True
        done += max(n, 0)
        if n == 0 and once:
            break
        if n <= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _AWAY_S if away else _IDLE_S)
    return done


class _AdvisoryLock:
    """A session-level advisory lock: it lasts as long as the connection."""

    def __init__(self, connections: Connections, lock: int) -> None:
        self._connections, self._lock = connections, lock
        self._holder: asyncpg.Connection | None = None

    async def is_acquired(self) -> bool:
        connection = await self._connections.connection()
        if connection is self._holder:
            return True
        try:
            if await connection.fetchval("select pg_try_advisory_lock($1)", self._lock):
                self._holder = connection
                return True
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise LogAwayError(f"Postgres is away: {error}") from error
        return False
