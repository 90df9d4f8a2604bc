"""The exposure log: responses are queued in memory and written to Postgres in batches, off the request path."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

import asyncpg
import orjson
from starlette.types import Scope

from fast_api_service.metrics import Metrics
from fast_api_service.postgres.away import AWAY
from recsys.events.connections import ENDS_WITH_CLIENT, ended_after
from recsys.serving.core import Pick
from recsys.serving.ids import ExternalId
from recsys.storage import locks

log = logging.getLogger(__name__)

CAPACITY: Final = 10_000  # queued responses; beyond, the oldest are dropped
BATCH: Final = 200  # responses per transaction; sending them blocks the event loop for some 2 ms
_EVERY_S: Final = 0.5
_TIMEOUT_S: Final = 5.0  # for a batch, and at shutdown for all that is left
_SESSION = {"application_name": "recsys-api-exposures", "jit": "off", **ENDS_WITH_CLIENT}
_REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)  # the rows are invalid: no retry


class Shown(TypedDict):
    """One response; a row of the table `predictions`."""

    shown_at: dt.datetime
    request_id: str
    user_id: str | None
    session_id: str | None
    route: str
    surface: str
    tier: str
    publication_id: int
    list_version: str | None
    rescored_by: str | None
    config_id: int | None
    item_keys: Sequence[int]
    sources: Sequence[str]
    duration_ms: float
    degraded: Sequence[str]


_COLUMNS = ", ".join(Shown.__annotations__)
# As one parameter, since asyncpg encodes arrays element by element, which takes as long as the reads of the same
# requests. Responses to users and guests' sessions that were erased meanwhile are left out.
_WRITE_SQL = f"""
insert into predictions ({_COLUMNS})
select {_COLUMNS} from json_populate_recordset(null::predictions, $1::json) shown
where not exists (select from erased_users where digest = sha256(convert_to(shown.user_id, 'UTF8')))
  and (shown.user_id is not null
       or not exists (select from erased_sessions where digest = sha256(convert_to(shown.session_id, 'UTF8'))))
"""  # noqa: S608 - our own names


class Exposures:
    """A bounded queue of responses and the task that writes it.

    A response is written exactly once, even if the connection breaks. While Postgres is away, the newest `capacity`
    responses are queued, beside the batch that is retried; older ones are dropped and counted.
    """

    def __init__(self, dsn: str, metrics: Metrics, capacity: int = CAPACITY) -> None:
        self._dsn = dsn
        self._metrics = metrics
        self._queue: deque[Shown] = deque(maxlen=capacity)
        self._batch: list[Shown] = []  # taken from the queue, not known to be committed
        self._in_doubt: str | None = None  # id of the transaction that wrote it, while its outcome is unknown
        self._full = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self._is_logged = False
        metrics.exposures_waiting.set_function(lambda: len(self._queue) + len(self._batch))

    def note(
        self,
        scope: Scope,
        picks: Sequence[Pick],
        sources: Sequence[str],
        provenance: Mapping[str, Any],
        surface: str,
        user_id: ExternalId | None = None,
        session_id: str | None = None,
    ) -> None:
        """Queue the response to the request of `scope`; takes a microsecond or two, and cannot fail."""
        self.append(
            {
                "shown_at": dt.datetime.now(dt.UTC),
                "request_id": scope["state"]["request_id"],
                "user_id": None if user_id is None else str(user_id),
                "session_id": session_id,
                "route": scope["route"].path_format,
                "surface": surface,
                "tier": provenance["tier"],
                "publication_id": provenance["publication_id"],
                "list_version": provenance["list_version"],
                "rescored_by": provenance.get("rescored_by"),
                "config_id": provenance.get("config_id"),
                "item_keys": [pick.item_key for pick in picks],
                "sources": sources,
                "duration_ms": provenance["time_ms"],
                "degraded": provenance["degraded"],
            }
        )

    def append(self, shown: Shown) -> None:
        """Queue a response."""
        queue = self._queue
        if len(queue) == queue.maxlen:
            self._metrics.exposures.labels("dropped").inc()  # the oldest one
        queue.append(shown)
        if len(queue) == BATCH:
            self._full.set()

    async def write_on(self) -> None:
        """Write the queue, twice a second or as soon as a batch is full, until cancelled.

        Responses that arrive while a batch is written wait for the next one: many small transactions would slow
        requests down by a fifth.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), _EVERY_S)
            self._full.clear()
            if not await self._write_all():
                await asyncio.sleep(_EVERY_S)

    async def close(self) -> None:
        """Write what is left, for a few seconds at most; the rest is counted as dropped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT_S):
                while self._queue or self._batch:
                    if not await self._write_all():
                        await asyncio.sleep(0.1)
        n_lost = len(self._queue) + len(self._batch)
        if n_lost:
            self._metrics.exposures.labels("dropped").inc(n_lost)
            log.error("%d responses could not be written to the exposure log before shutdown", n_lost)
        self._drop_connection()

    async def _write_all(self) -> bool:
        """Write what is queued by now; False while Postgres is away."""
        for _ in range(math.ceil((len(self._queue) + len(self._batch)) / BATCH)):
            while self._queue and len(self._batch) < BATCH and self._in_doubt is None:
                self._batch.append(self._queue.popleft())
            try:
                await self._write_batch()
            except asyncio.CancelledError:
                self._drop_connection()
                raise
            except Exception as error:  # any error: later responses are still to be written
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # asyncpg's rollback failed, in place of the cancellation
                    self._drop_connection()
                    raise asyncio.CancelledError from error
                if isinstance(error, AWAY) and not isinstance(error, _REFUSED):
                    self._give_up_connection(error)
                    return False
                self._drop_connection()
                log.error("%d responses cannot be written to the exposure log: %r", len(self._batch), type(error))
                self._settle("dropped")
        return True

    async def _write_batch(self) -> None:
        connection = await self._connected()
        with ended_after(connection, _TIMEOUT_S):
            await self._write_on(connection)

    async def _write_on(self, connection: asyncpg.Connection) -> None:
        if self._in_doubt is not None and await self._was_committed(connection):
            self._settle("written")
            return
        self._in_doubt = None
        async with connection.transaction():
            # wait for a running erasure, so that its user is in erased_users
            await connection.execute("select pg_advisory_xact_lock_shared($1)", locks.EXPOSURES)
            await connection.execute(_WRITE_SQL, orjson.dumps(self._batch).decode())
            self._in_doubt = await connection.fetchval("select pg_current_xact_id()::text")
        self._settle("written")

    async def _was_committed(self, connection: asyncpg.Connection) -> bool:
        """Whether the transaction in doubt was committed; TimeoutError while it still runs."""
        status = await connection.fetchval("select pg_xact_status($1::text::xid8)", self._in_doubt)
        if status == "in progress":
            raise TimeoutError
        return bool(status == "committed")

    def _settle(self, outcome: str) -> None:
        self._metrics.exposures.labels(outcome).inc(len(self._batch))
        self._batch.clear()
        self._in_doubt = None
        self._is_logged = False

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._dsn, timeout=_TIMEOUT_S, server_settings=_SESSION)
        return self._connection

    def _give_up_connection(self, error: Exception) -> None:
        if not self._is_logged:
            log.warning("the exposure log cannot be written now, responses stay queued: %s", type(error).__name__)
        self._is_logged = True
        self._drop_connection()

    def _drop_connection(self) -> None:
        """A connection is not reused after an error: it may be within a transaction that never ends."""
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None
