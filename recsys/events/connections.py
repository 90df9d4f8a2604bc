"""Postgres connections of the processes beside the service: relay, sink, archive and other readers of the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from recsys.dsn import postgres_url
from recsys.events.log import START, Answer, LogAwayError, Offset

LOST: Final = (  # Postgres is unavailable or shutting down
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the connection was lost within a message of the protocol
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)
BUSY: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)  # other transactions hold the locks
AWAY: Final = LOST + BUSY
# A backend ends when its client has dropped the connection, also while it waits for a lock: else each query that times
# out during a long lock would leave a backend behind, until Postgres has no connection left.
ENDS_WITH_CLIENT: Final = {"client_connection_check_interval": "2s"}
_CONNECT_S = 5.0
_STATEMENT_MS = 30_000
_WORK_S = 60.0  # a transaction; longer, and the server hangs or the network drops its packets
_AFTER_SQL = """select "after" from log_offsets where reader = $1"""
_KEEP_SQL = """
insert into log_offsets (reader, "after") values ($1, $2)
on conflict (reader) do update set "after" = excluded."after", updated_at = now()
"""


@contextmanager
def ended_after(connection: asyncpg.Connection, timeout_s: float) -> Iterator[Callable[[float], None]]:
    """Terminate the connection if the block takes longer; the block's query then raises one of LOST.

    Yields a function that sets a new timeout, from now on. The server's own timeouts do not reach the client while the
    server hangs, and asyncpg's wait for it to cancel the statement.
    """
    loop = asyncio.get_running_loop()
    timer = loop.call_later(timeout_s, connection.terminate)

    def extend(more_s: float) -> None:
        nonlocal timer
        timer.cancel()
        timer = loop.call_later(more_s, connection.terminate)

    try:
        yield extend
    finally:
        timer.cancel()


class Connections:
    """One connection, opened lazily and again after it was lost; one transaction at a time."""

    def __init__(self, url: str, name: str) -> None:
        self._dsn = postgres_url(url)
        self._name = name
        self._connection: asyncpg.Connection | None = None

    async def transaction(self, work: Callable[[asyncpg.Connection], Awaitable[Answer]]) -> Answer:
        """`work` in one atomic transaction; LogAwayError."""
        try:
            connection = await self._connected()
            with ended_after(connection, _WORK_S):
                async with connection.transaction():
                    return await work(connection)
        except AWAY as error:
            await self.close()
            raise LogAwayError(f"Postgres is away: {type(error).__name__}: {error}") from error

    async def connection(self) -> asyncpg.Connection:
        """The connection itself, for session-level locks; LogAwayError."""
        try:
            return await self._connected()
        except AWAY as error:
            raise LogAwayError(f"Postgres is away: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Terminate the connection."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._dsn,
                timeout=_CONNECT_S,
                server_settings={
                    "application_name": self._name,
                    "statement_timeout": str(_STATEMENT_MS),
                    "idle_in_transaction_session_timeout": str(_STATEMENT_MS),
                    "jit": "off",
                    "enable_seqscan": "off",  # cached plans may be from when tables were small
                    **ENDS_WITH_CLIENT,
                },
            )
        return self._connection


async def offset_of(connection: asyncpg.Connection, reader: str) -> Offset:
    """The offset of a reader in log_offsets; START where it has none."""
    found = await connection.fetchval(_AFTER_SQL, reader)
    return START if found is None else found


async def keep_offset(connection: asyncpg.Connection, reader: str, after: Offset) -> None:
    """Store a reader's offset, in the same transaction as the results of the events before it."""
    await connection.execute(_KEEP_SQL, reader, after)
