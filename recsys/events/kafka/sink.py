"""From Kafka to the tables: events that a killed service could not write, and those of other producers.

Invalid messages go to the dead-letter topic with the reason, and do not block the rest. If killed, the sink repeats its
last step: rows stay the same, a dead letter may be written twice.
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
    """Write the next messages to the tables; their number, 0 at the end of the topic. LogAwayError, LogGapError."""
    after = await connections.transaction(lambda connection: offset_of(connection, READER))
    batch, poison = await log.read_all(after, _BATCH)
    if batch.after == after:
        return 0
    await log.to_dead_letters(poison)
    await connections.transaction(lambda connection: keep_offset(connection, READER, batch.after))
    return len(batch.events) + len(poison) or 1
