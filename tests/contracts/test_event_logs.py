"""What every event log promises. A new implementation adds one line to LOGS, and how its tables are looked at."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from recsys.events.connections import Connections
from recsys.events.event import Event, parse
from recsys.events.kafka.client import Kafka
from recsys.events.kafka.log import KafkaLog
from recsys.events.log import START, EventLog, Offset
from recsys.events.memory_log import MemoryLog
from recsys.events.postgres_log import PostgresLog
from recsys.serving.ids import digest_of
from tests.integration import serving_shop as shop
from tests.kafka_broker import Broker

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
LOGS = ("memory", "postgres", "kafka", "outbox")
Answer = TypeVar("Answer")


@dataclass
class World:
    """A log, another one of the same events as another process would open it, and what it leaves behind."""

    kind: str
    open: Callable[[], EventLog]
    runner: asyncio.Runner
    connections: Connections | None = None
    memory: MemoryLog | None = None

    def run(self, work: Awaitable[Answer]) -> Answer:
        async def bounded() -> Answer:
            return await asyncio.wait_for(work, 60)

        return self.runner.run(bounded())

    def sql(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        assert self.connections is not None
        connections = self.connections
        rows = self.run(connections.transaction(lambda connection: connection.fetch(statement, *arguments)))
        return [tuple(row) for row in rows]

    def stored(self) -> list[tuple[str, str]]:
        if self.memory is not None:
            return sorted((event.event_id, event.item_id) for event in self.memory.events if event is not None)
        return self.sql("select event_id, item_id from events order by 1")

    def quarantined(self) -> list[str]:
        if self.memory is not None:
            return sorted(event_id for event_id, _ in self.memory.quarantine)
        return [row[0] for row in self.sql("select event_id from event_quarantine order by 1")]

    def recent(self) -> list[tuple[Any, ...]]:
        if self.memory is not None:
            return []
        return self.sql("select owner, item_keys from user_recent where item_keys <> '{}' order by 1")

    def erase(self, user_id: str) -> None:
        if self.memory is not None:
            self.memory.erase(user_id)
            return
        self.sql("delete from events where user_id = $1", user_id)
        self.sql("insert into erased_users (digest) values ($1)", digest_of(user_id))

    def drain(self, log: EventLog, after: Offset = START, limit: int = 7) -> tuple[list[Event], Offset]:
        """All events after an offset, in portions."""
        end = self.run(log.end())
        events: list[Event] = []
        for _ in range(1000):
            batch = self.run(log.read(after, limit))
            assert len(batch.events) <= limit
            events += batch.events
            if batch.after == after and (batch.after == end or self.run(log.lag(after)) == 0):
                return events, after
            after = batch.after
        raise AssertionError("the log has no end")


@pytest.fixture(params=LOGS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with asyncio.Runner() as runner:
        opened: list[EventLog] = []
        made = _world(request, runner)
        open_ = made.open

        def open_and_remember() -> EventLog:
            log = open_()
            opened.append(log)
            return log

        made.open = open_and_remember
        yield made
        for log in opened:
            made.run(log.close())
        if made.connections is not None:
            made.run(made.connections.close())


def _world(request: pytest.FixtureRequest, runner: asyncio.Runner) -> World:
    kind = request.param
    if kind == "memory":
        memory = MemoryLog()
        return World(kind, lambda: memory, runner, memory=memory)
    url = request.getfixturevalue("clean_database_url")
    shop.stock(request.getfixturevalue("clean_database"))
    connections = Connections(url, "tests")
    if kind == "postgres":
        return World(kind, lambda: PostgresLog(connections), runner, connections)
    broker: Broker = request.getfixturevalue("broker")
    kafka = Kafka(broker.servers, broker.create(f"events-{uuid4().hex[:8]}"))
    if kind == "kafka":
        return World(kind, lambda: KafkaLog(kafka, connections), runner, connections)
    return World(kind, lambda: _Relayed(kafka, connections), runner, connections)


class _Relayed(KafkaLog):
    """Kafka behind the outbox, with a relay that has always just been at it."""

    def __init__(self, kafka: Kafka, connections: Connections) -> None:
        super().__init__(kafka, connections, outbox=True)

    async def append(self, events: Any) -> Any:
        from recsys.events.kafka import relay

        appended = await super().append(events)
        while await relay.step(self, self._connections):
            pass
        return appended


def events_of(*raw: dict[str, Any]) -> list[Event]:
    events, rejected = parse(raw, NOW)
    assert not rejected
    return [event for _, event in events]


def sample(number: int, user: int = 1, **more: Any) -> dict[str, Any]:
    return {"event_id": f"e{number:03}", "user_id": str(500 + user), "item_id": str(1001 + number % 60)} | more


def test_what_was_acknowledged_is_there_and_comes_out_as_it_went_in(world: World) -> None:
    raw = [
        sample(1, label=1.5, parameters={"stars": 5, "a": [1, {"b": "ü"}]}, features={"x": 1}, version="v"),
        sample(2, user=2, session_id="s", event_type="transaction", timestamp=NOW - dt.timedelta(days=3)),
        {"event_id": "guest", "session_id": "s2", "item_id": "no such item"},
    ]
    appended = world.run(world.open().append(events_of(*raw)))
    assert (appended.accepted, appended.duplicates, appended.conflicts) == ([0, 1, 2], [], [])
    assert appended.position is not None
    found, _ = world.drain(world.open())
    assert sorted(event.event_id for event in found) == ["e001", "e002", "guest"]
    assert {event.event_id: event for event in found} == {event.event_id: event for event in events_of(*raw)}
    assert [event_id for event_id, _ in world.stored()] == ["e001", "e002", "guest"]


def test_a_repeated_event_counts_once_and_another_content_goes_to_quarantine(world: World) -> None:
    log = world.open()
    world.run(log.append(events_of(sample(1), sample(2))))
    again = events_of(sample(2), sample(1, item_id="1050"), sample(3), sample(3), sample(3, item_id="1051"))
    for _ in range(2):
        appended = world.run(log.append(again))
        assert (sorted(appended.duplicates)[0], sorted(appended.conflicts)) == (0, [1, 4])
    assert world.stored() == [("e001", "1002"), ("e002", "1003"), ("e003", "1004")]
    assert world.quarantined() == ["e001", "e003"]
    found, _ = world.drain(world.open())
    assert sorted((event.event_id, event.item_id) for event in found) == world.stored()


def test_a_retry_of_a_body_without_ids_counts_once_even_over_the_turn_of_its_ten_minutes(world: World) -> None:
    log = world.open()
    plain = {"user_id": "501", "item_id": "1001"}
    turns = [parse([plain], NOW + dt.timedelta(seconds=600 * turn))[0][0][1] for turn in (1, 0)]
    for turn in turns:  # the earlier one comes later: it was held up on its way
        world.run(log.append([turn]))
    assert len(world.stored()) == 1
    assert len(world.drain(log)[0]) == 1


@pytest.mark.parametrize("seed", range(3))
def test_any_order_repetition_and_split_gives_the_same_tables_and_the_order_of_each_user_is_kept(
    world: World, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    raw = [
        sample(number, user=number % 5, timestamp=NOW - dt.timedelta(seconds=number * 7 % 5)) for number in range(60)
    ]
    events = events_of(*raw)
    shuffled = events + chance.sample(events, 30)
    chance.shuffle(shuffled)
    log = world.open()
    acknowledged: list[str] = []
    while shuffled:
        size = chance.randint(1, 12)
        batch, shuffled = shuffled[:size], shuffled[size:]
        appended = world.run(log.append(batch))
        assert not appended.conflicts
        acknowledged += [batch[place].event_id for place in appended.accepted]
    assert sorted(acknowledged) == [event.event_id for event in events]
    found, _ = world.drain(world.open())
    assert sorted(event.event_id for event in found) == sorted(acknowledged)
    for user in range(5):
        mine = [event.event_id for event in found if event.user_id == str(500 + user)]
        assert mine == [name for name in acknowledged if int(name[1:]) % 5 == user]
    assert world.stored() == [(event.event_id, event.item_id) for event in events]
    if world.memory is None:
        by_user = {
            f"user:{500 + user}": [
                int(event.item_id) - 1000
                for event in sorted(events, key=lambda event: (-event.occurred_at.timestamp(), event.event_id))
                if event.user_id == str(500 + user)
            ]
            for user in range(5)
        }
        assert world.recent() == sorted(by_user.items())


def test_a_reader_goes_on_from_its_offset_and_a_sample_moves_nobody(world: World) -> None:
    writer, reader = world.open(), world.open()
    world.run(writer.append(events_of(*(sample(number, user=number % 4) for number in range(30)))))
    first = world.run(reader.read(START, 11))
    while not first.events:
        first = world.run(reader.read(first.after, 11))
    seen, after = {event.event_id for event in first.events}, first.after
    latest = world.run(reader.sample(5))
    assert 1 <= len(latest) <= 5
    assert world.run(reader.lag(after)) == 30 - len(seen)
    rest, end = world.drain(reader, after)
    assert seen.isdisjoint(event.event_id for event in rest)
    assert len(seen) + len(rest) == 30
    assert (world.run(reader.lag(end)), world.run(reader.lag(START))) == (0, 30)
    again, _ = world.drain(world.open(), after)  # another process, from the same offset
    assert [event.event_id for event in sorted(again)] == [event.event_id for event in sorted(rest)]
    world.run(writer.append(events_of(sample(30), sample(31, user=2))))
    assert {event.event_id for event in world.drain(reader, end)[0]} == {"e030", "e031"}
    assert {event.event_id for event in world.run(reader.sample(50))} == {f"e{number:03}" for number in range(32)}


def test_between_two_offsets_are_the_events_that_were_read_there_and_no_others(world: World) -> None:
    """However the partitions came together then, and come together now."""
    log = world.open()
    world.run(log.append(events_of(*(sample(number, user=number % 7) for number in range(60)))))
    offsets, portions = [START], list[set[str]]()
    for limit in (9, 9, 25, 60):
        batch = world.run(log.read(offsets[-1], limit))
        offsets.append(batch.after)
        portions.append({event.event_id for event in batch.events})
    assert [len(portion) for portion in portions] == [9, 9, 25, 17]
    other = world.open()
    for after, until, portion in zip(offsets, offsets[1:], portions, strict=False):
        found, at = list[Event](), after
        while (batch := world.run(other.read(at, 4, until=until))).after != at:
            found, at = found + batch.events, batch.after
        assert sorted(event.event_id for event in found) == sorted(portion)
        assert at == until
    world.erase("501")
    batch = world.run(world.open().read(offsets[1], 60, until=offsets[2]))
    assert {event.event_id for event in batch.events} == {name for name in portions[1] if int(name[1:]) % 7 != 1}
    assert world.run(other.read(offsets[2], 60, until=offsets[2])).events == []


def test_end_is_the_offset_after_all(world: World) -> None:
    log = world.open()
    world.run(log.append(events_of(sample(1), sample(2, user=3))))
    end = world.run(log.end())
    assert world.drain(log, end)[0] == []
    world.run(log.append(events_of(sample(3))))
    assert [event.event_id for event in world.drain(world.open(), end)[0]] == ["e003"]


def test_an_instant_has_an_offset_before_all_that_came_since(world: World) -> None:
    log = world.open()
    world.run(log.append(events_of(*(sample(number, user=number) for number in range(8)))))
    world.run(asyncio.sleep(0.05))
    instant = dt.datetime.now(dt.UTC)
    world.run(asyncio.sleep(0.05))
    world.run(log.append(events_of(*(sample(number, user=number) for number in range(8, 20)))))
    later = [f"e{number:03}" for number in range(8, 20)]
    at = world.run(log.at(instant))
    assert sorted(event.event_id for event in world.drain(world.open(), at)[0]) == later
    assert world.drain(log, world.run(log.at(dt.datetime.now(dt.UTC) + dt.timedelta(days=1))))[0] == []
    assert len(world.drain(log, world.run(log.at(NOW - dt.timedelta(days=1))))[0]) == 20
    oldest = world.run(log.oldest())
    assert len(world.drain(log, oldest)[0]) == 20
    for one, other in ((at, oldest), (oldest, at), (START, at), (at, at), (at, START)):
        found = world.drain(world.open(), log.later(one, other))[0]
        assert sorted(event.event_id for event in found) == later


def test_an_erased_user_is_read_by_nobody_and_not_taken_again(world: World) -> None:
    log = world.open()
    world.run(log.append(events_of(sample(1), sample(2, user=2))))
    world.erase("501")
    appended = world.run(log.append(events_of(sample(1), sample(3), sample(4, user=2))))
    assert (appended.erased, appended.accepted) == ([0, 1], [2])
    assert [event_id for event_id, _ in world.stored()] == ["e002", "e004"]
    assert sorted(event.event_id for event in world.drain(world.open())[0]) == ["e002", "e004"]
    assert sorted(event.event_id for event in world.run(log.sample(10))) == ["e002", "e004"]
