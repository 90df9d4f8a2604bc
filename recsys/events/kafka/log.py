"""The event log in Kafka, and the tables that determine which of its messages count.

An event may be in Kafka twice: its acknowledgement was lost, or the service was killed before it could answer. The row
of an event in `events` has the partition and offset of the one message that counts; a reader of a message without a row
writes it. So every reader gets an event exactly once, and an erased one never. The row also has the event's type under
the shop's own name (`events.names`), which every reader gets. The reasons: research/decisions/0010.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg
import orjson
from confluent_kafka import Message

from recsys.action import SYNONYMS
from recsys.errors import InputError
from recsys.events import meaning, postgres_log
from recsys.events.event import Event
from recsys.events.kafka import message as kafka_message
from recsys.events.kafka.client import Deliveries, Ends, Kafka, Partitions, Place, place_of
from recsys.events.log import MAX_LAG, START, Answer, Appended, Batch, Offset, Transactions
from recsys.events.names import EventNames

TRAINER, MONITOR = "recsys-trainer", "recsys-monitor"  # consumer groups
_UNSTORABLE: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
_ROWS_SQL = """
select event_id, event_type, kafka_partition, kafka_offset from events
where event_id = any($1::text[]) and kafka_offset is not null
"""
_PLACE_SQL = """
update events e set kafka_partition = t.part, kafka_offset = t.place
from unnest($1::text[], $2::bytea[], $3::integer[], $4::bigint[]) t (event_id, digest, part, place)
where e.event_id = t.event_id and e.digest = t.digest and e.kafka_offset is null
"""


class Poison(NamedTuple):
    """A message that is not a valid event, and why."""

    message: Message
    reason: str


class _Read(NamedTuple):
    """A message with its event."""

    event: Event
    place: Place
    message: Message


class _Row(NamedTuple):
    """The stored row of an event."""

    event_type: str
    place: Place  # of the message that counts


class KafkaLog:
    """The log in Kafka. `outbox`: `append` writes to the tables only, and `recsys relay` delivers."""

    def __init__(
        self,
        kafka: Kafka,
        connections: Transactions,
        *,
        group: str = TRAINER,
        outbox: bool = False,
        synonyms: Mapping[str, Sequence[str]] = SYNONYMS,
    ) -> None:
        self.kafka = kafka
        self._connections, self._synonyms = connections, synonyms
        self._group, self.outbox = group, outbox
        self._deliveries: Deliveries | None = None
        self._readers: dict[str, Partitions] = {}
        self._locks = {name: asyncio.Lock() for name in (group, MONITOR)}

    @property
    def name(self) -> str:
        """See EventLog."""
        return f"kafka:{self.kafka.topic}"

    async def append(self, events: Sequence[Event]) -> Appended:
        """See EventLog. Writes to Kafka, then to the tables; after an error in between, readers write the rows."""
        if not events:
            return Appended()
        if self.outbox:
            return await self._connections.transaction(lambda connection: postgres_log.append(connection, events))
        outcome = await self._connections.transaction(lambda connection: postgres_log.classify(connection, events))
        new = [events[place] for place in outcome.accepted]
        if not new:
            return outcome
        places = await self.deliver(new)
        settled = await self._connections.transaction(lambda connection: settle(connection, new, places))
        return Appended(
            [outcome.accepted[place] for place in settled.accepted],
            outcome.duplicates + [outcome.accepted[place] for place in settled.duplicates],
            outcome.conflicts + [outcome.accepted[place] for place in settled.conflicts],
            outcome.erased + [outcome.accepted[place] for place in settled.erased],
            settled.position,
        )

    async def deliver(self, events: Sequence[Event]) -> list[Place]:
        """Deliver events; their places, once all are acknowledged. LogAwayError."""
        messages = [{"key": kafka_message.key_of(event), "value": kafka_message.encode(event)} for event in events]
        return await self._producer().deliver(self.kafka.topic, messages)

    async def read(self, after: Offset, limit: int, until: Offset | None = None) -> Batch:
        """See EventLog. Skips messages that are not valid events; the sink moves them to the dead letters."""
        return (await self.read_all(after, limit, until))[0]

    async def read_all(self, after: Offset, limit: int, until: Offset | None = None) -> tuple[Batch, list[Poison]]:
        """As `read`, and the messages that are not valid events."""
        last = None if until is None else _numbers(until)
        messages, at = await self._with(self._group, lambda reader: reader.fetch(_numbers(after), limit, last))
        found, poison = await self._decoded(messages)
        return Batch(await self._counted(found, poison), _offset(at)), poison

    async def end(self) -> Offset:
        """See EventLog."""
        return _offset({number: high for number, (_, high) in (await self._ends()).items()})

    async def at(self, instant: dt.datetime) -> Offset:
        """See EventLog; by the timestamps of messages."""
        return _offset(await self._with(MONITOR, lambda reader: reader.at(int(instant.timestamp() * 1000))))

    async def oldest(self) -> Offset:
        """See EventLog."""
        return _offset({number: low for number, (low, _) in (await self._ends()).items()})

    def later(self, one: Offset, other: Offset) -> Offset:
        """See EventLog."""
        first, second = _numbers(one), _numbers(other)
        return _offset({n: max(first.get(n, 0), second.get(n, 0)) for n in first.keys() | second.keys()})

    async def lag(self, after: Offset) -> int:
        """See EventLog."""
        at = _numbers(after)
        ends = await self._ends()
        return min(sum(max(0, high - at.get(number, low)) for number, (low, high) in ends.items()), MAX_LAG + 1)

    async def sample(self, n: int) -> list[Event]:
        """See EventLog; reads in the monitor's group."""

        def latest(reader: Partitions) -> list[Message]:
            after = {number: max(low, high - n) for number, (low, high) in reader.ends().items()}
            messages, _ = reader.fetch(after, n * max(1, len(after)))
            return sorted(messages, key=lambda message: message.timestamp())[-n:]

        found, _ = await self._decoded(await self._with(MONITOR, latest))
        return _as_stored(found, await self._rows(found))

    async def close(self) -> None:
        """See EventLog."""
        for reader in self._readers.values():
            await asyncio.to_thread(reader.close)
        self._readers.clear()
        if self._deliveries is not None:
            await asyncio.to_thread(self._deliveries.close)
            self._deliveries = None

    async def to_dead_letters(self, poison: Sequence[Poison]) -> None:
        """Write messages to the dead-letter topic, with headers for reason and original place; LogAwayError."""
        messages = [
            {
                "key": one.message.key(),
                "value": one.message.value(),
                "headers": {
                    "reason": one.reason[:1000].encode("utf-8", "replace"),
                    "place": f"{self.kafka.topic}/{one.message.partition()}/{one.message.offset()}".encode(),
                },
            }
            for one in poison
        ]
        if messages:
            await self._producer().deliver(self.kafka.dead_letters, messages)

    async def n_dead_letters(self) -> int:
        """The number of messages in the dead-letter topic; LogAwayError."""
        return await self._with(MONITOR, lambda reader: reader.n_messages(self.kafka.dead_letters))

    async def _counted(self, found: list[_Read], poison: list[Poison]) -> list[Event]:
        """The events of messages that count; writes missing rows."""
        rows = await self._rows(found)
        open_ = [one for one in found if one.event.event_id not in rows]
        if open_:
            poison.extend(await self._settle(open_))
            rows |= await self._rows(open_)
        return _as_stored(found, rows)

    async def _decoded(self, messages: Sequence[Message]) -> tuple[list[_Read], list[Poison]]:
        if not messages:
            return [], []
        names = await self._connections.transaction(lambda c: meaning.names(c, self._synonyms))
        return _decoded(messages, names)

    async def _settle(self, found: Sequence[_Read]) -> list[Poison]:
        """Write rows, one by one if the batch cannot be stored; returns the messages that cannot."""
        events, places = [one.event for one in found], [one.place for one in found]
        try:
            await self._connections.transaction(lambda connection: settle(connection, events, places))
        except _UNSTORABLE as error:
            if len(found) == 1:
                return [Poison(found[0].message, f"Postgres cannot store it: {error}")]
            return [poison for one in found for poison in await self._settle([one])]
        return []

    async def _rows(self, found: Sequence[_Read]) -> dict[str, _Row]:
        """Rows by event id, of those with the message that counts."""
        ids = [one.event.event_id for one in found]
        if not ids:
            return {}
        rows = await self._connections.transaction(lambda connection: connection.fetch(_ROWS_SQL, ids))
        return {name: _Row(event_type, (number, place)) for name, event_type, number, place in rows}

    async def _ends(self) -> Ends:
        return await self._with(MONITOR, lambda reader: reader.ends())

    def _producer(self) -> Deliveries:
        if self._deliveries is None:
            self._deliveries = Deliveries(self.kafka)
        return self._deliveries

    async def _with(self, group: str, work: Callable[[Partitions], Answer]) -> Answer:
        """`work` with the reader of a group in another thread, one at a time."""
        async with self._locks[group]:
            return await asyncio.to_thread(lambda: work(self._reader(group)))

    def _reader(self, group: str) -> Partitions:
        if group not in self._readers:
            self._readers[group] = Partitions(self.kafka, group)
        return self._readers[group]


