"""Old events leave the tables: once they are in an archive, and every reader has passed them.

Why rows, and not partitions by month: research/decisions/0022.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Final

import asyncpg

from recsys.errors import InputError
from recsys.online.archive import archive, offset_of_archive
from recsys.online.connections import Connections, offset_of
from recsys.online.log import Offset
from recsys.online.postgres_log import PostgresLog, numbers_of
from recsys.online.relay import READER as RELAY

_PORTION: Final = 20_000  # rows of one transaction: readers of the log wait for it
_COUNT_SQL = "select count(*) from events where received_at < $1"
_READ_TO_SQL = """select "after" from model_updates where log = $1 order by number desc limit 1"""
_DELETE_SQL = """
delete from events where event_id in (
    select event_id from events where received_at < $1 and (epoch_xid, position) <= ($2, $3)
    order by received_at limit $4
)
"""


async def count(connections: Connections, before: dt.datetime) -> int:
    """How many events were received before an instant."""
    n: int = await connections.transaction(lambda connection: connection.fetchval(_COUNT_SQL, before))
    return n


async def let_go(
    connections: Connections, folder: Path, before: dt.datetime, *, outbox: bool = False, portion: int = _PORTION
) -> int:
    """Bring the archive in `folder` up to the end of the log, then delete what was received before an instant and what
    all readers have passed; how many events went. LogAwayError, InputError.

    `outbox`: Kafka is to have the events first.
    """
    log = PostgresLog(connections)
    await archive(log, folder)
    archived = offset_of_archive(folder)
    n = 0
    while True:

        async def delete(connection: asyncpg.Connection) -> int:
            passed: list[Offset] = [archived]
            updater = await connection.fetchval(_READ_TO_SQL, log.name)
            passed += [] if updater is None else [updater]  # one that begins anew begins at the end of a data set
            passed += [await offset_of(connection, RELAY)] if outbox else []
            status = await connection.execute(_DELETE_SQL, before, *min(map(numbers_of, passed)), portion)
            return int(status.removeprefix("DELETE "))

        n += (deleted := await connections.transaction(delete))
        if deleted < portion:
            return n


def refuse_kafka(servers: str | None, *, outbox: bool) -> None:
    """InputError where Kafka is the log: a message counts by its row in the tables."""
    if servers and not outbox:
        raise InputError("RECSYS_EVENT_DAYS: with Kafka as the log, rows of `events` say which messages count and stay")
