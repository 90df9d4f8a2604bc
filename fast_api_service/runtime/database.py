"""The followers' reads from Postgres: publication, catalogue, API keys, configuration."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy as Connection

from fast_api_service.auth.keys import StoredKey
from fast_api_service.config import repository
from fast_api_service.config.repository import InForce
from fast_api_service.postgres.away import AWAY, DatabaseAwayError, in_words
from fast_api_service.postgres.write_pool import CLOSE_S
from fast_api_service.recommend.repository import Reads
from fast_api_service.runtime import catalogue_loader, publication_loader
from fast_api_service.runtime.catalogue_loader import Catalogue
from fast_api_service.runtime.publication_loader import Pointer, Published
from fast_api_service.settings import ApiSettings
from recsys.dsn import postgres_url
from recsys.events.connections import ENDS_WITH_CLIENT, ended_after

log = logging.getLogger(__name__)

_LOAD_S = 120.0
_LOOK_S = 2.0
_LEAST_LIMIT_S = 0.25  # of a request's query, including connecting
_SESSION = {
    "application_name": "recsys-api",
    "default_transaction_read_only": "on",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",  # planning takes ten times as long as reading
    **ENDS_WITH_CLIENT,
}
# A request's query looks up a few rows by key; without current statistics, Postgres might choose other plans.
_LOOK_UP = {"statement_timeout": "10s", "enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off"}

_KEYS_SQL = "select key_id, digest, scopes, rate_per_s, revoked_at is not null, expires_at from api_keys"


class Database:
    """Read-only connections: one for each follower, and `reads`, the pool for requests.

    Raises InputError for a URL that is not a Postgres one.
    """

    def __init__(self, dsn: str, settings: ApiSettings) -> None:
        self.dsn = postgres_url(dsn)
        self._pool: asyncpg.Pool | None = None  # for the followers: settings, catalogue, publication
        limit_s = max(settings.deadline_ms / 1000, _LEAST_LIMIT_S)
        self.reads = Reads(self._connect, settings.pool_size, limit_s, settings.batch_deadline_ms / 1000)
        self.up = False

    async def open(self) -> None:
        """Create the pool; no connection is opened yet."""
        self._pool = await asyncpg.create_pool(
            self.dsn, min_size=0, max_size=3, timeout=5, reset=_nothing_to_reset, server_settings=_SESSION
        )

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.dsn, timeout=5, server_settings=_SESSION | _LOOK_UP)

    async def close(self) -> None:
        """Close all connections, after the requests in flight."""
        await self.reads.close()
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), CLOSE_S)
            except TimeoutError:
                self._pool.terminate()

    async def follow(self, former: Catalogue | None) -> Catalogue:
        """The current catalogue: `former`, updated in place, or a new one; DatabaseAwayError."""
        async with self._transaction(_LOOK_S) as (connection, extend):
            pulse = await catalogue_loader.pulse(connection, former.seen if former else None)
            extend(_LOAD_S)
            return await catalogue_loader.follow(connection, former, pulse)

    async def pointer(self) -> Pointer:
        """The publication pointer; DatabaseAwayError."""
        async with self._transaction(_LOOK_S) as (connection, _):
            return await publication_loader.pointer(connection)

    async def publication(self) -> Published:
        """The publication in service, without its lists; DatabaseAwayError."""
        async with self._transaction(_LOOK_S) as (connection, _):
            return await publication_loader.read(connection)

    async def api_keys(self) -> list[StoredKey]:
        """All keys, revoked ones too; DatabaseAwayError."""
        async with self._connection(_LOOK_S) as (connection, _):
            return [StoredKey(*row) for row in await connection.fetch(_KEYS_SQL)]

    async def config(self, former: InForce | None) -> InForce:
        """The configuration in force; DatabaseAwayError."""
        async with self._connection(_LOOK_S) as (connection, _):
            return await repository.follow(connection, former)

    @asynccontextmanager
    async def _connection(self, timeout_s: float) -> AsyncIterator[tuple[Connection, Callable[[float], None]]]:
        """A connection with a timeout, and a function that sets a new timeout from now on."""
        assert self._pool is not None, "open() comes first"  # noqa: S101 - a bug otherwise
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._pool.acquire()
            try:
                with ended_after(connection, timeout_s) as extend:
                    yield connection, extend
            finally:
                await self._pool.release(connection)
        except AWAY as error:
            self.up = False
            raise DatabaseAwayError(in_words(error)) from error
        self.up = True

    @asynccontextmanager
    async def _transaction(self, timeout_s: float) -> AsyncIterator[tuple[Connection, Callable[[float], None]]]:
        """As `_connection`, in one repeatable-read transaction."""
        async with (
            self._connection(timeout_s) as (connection, extend),
            connection.transaction(isolation="repeatable_read"),
        ):
            yield connection, extend


async def _nothing_to_reset(_: Any) -> None:
    """Our statements leave no session state, so a reused connection needs no reset round trip."""