async def settle(connection: asyncpg.Connection, events: Sequence[Event], places: Sequence[Place]) -> Appended:
    """Write the rows of messages; existing rows without a message get its place."""
    appended = await postgres_log.append(connection, events, places)
    if known := appended.duplicates:
        await connection.execute(
            _PLACE_SQL,
            [events[i].event_id for i in known],
            [events[i].digest for i in known],
            [places[i][0] for i in known],
            [places[i][1] for i in known],
        )
    return appended


def _as_stored(found: Sequence[_Read], rows: Mapping[str, _Row]) -> list[Event]:
    """The events of messages that count, with their stored type."""
    return [
        event if event.event_type == row.event_type else event._replace(event_type=row.event_type)
        for event, place, _ in found
        if (row := rows.get(event.event_id)) is not None and row.place == place
    ]


def _decoded(messages: Sequence[Message], names: EventNames) -> tuple[list[_Read], list[Poison]]:
    found: list[_Read] = []
    poison: list[Poison] = []
    for message in messages:
        try:
            event = kafka_message.decode(message.value(), names)
            found.append(_Read(event, place_of(message), message))
        except InputError as error:
            poison.append(Poison(message, str(error)))
    return found, poison


def _numbers(offset: Offset) -> dict[int, int]:
    if offset == START:
        return {}
    numbers = orjson.loads(offset)
    if not isinstance(numbers, dict):
        raise ValueError(f"{offset[:40]!r} is not an offset of Kafka")
    return {int(number): int(at) for number, at in numbers.items()}


def _offset(at: dict[int, int]) -> Offset:
    return orjson.dumps({str(number): at[number] for number in sorted(at)}).decode()
