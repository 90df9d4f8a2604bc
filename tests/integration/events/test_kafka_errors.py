"""Brokers that refuse, break off, answer late or are down, as librdkafka's mock cluster plays them."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from recsys.events.connections import Connections
from recsys.events.event import Event, parse
from recsys.events.kafka import relay
from recsys.events.kafka.client import Kafka
from recsys.events.kafka.log import KafkaLog
from recsys.events.log import START, LogAwayError, LogGapError
from tests import mock_kafka
from tests.integration import serving_shop as shop
from tests.mock_kafka import MockCluster, mock_cluster

NOW = dt.datetime.now(dt.UTC)


def events_of(*names: str) -> list[Event]:
    raw = [{"event_id": name, "user_id": "501", "item_id": "1001"} for name in names]
    return [event for _, event in parse(raw, NOW)[0]]


class World:
    def __init__(self, cluster: MockCluster, url: str) -> None:
        self.cluster, self.runner = cluster, asyncio.Runner()
        self.connections = Connections(url, "tests")
        quick = {
            "message.timeout.ms": 1500,
            "retry.backoff.ms": 20,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 100,
            "log_level": 0,
        }
        self.kafka = Kafka(cluster.servers, cluster.create("events", 1), quick)
        self.log = KafkaLog(self.kafka, self.connections)

    def be_patient(self) -> None:
        """From now on messages have as long as a busy machine needs."""
        kafka = Kafka(self.kafka.servers, self.kafka.topic, {**self.kafka.options, "message.timeout.ms": 60_000})
        self.log = KafkaLog(kafka, self.connections)

    def append(self, *names: str) -> int:
        return len(self.runner.run(self.log.append(events_of(*names))).accepted)

    def n_messages(self) -> int:
        return self.runner.run(self.log.lag(START))

    def read(self) -> list[str]:
        async def work() -> list[str]:
            names, after = [], START
            while (batch := await self.log.read(after, 100)).after != after:
                names, after = names + [event.event_id for event in batch.events], batch.after
            return names

        return self.runner.run(work())

    def append_in_the_end(self, *names: str) -> int:
        """As a client that sends the same again after each 503."""
        for _ in range(40):
            try:
                return self.append(*names)
            except LogAwayError:
                self.runner.run(asyncio.sleep(0.3))
        raise AssertionError("it was never taken")


@pytest.fixture
def world(clean_database_url: str, clean_database: sa.Engine) -> Iterator[World]:
    shop.stock(clean_database)
    with mock_cluster() as cluster:
        world = World(cluster, clean_database_url)
        yield world
        world.runner.run(world.log.close())
        world.runner.run(world.connections.close())
        world.runner.close()


def test_errors_that_pass_are_not_seen(world: World) -> None:
    world.be_patient()
    world.cluster.fail(
        mock_kafka.PRODUCE, mock_kafka.NOT_LEADER, mock_kafka.NOT_ENOUGH_REPLICAS, mock_kafka.REQUEST_TIMED_OUT
    )
    assert world.append("a", "b") == 2
    world.cluster.fail(mock_kafka.PRODUCE, mock_kafka.LOST_CONNECTION)
    assert world.append("c") == 1
    assert world.read() == ["a", "b", "c"]


def test_an_acknowledgement_that_is_lost_makes_two_messages_and_one_event(world: World) -> None:
    assert world.append("before") == 1
    world.cluster.delay(1, mock_kafka.PRODUCE, 4000)
    with pytest.raises(LogAwayError, match="did not accept"):
        world.append("x")
    assert world.append_in_the_end("x") == 1
    assert world.n_messages() >= 3, "the first one was to be there as well"
    assert world.read() == ["before", "x"]
    assert world.append("x", "y") == 1
    assert world.read() == ["before", "x", "y"]


def test_a_message_that_nobody_acknowledged_is_read_and_the_retry_is_a_duplicate(world: World) -> None:
    assert world.append("before") == 1
    world.cluster.delay(1, mock_kafka.PRODUCE, 4000)
    with pytest.raises(LogAwayError):
        world.append("x")
    for _ in range(40):
        if world.read() == ["before", "x"]:
            break
        world.runner.run(asyncio.sleep(0.2))
    assert world.read() == ["before", "x"]
    assert world.append_in_the_end("x") == 0


def test_a_cluster_that_is_down_is_told_at_once_and_used_again_when_it_is_back(world: World) -> None:
    assert world.append("before") == 1
    world.cluster.set_down(1, down=True)
    for _ in range(2):
        with pytest.raises(LogAwayError):
            world.append("x")
    world.cluster.set_down(1, down=False)
    assert world.append_in_the_end("x") == 1
    assert world.read() == ["before", "x"]


def test_an_offset_that_is_not_there_any_more_is_an_error_not_a_jump(world: World) -> None:
    assert world.append("a") == 1
    with pytest.raises(LogGapError, match="archive"):
        world.runner.run(world.log.read('{"0": 999}', 10))
    assert world.read() == ["a"]


@pytest.mark.parametrize("seed", range(2))
def test_the_relay_delivers_all_once_and_in_order_whatever_the_broker_does(world: World, seed: int) -> None:
    """Refused, timed out, cut off, acknowledged too late, in any order: what was delivered twice counts once."""
    chance = random.Random(seed)  # noqa: S311
    names = [f"e{number:03}" for number in range(60)]
    outbox = KafkaLog(world.kafka, world.connections, outbox=True)
    world.cluster.delay(1, mock_kafka.PRODUCE, 2500)  # longer than the relay waits: the acknowledgement is lost
    passing = [mock_kafka.NOT_LEADER, mock_kafka.NOT_ENOUGH_REPLICAS, mock_kafka.REQUEST_TIMED_OUT]
    passed, deadline = 0, time.monotonic() + 60
    while names or passed < 60:
        if names:
            size = chance.randint(5, 20)
            batch, names = names[:size], names[size:]
            assert len(world.runner.run(outbox.append(events_of(*batch))).accepted) == len(batch)
        try:
            passed += world.runner.run(relay.step(world.log, world.connections))
            world.cluster.fail(mock_kafka.PRODUCE, *chance.sample(passing, 2), mock_kafka.LOST_CONNECTION)
        except LogAwayError:
            assert time.monotonic() < deadline
            world.runner.run(asyncio.sleep(0.3))
    assert world.read() == [f"e{number:03}" for number in range(60)]
    assert world.n_messages() > 60, "the first batch was to be there twice"


def test_a_reader_gets_each_message_once_through_errors_and_slowness(world: World) -> None:
    names = [f"e{number:03}" for number in range(40)]
    for start in range(0, 40, 10):
        assert world.append(*names[start : start + 10]) == 10
    found, after, errors = list[str](), START, 0
    deadline = time.monotonic() + 60
    while len(found) < 40:
        world.cluster.fail(mock_kafka.FETCH, mock_kafka.NOT_LEADER, mock_kafka.LOST_CONNECTION)
        world.cluster.delay(1, mock_kafka.FETCH, 700)
        try:
            batch = world.runner.run(world.log.read(after, 9))
            found, after = found + [event.event_id for event in batch.events], batch.after
        except LogAwayError:
            errors += 1
        assert time.monotonic() < deadline, (found, errors)
    assert found == names
