"""The few connections that may write, and their timeouts: a request is one atomic transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from fast_api_service.errors import ApiError
from fast_api_service.postgres.away import NO_TABLES
from recsys.events.connections import BUSY, ENDS_WITH_CLIENT, LOST
from recsys.serving.ids import JsonType

Answer = TypeVar("Answer")

_N_CONNECTIONS = 4
_CONNECT_S = 5.0
_LOOKUP_S = 2.0
CLOSE_S = 2.0  # of a pool at the end, when requests have ended
_STATEMENT_S = 10.0
_WORK_S = 12.0  # a transaction; longer than the server's own timeouts, beyond which it hangs
_LOCK_MS = 500  # less than Postgres' deadlock_timeout: we give up before it aborts another transaction
_PATIENCE_S = 3.0  # of retrying while others hold the locks


class Writable:
    """A small pool beside the read pool, so that writes never take its connections."""

    def __init__(
        self, dsn: str, name: str = "writes", n: int = _N_CONNECTIONS, connect_s: float = _CONNECT_S,
        work_s: float = _WORK_S,
    ) -> None:  # fmt: skip
        """`n` connections; `connect_s` and `work_s` are the timeouts of connecting and of a transaction."""
        self.dsn = dsn
        self._name, self._n, self._connect_s, self._work_s = name, n, connect_s, work_s
        self._pool: asyncpg.Pool | None = None

    @classmethod
    def for_lookups(cls, dsn: str) -> Writable:
        """Connections for lookups of requests: separate from writes, with short timeouts."""
        return cls(dsn, "lookups", 2, _LOOKUP_S, _LOOKUP_S)

    async def open(self) -> None:
        """Create the pool; no connection is opened yet."""
        self._pool = await asyncpg.create_pool(
            self.dsn,
            min_size=0,
            max_size=self._n,
            timeout=self._connect_s,
            reset=_nothing_to_reset,
            server_settings={
                "application_name": f"recsys-api-{self._name}",
                "statement_timeout": str(int(_STATEMENT_S * 1000)),
                "lock_timeout": str(_LOCK_MS),
                "idle_in_transaction_session_timeout": str(int(_STATEMENT_S * 1000)),
                "jit": "off",
                "enable_seqscan": "off",  # cached plans may be from when tables were small
                **ENDS_WITH_CLIENT,
            },
        )

    async def close(self) -> None:
        """Close all connections, after the transactions in flight."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), CLOSE_S)
            except TimeoutError:
                self._pool.terminate()

    async def transaction(
        self, work: Callable[[asyncpg.Connection], Awaitable[Answer]], timeout_s: float | None = None
    ) -> Answer:
        """`work` in one transaction, retried from the start while others hold its locks.

        The connection is terminated when it takes longer than `timeout_s`, by default that of the pool.
        Raises ApiError 503 `database_away`, or `catalogue_busy` when the retries end; then nothing is written.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return await self._once(work, timeout_s or self._work_s)
            except BUSY:
                if time.monotonic() > deadline:
                    raise ApiError(
                        503,
                        "catalogue_busy",
                        "nothing was written: others are writing the same, or the nightly preparation is giving keys "
                        "to new ids; try again soon",
                        5,
                    ) from None
                await asyncio.sleep(0.05)
            except NO_TABLES:
                raise ApiError(
                    503, "not_ready", "the database is older than this service: run `recsys migrate`", 5
                ) from None
            except LOST:
                raise ApiError(
                    503, "database_away", "nothing was written or read: Postgres is away; try the same again soon", 1
                ) from None

    async def _once(self, work: Callable[[asyncpg.Connection], Awaitable[Answer]], timeout_s: float) -> Answer:
        if self._pool is None:
            raise ConnectionError("not connected")
        async with asyncio.timeout(self._connect_s):
            connection = await self._pool.acquire()
        timer = asyncio.get_running_loop().call_later(timeout_s, connection.terminate)  # see `ended_after`
        try:
            async with connection.transaction():
                return await work(connection)
        finally:
            timer.cancel()
            await self._pool.release(connection)


async def _nothing_to_reset(_: Any) -> None:
    """Settings and locks end with the transaction: saves a round trip, which might hang."""


async def lock(connection: asyncpg.Connection, number: int) -> None:
    """Take one of `recsys.storage.locks` until the transaction ends."""
    await connection.execute("select pg_advisory_xact_lock($1)", number)


async def id_types(connection: asyncpg.Connection) -> dict[str, JsonType]:
    """JSON type of the ids of "item", "user" and "category"; ApiError 503 where no data set was prepared yet."""
    types = dict(await connection.fetch("select entity, json_type from id_types"))
    missing = {"item", "user", "category"} - types.keys()
    if missing:
        raise ApiError(
            503, "not_ready", "no data is prepared yet, so the type of ids is not known; prepare it first", 5
        )
    return types
