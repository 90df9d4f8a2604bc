"""Old events leave the tables: once they are in an archive, and every reader has passed them.

Why rows, and not partitions by month: research/decisions/0022.
"""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import Final

import asyncpg

from recsys.errors import InputError
from recsys.events.archive import archive_and_tell, offset_of_archive, reader_of
from recsys.events.connections import Connections, offset_of
from recsys.events.kafka.relay import READER as RELAY
from recsys.events.log import START, Offset
from recsys.events.postgres_log import PostgresLog, numbers_of

logger = logging.getLogger(__name__)

UPDATER: Final = "updater"
_PORTION: Final = 20_000  # rows of one transaction: readers of the log wait for it
_OLD: Final = "received_at < $1 and (epoch_xid, position) <= ($2, $3)"
_COUNT_SQL = f"select count(*) from events where {_OLD}"  # noqa: S608 - our own words
_READ_TO_SQL = """select "after" from model_updates where log = $1 order by number desc limit 1"""
# One that has worked here and is wanted, whatever it has read by now.
_UPDATER_SQL = "select from training_state where wanted = 'running' and heartbeat_at is not null"
# Those of the tables; one of Kafka's log has other offsets.
_ARCHIVES_SQL = """
select reader, "after" from log_offsets where reader like 'archive:%' and "after" ~ '^([0-9]+:[0-9]+)?$'
"""
_DELETE_SQL = f"""
delete from events where event_id in (select event_id from events where {_OLD} order by received_at limit $4)
"""  # noqa: S608 - our own words
_LEFT_SQL = "select exists (select from events where received_at < $1)"
_ALL: Final = (2**63 - 1, 2**63 - 1)  # no offset is later


async def count(connections: Connections, folder: Path, before: dt.datetime, *, outbox: bool = False) -> int:
    """How many events `let_go` would let go of."""

    async def counted(connection: asyncpg.Connection) -> int:
        readers = await _readers(connection, outbox=outbox)
        readers.pop(reader_of(folder), None)  # it would read all of them first
        n: int = await connection.fetchval(_COUNT_SQL, before, *min(map(numbers_of, readers.values()), default=_ALL))
        return n

    return await connections.transaction(counted)


async def let_go(
    connections: Connections, folder: Path, before: dt.datetime, *, outbox: bool = False, portion: int = _PORTION
) -> int:
    """Bring the archive in `folder` up to the end of the log, then delete what was received before an instant and what
    all readers have passed; how many events went. LogAwayError, InputError.

    `outbox`: the relay alone reads the tables, and Kafka is to have the events first.
    """
    await archive_and_tell(PostgresLog(connections), connections, folder)
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
            logger.warning("events that are old enough stay until %s has read them", waited_for)
        if deleted < portion:
            return n


async def _readers(connection: asyncpg.Connection, *, outbox: bool) -> dict[str, Offset]:
    """How far those are who read the tables, by name; who has never read is at the start."""
    if outbox:
        return {RELAY: await offset_of(connection, RELAY)}
    readers: dict[str, Offset] = dict(await connection.fetch(_ARCHIVES_SQL))
    after = await connection.fetchval(_READ_TO_SQL, PostgresLog.name)
    # One that begins anew begins at the end of a data set.
    if after is not None or await connection.fetchrow(_UPDATER_SQL) is not None:
        readers[UPDATER] = START if after is None else after
    return readers


def refuse_kafka(servers: str | None, *, outbox: bool) -> None:
    """InputError where Kafka is the log: a message counts by its row in the tables."""
    if servers and not outbox:
        raise InputError("RECSYS_EVENT_DAYS: with Kafka as the log, rows of `events` say which messages count and stay")
