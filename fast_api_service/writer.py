"""Connections that write: apart from the readers', so that a burst of events does not make recommendations wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from fast_api_service.database import DatabaseAwayError, postgres_dsn
from fast_api_service.settings import ApiSettings


class Writer:
    """A pool of writing connections. Raises InputError for a URL that is not of Postgres."""

    def __init__(self, dsn: str, settings: ApiSettings) -> None:
        self._dsn = postgres_dsn(dsn)
        self._settings = settings
        self._pool: asyncpg.Pool | None = None

    async def open(self) -> None:
        """Make the pool; no connection is opened yet."""
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._settings.write_pool_size,
            timeout=5,
            server_settings={"application_name": "recsys-api-writer", "jit": "off"},
        )

    async def close(self) -> None:
        """End all connections, after the writes in flight."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 5)
            except TimeoutError:
                self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection for one transaction; DatabaseAwayError when Postgres is away or slower than the timeout."""
        assert self._pool is not None, "open() comes first"  # noqa: S101 - a mistake of ours
        try:
            async with asyncio.timeout(self._settings.write_timeout_s), self._pool.acquire() as connection:
                yield connection
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, TimeoutError) as error:
            raise DatabaseAwayError(f"{type(error).__name__}: {error}") from error
        except asyncpg.PostgresError as error:
            if error.sqlstate[:2] not in _AWAY:
                raise
            raise DatabaseAwayError(f"{type(error).__name__}: {error}") from error


_AWAY = ("08", "40", "53", "55", "57")  # connection, rolled back for a rival, no resources, locked, shut down
