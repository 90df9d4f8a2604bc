"""Connections that are held for one kind of work: statements stay prepared, and nothing is reset between two uses.

asyncpg's own pool takes three times as long for a request of one row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from fast_api_service.postgres.time_limit import Limit

MAX_STATEMENTS: Final = 16  # on a connection; each publication brings its own
_PREPARE_S: Final = 5.0


class NoneFreeError(TimeoutError):
    """No connection became free in time: our own work has them all, and Postgres may be well."""


class HeldConnections:
    """At most `size` connections, opened when they are needed, the last used one used first."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], size: int) -> None:
        self._connect = connect
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[asyncpg.Connection, dict[str, PreparedStatement]]] = []
        self.n_in_use = 0

    @property
    def n_idle(self) -> int:
        return len(self._idle)

    async def fetch(
        self, sql: str, arguments: tuple[Any, ...], limit_s: float, wait_s: float | None = None
    ) -> list[asyncpg.Record]:
        """All rows of a query; TimeoutError when Postgres takes longer than `limit_s` for a connection and the rows,
        NoneFreeError when none is free after `wait_s` (as long as the limit where it is not given).

        A connection on which anything went wrong is not used again.
        """
        await self._slot(limit_s if wait_s is None else wait_s)
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
            await self._slots.acquire()  # at once
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._slots.acquire()
        except TimeoutError:
            raise NoneFreeError("all connections are in use") from None

    async def prepare(self, sql: str, arguments: tuple[Any, ...], at_least: int = 0) -> None:
        """Prepare a statement on the connections that are idle now, and on new ones where there are not `at_least` so
        many, and run it once on each, so that the next requests find all of it ready."""
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
                            # It must run, too: asyncpg leaves what it has prepared in a transaction, which keeps the
                            # locks of its tables until the next query: no import could replace them.
                            await (await _prepare(connection, statements, sql)).fetch(*arguments)
                    except BaseException:
                        connection.terminate()
                        raise
                self._idle.append((connection, statements))

    async def close(self) -> None:
        """End the connections that are idle; those in use end with their queries."""
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
    """Prepare a statement and keep it; of many, the first that was prepared goes."""
    if len(statements) >= MAX_STATEMENTS:
        del statements[next(iter(statements))]
    statement = statements[sql] = await connection.prepare(sql)
    return statement
