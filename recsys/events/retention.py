"""Retention of events: old ones are deleted from the tables once they are archived and every reader has read them.

Why by rows and not by monthly partitions: research/decisions/0022.
"""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import Final

import asyncpg

from recsys.errors import InputError
from recsys.events.archive import archive_and_report, offset_of_archive, reader_of
from recsys.events.connections import Connections, offset_of
from recsys.events.kafka.relay import READER as RELAY
from recsys.events.log import START, Offset
from recsys.events.postgres_log import PostgresLog, numbers_of

logger = logging.getLogger(__name__)

UPDATER: Final = "updater"
_PORTION: Final = 20_000  # rows of a transaction; readers of the log wait for it
_OLD: Final = "received_at < $1 and (epoch_xid, position) <= ($2, $3)"
_COUNT_SQL = f"select count(*) from events where {_OLD}"  # noqa: S608 - our own words
_READ_TO_SQL = """select "after" from model_updates where log = $1 order by number desc limit 1"""
# An updater that has run here and is wanted, whether or not it has read anything yet.
_UPDATER_SQL = "select from training_state where wanted = 'running' and heartbeat_at is not null"
# Archives of the tables; those of Kafka's log have other offsets.
_ARCHIVES_SQL = """
select reader, "after" from log_offsets where reader like 'archive:%' and "after" ~ '^([0-9]+:[0-9]+)?$'
"""
_DELETE_SQL = f"""
delete from events where event_id in (select event_id from events where {_OLD} order by received_at limit $4)
"""  # noqa: S608 - our own words
_LEFT_SQL = "select exists (select from events where received_at < $1)"
_ALL: Final = (2**63 - 1, 2**63 - 1)  # no offset is later


async def count(connections: Connections, folder: Path, before: dt.datetime, *, outbox: bool = False) -> int:
    """How many events `delete_old` would delete."""

    async def counted(connection: asyncpg.Connection) -> int:
        readers = await _readers(connection, outbox=outbox)
        readers.pop(reader_of(folder), None)  # `delete_old` archives up to the end first
        n: int = await connection.fetchval(_COUNT_SQL, before, *min(map(numbers_of, readers.values()), default=_ALL))
        return n

    return await connections.transaction(counted)


async def delete_old(
    connections: Connections, folder: Path, before: dt.datetime, *, outbox: bool = False, portion: int = _PORTION
) -> int:
    """Archive the log in `folder` up to its end, then delete the events received before an instant that all readers
    have read; the number of deleted events. LogAwayError, InputError.

    `outbox`: the relay is the only reader of the tables, since the others read Kafka.
    """
    await archive_and_report(PostgresLog(connections), connections, folder)
    here = {reader_of(folder): offset_of_archive(folder)}
    n = 0
    while True:

        async def delete(connection: asyncpg.Connection) -> tuple[int, str | None]:
            readers = await _readers(connection, outbox=outbox) | here
            slowest = min(readers, key=lambda name: numbers_of(readers[name]))
            status = await connection.execute(_DELETE_SQL, before, *numbers_of(readers[slowest]), portion)
            deleted = int(status.removeprefix("DELETE "))
            stay = deleted < portion and await connection.fetchval(_LEFT_SQL, before)
            return deleted, slowest if stay else None

        deleted, waited_for = await connections.transaction(delete)
        n += deleted
        if waited_for is not None:
            logger.warning("old events are kept until %s has read them", waited_for)
        if deleted < portion:
            return n


async def _readers(connection: asyncpg.Connection, *, outbox: bool) -> dict[str, Offset]:
    """Offsets of the readers of the tables, by name; START for one that has never read."""
    if outbox:
        return {RELAY: await offset_of(connection, RELAY)}
    readers: dict[str, Offset] = dict(await connection.fetch(_ARCHIVES_SQL))
    after = await connection.fetchval(_READ_TO_SQL, PostgresLog.name)
    # An updater without updates starts at the end of a data set.
    if after is not None or await connection.fetchrow(_UPDATER_SQL) is not None:
        readers[UPDATER] = START if after is None else after
    return readers


def refuse_kafka(servers: str | None, *, outbox: bool) -> None:
    """InputError where Kafka is the log: its messages count only with their row in the tables."""
    if servers and not outbox:
        raise InputError("RECSYS_EVENT_DAYS: with Kafka as the log, rows of `events` decide which messages count")
