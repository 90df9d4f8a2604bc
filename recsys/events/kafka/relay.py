"""Delivers the outbox: events that the service stored in the tables, and Kafka does not have yet.

The tables are the outbox: an event without a place in Kafka is pending, and delivered in the order of the log. If the
relay is killed between delivery and commit, it delivers again, and one of the two messages counts.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from recsys.events import postgres_log
from recsys.events.connections import keep_offset, offset_of
from recsys.events.event import Event
from recsys.events.kafka.log import KafkaLog, settle
from recsys.events.log import Offset, Transactions

READER: Final = "relay"
_BATCH: Final = 500
_DELIVERED_SQL = "select event_id from events where event_id = any($1::text[]) and kafka_offset is not null"


async def step(log: KafkaLog, connections: Transactions) -> int:
    """Deliver the next events of the outbox; the number of rows read, 0 at its end. LogAwayError."""
    after, read, events = await connections.transaction(_next)
    if not read:
        return 0
    places = await log.deliver(events) if events else []

    async def commit(connection: asyncpg.Connection) -> None:
        if events:
            await settle(connection, events, places)
        await keep_offset(connection, READER, after)

    await connections.transaction(commit)
    return read


async def _next(connection: asyncpg.Connection) -> tuple[Offset, int, list[Event]]:
    batch = await postgres_log.read(connection, await offset_of(connection, READER), _BATCH)
    ids = [event.event_id for event in batch.events]
    delivered = {row["event_id"] for row in await connection.fetch(_DELIVERED_SQL, ids)}
    return batch.after, len(ids), [event for event in batch.events if event.event_id not in delivered]
