"""From Kafka to the tables: what the service could not write any more, and what others put into the topic.

Messages that are no events go to the topic for dead letters, each with its reason, and block nobody. Killed between two
steps, the sink does the last one again: rows stay as they are, a dead letter may be there twice.
"""

from __future__ import annotations

from typing import Final

from recsys.events.connections import keep_offset, offset_of
from recsys.events.kafka.log import KafkaLog
from recsys.events.log import Transactions

READER: Final = "sink"
GROUP: Final = "recsys-sink"
_BATCH: Final = 500


async def step(log: KafkaLog, connections: Transactions) -> int:
    """Settle the next messages; 0 at the end of the topic. LogAwayError, LogGapError."""
    after = await connections.transaction(lambda connection: offset_of(connection, READER))
    batch, poison = await log.read_all(after, _BATCH)
    if batch.after == after:
        return 0
    await log.to_dead_letters(poison)
    await connections.transaction(lambda connection: keep_offset(connection, READER, batch.after))
    return len(batch.events) + len(poison) or 1
