"""The commands `recsys relay`, `sink`, `archive`, `replay` and `skip-gap`."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from recsys.errors import InputError
from recsys.events import retention
from recsys.events.archive import archive_and_report
from recsys.events.archive import replay as replay_archive
from recsys.events.archive import skip_gap as skip_gap_of_archive
from recsys.events.connections import Connections, keep_offset, offset_of
from recsys.events.log import START, Answer, EventLog
from recsys.events.opening import open_log
from recsys.events.retention import refuse_kafka
from recsys.settings import Settings
from recsys.storage import locks
from recsys.storage.engine import database_url

_READERS = ("updater", "sink", "archive")  # that keep an offset in Kafka


def relay(settings: Settings, *, once: bool) -> int:
    """Deliver the outbox to Kafka, until a signal or once; the number of rows read. InputError without Kafka."""
    from recsys.events.kafka import relay as steps

    return _run_steps(settings, "recsys-relay", steps.step, locks.RELAY, once=once)


def sink(settings: Settings, *, once: bool) -> int:
    """Write Kafka's messages to the tables, until a signal or once; their number. InputError without Kafka."""
    from recsys.events.kafka import sink as steps

    return _run_steps(settings, steps.GROUP, steps.step, locks.SINK, once=once)


def archive(settings: Settings, folder: Path) -> dict[str, Any]:
    """Archive the log up to its end, and store the archive's offset in Postgres."""

    async def work(connections: Connections) -> int:
        log = open_log(settings, connections, "recsys-archive")
        try:
            return await archive_and_report(log, connections, folder)
        finally:
            await log.close()

    return {"events": _with_connections(settings, "recsys-archive", work), "folder": str(folder)}


def replay(
    settings: Settings, folder: Path | None, since: dt.datetime | None, until: dt.datetime | None
) -> dict[str, int]:
    """Append an archive's events again, or those of the log itself; counts by outcome."""
    if folder is None:
        return _with_log(settings, "recsys-replay", lambda log: _reappend(log, since, until))
    return _with_log(settings, "recsys-replay", lambda log: replay_archive(log, folder, since, until))


def skip_gap(settings: Settings, reader: str, folder: Path | None) -> dict[str, Any]:
    """Move a reader's offset to the oldest message that Kafka still has; InputError for another log or reader."""
    if not settings.kafka_bootstrap_servers:
        raise InputError("the log in Postgres has no gaps; this is for Kafka (RECSYS_KAFKA_BOOTSTRAP_SERVERS)")
    if reader not in _READERS or (reader == "archive") is (folder is None):
        raise InputError("readers are updater, sink, and archive with its FOLDER")

    async def work(connections: Connections) -> dict[str, Any]:
        log = open_log(settings, connections, "recsys-skip-gap")
        try:
            if folder is not None:
                after = await skip_gap_of_archive(log, connections, folder)
                return {"reader": reader, "folder": str(folder), "after": after}
            oldest = await log.oldest()
            after = log.later(await connections.transaction(lambda c: offset_of(c, reader)), oldest)
            await connections.transaction(lambda c: keep_offset(c, reader, after))
            return {"reader": reader, "after": after}
        finally:
            await log.close()

    return _with_connections(settings, "recsys-skip-gap", work)


def delete_old(settings: Settings, now: dt.datetime, *, dry_run: bool) -> int:
    """Archive the log and delete events older than the retention; the number deleted, or that would be (`dry_run`)."""
    if settings.event_days is None:
        return 0
    refuse_kafka(settings.kafka_bootstrap_servers, outbox=settings.event_outbox)
    before = now - dt.timedelta(days=settings.event_days)
    folder = settings.event_archive or settings.local_dir / "events"
    outbox = settings.kafka_bootstrap_servers is not None

    async def work(connections: Connections) -> int:
        if dry_run:
            return await retention.count(connections, folder, before, outbox=outbox)
        return await retention.delete_old(connections, folder, before, outbox=outbox)

    return _with_connections(settings, "recsys-retention", work)


async def _reappend(log: EventLog, since: dt.datetime | None, until: dt.datetime | None) -> dict[str, int]:
    """Append the log's own events: reading writes the rows that the tables lack, the rest are duplicates."""
    counts = dict.fromkeys(("accepted", "duplicates", "conflicts", "erased"), 0)
    after = START
    while (batch := await log.read(after, 500)).after != after:
        after = batch.after
        events = [
            event
            for event in batch.events
            if (since is None or event.occurred_at >= since) and (until is None or event.occurred_at < until)
        ]
        appended = await log.append(events)
        for name in counts:
            counts[name] += len(getattr(appended, name))
    return counts


def _run_steps(settings: Settings, name: str, step: Callable[..., Awaitable[int]], lock: int, *, once: bool) -> int:
    from recsys.events.kafka.client import kafka_of
    from recsys.events.kafka.log import KafkaLog
    from recsys.events.work import run_steps

    kafka = kafka_of(settings)
    if kafka is None:
        raise InputError("Kafka is not the event log here: set RECSYS_KAFKA_BOOTSTRAP_SERVERS")

    async def work() -> int:
        connections = Connections(database_url(settings), name)
        log = KafkaLog(kafka, connections, group=name, synonyms=settings.event_synonyms)
        try:
            return await run_steps(lambda: step(log, connections), connections, lock, once=once)
        finally:
            await log.close()
            await connections.close()

    return asyncio.run(work())


def _with_log(settings: Settings, name: str, work: Callable[[EventLog], Awaitable[Answer]]) -> Answer:
    async def with_log(connections: Connections) -> Answer:
        log = open_log(settings, connections, name)
        try:
            return await work(log)
        finally:
            await log.close()

    return _with_connections(settings, name, with_log)


def _with_connections(settings: Settings, name: str, work: Callable[[Connections], Awaitable[Answer]]) -> Answer:
    async def bounded() -> Answer:
        connections = Connections(database_url(settings), name)
        try:
            return await work(connections)
        finally:
            await connections.close()

    return asyncio.run(bounded())
