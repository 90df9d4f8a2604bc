"""Metrics of the pipeline between Kafka and the tables: outbox, sink, dead letters, and whether relay and sink run.

Relay and sink are separate processes without a port; the service observes them, also while they are down.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

import asyncpg

from fast_api_service.metrics import Metrics
from recsys.errors import RecsysError
from recsys.events import postgres_log
from recsys.events.connections import Connections, offset_of
from recsys.events.log import EventLog
from recsys.storage import locks

if TYPE_CHECKING:
    from recsys.events.kafka.log import KafkaLog

log = logging.getLogger(__name__)
_EVERY_S: Final = 10.0
_LOCK_BY_WORKER: Final = {"relay": locks.RELAY, "sink": locks.SINK}
_LOCKS_SQL: Final = """
select classid::bigint << 32 | objid::bigint from pg_locks where locktype = 'advisory' and objsubid = 1 and granted
       and database = (select oid from pg_database where datname = current_database())
"""


async def watch_log(dsn: str, event_log: EventLog, metrics: Metrics) -> None:
    """Update the metrics every ten seconds until cancelled; all stay 0 where Postgres is the log."""
    for worker in _LOCK_BY_WORKER:
        metrics.log_worker_up.labels(worker)
    if isinstance(event_log, postgres_log.PostgresLog):
        return
    kafka_log = cast("KafkaLog", event_log)  # its module is imported only where it is used
    metrics.dead_letters.set(float("nan"))  # not known yet
    connections = Connections(dsn, "recsys-api-log-watch")
    try:
        while True:
            await _update(connections, kafka_log, metrics)
            await asyncio.sleep(_EVERY_S)
    finally:
        await connections.close()


async def _update(connections: Connections, event_log: KafkaLog, metrics: Metrics) -> None:
    unknown = float("nan")
    try:
        granted, (n_waiting, age_s), after = await connections.transaction(
            lambda connection: _in_tables(connection, outbox=event_log.outbox)
        )
        for worker, lock in _LOCK_BY_WORKER.items():
            metrics.log_worker_up.labels(worker).set(lock in granted)
    except (RecsysError, asyncpg.PostgresError):
        n_waiting, age_s, after = unknown, unknown, None
    metrics.outbox_events.set(n_waiting)
    metrics.outbox_age.set(age_s)
    try:
        metrics.dead_letters.set(await event_log.n_dead_letters())
        metrics.sink_lag.set(unknown if after is None else await event_log.lag(after))
    except (RecsysError, ValueError):  # ValueError: the offset is of another event log
        metrics.dead_letters.set(unknown)
        metrics.sink_lag.set(unknown)


async def _in_tables(connection: asyncpg.Connection, *, outbox: bool) -> tuple[set[int], tuple[float, float], str]:
    """Locks that are granted, length and age of the outbox, and the sink's offset."""
    granted = {row[0] for row in await connection.fetch(_LOCKS_SQL)}
    waiting = await postgres_log.undelivered(connection, await offset_of(connection, "relay")) if outbox else (0, 0.0)
    return granted, waiting, await offset_of(connection, "sink")
