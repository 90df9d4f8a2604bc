"""Connections that are held for one kind of work: statements stay prepared, and nothing is reset between two uses.

asyncpg's own pool takes three times as long for a request of one row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement


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

    async def fetchrow(self, sql: str, arguments: tuple[Any, ...], timeout_s: float) -> asyncpg.Record | None:
        """The first row of a query; TimeoutError when a connection and the row take longer than `timeout_s`.

        A connection on which anything went wrong is not used again.
        """
        async with asyncio.timeout(timeout_s), self._slots:
            self.n_in_use += 1
            try:
                return await self._fetchrow(sql, arguments)
            finally:
                self.n_in_use -= 1

    async def _fetchrow(self, sql: str, arguments: tuple[Any, ...]) -> asyncpg.Record | None:
        connection, statements = await self._take()
        try:
            statement = statements.get(sql)
            if statement is None:
                statement = statements[sql] = await connection.prepare(sql)
            row = await statement.fetchrow(*arguments)
        except BaseException:
            connection.terminate()
            raise
        self._idle.append((connection, statements))
        return row

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
