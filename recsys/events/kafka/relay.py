"""From the tables to Kafka: what the service stored while Kafka was away, or always, where the outbox is on.

The tables are the outbox: an event without a place in Kafka is to be delivered, in the order of the log, so in that of
each user. Killed between delivery and the note of it, the relay delivers again, and one of the two messages counts.
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
    """Deliver the next events of the outbox; how many rows were passed, 0 at its end. LogAwayError."""
    after, passed, events = await connections.transaction(_next)
    if not passed:
        return 0
    places = await log.deliver(events) if events else []

    async def note(connection: asyncpg.Connection) -> None:
        if events:
            await settle(connection, events, places)
        await keep_offset(connection, READER, after)

    await connections.transaction(note)
    return passed


async def _next(connection: asyncpg.Connection) -> tuple[Offset, int, list[Event]]:
    batch = await postgres_log.read(connection, await offset_of(connection, READER), _BATCH)
    ids = [event.event_id for event in batch.events]
    delivered = {row["event_id"] for row in await connection.fetch(_DELIVERED_SQL, ids)}
    return batch.after, len(ids), [event for event in batch.events if event.event_id not in delivered]
