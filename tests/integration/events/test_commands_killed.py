"""`recsys relay`, `sink`, `archive` and `replay`, killed between any two of their steps: all arrives, nothing twice."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, Producer, TopicPartition

from recsys.events.connections import Connections
from recsys.events.event import Event, parse
from recsys.events.kafka.client import Kafka, Partitions
from recsys.events.kafka.log import KafkaLog
from recsys.events.kafka.sink import GROUP
from recsys.events.log import START, EventLog
from recsys.events.postgres_log import PostgresLog
from recsys.storage.engine import engine_of
from tests.conftest import database_named
from tests.integration import serving_shop as shop
from tests.integration.connected import run
from tests.integration.events.dying_command import ARCHIVE, RELAY, REPLAY, SINK
from tests.kafka_broker import Broker

pytestmark = [pytest.mark.slow]  # processes are killed

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
N = 30  # events before each death


def events_of(round_: int) -> list[Event]:
    """Of five users, over three days."""
    raw = [
        {
            "event_id": f"e{number:04}",
            "user_id": str(500 + number % 5),
            "item_id": str(1001 + number % 60),
            "timestamp": NOW - dt.timedelta(hours=number * 7 % 72),
            "parameters": {"n": number},
        }
        for number in range(round_ * N, round_ * N + N)
    ]
    return [event for _, event in parse(raw, NOW)[0]]


def read_all(url: str, open_: Callable[[Connections], EventLog]) -> list[Event]:
    """What a reader that begins now finds."""

    async def work(connections: Connections) -> list[Event]:
        log, after, events = open_(connections), START, list[Event]()
        while (batch := await log.read(after, 500)).after != after:
            events, after = events + batch.events, batch.after
        await log.close()
        return events

    return run(url, work)


def command(url: str, kafka: Kafka | None, *arguments: str, dies_at: str | None = None) -> Any:
    """What `recsys …` says, None where it was killed."""
    environment = os.environ | {"DATABASE_URL": url}
    if kafka:
        environment |= {"RECSYS_KAFKA_BOOTSTRAP_SERVERS": kafka.servers, "RECSYS_KAFKA_TOPIC": kafka.topic}
    module = ("recsys.cli",) if dies_at is None else ("tests.integration.events.dying_command", dies_at)
    call = [sys.executable, "-m", *module, *arguments]
    done = subprocess.run(call, env=environment, check=False, stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == (-signal.SIGKILL if dies_at else 0), (dies_at, done.stdout)
    return json.loads(done.stdout) if dies_at is None else None


def of_user(events: list[Event], user: int) -> list[str]:
    return [event.event_id for event in events if event.user_id == str(500 + user)]


@pytest.fixture
def kafka(broker: Broker) -> Kafka:
    return Kafka(broker.servers, broker.create(f"events-{uuid4().hex[:8]}"))


def test_the_relay_delivers_all_in_order_and_none_counts_twice(
    clean_database_url: str, clean_database: sa.Engine, kafka: Kafka
) -> None:
    shop.stock(clean_database)
    for round_, point in enumerate(RELAY):
        events = events_of(round_)
        run(clean_database_url, lambda c, e=events: KafkaLog(kafka, c, outbox=True).append(e))
        command(clean_database_url, kafka, "relay", "--once", dies_at=point)
    command(clean_database_url, kafka, "relay", "--once")
    assert command(clean_database_url, kafka, "relay", "--once")["passed"] == 0
    assert shop.count(clean_database, "events where kafka_offset is null") == 0
    expected = [event for round_ in range(len(RELAY)) for event in events_of(round_)]
    found = read_all(clean_database_url, lambda c: KafkaLog(kafka, c))
    assert sorted(found) == sorted(expected)
    for user in range(5):
        assert of_user(found, user) == of_user(expected, user)
    assert _n_messages(kafka) > len(expected), "who was killed before its note delivers again: one of the two counts"


def _n_messages(kafka: Kafka) -> int:
    reader = Partitions(kafka, "test")
    n = sum(high - low for low, high in reader.ends().values())
    reader.close()
    return n


def test_the_sink_writes_all_rows_once_and_puts_all_poison_aside(
    clean_database_url: str, clean_database: sa.Engine, kafka: Kafka
) -> None:
    shop.stock(clean_database)
    for round_, point in enumerate(SINK):
        _deliver(clean_database_url, kafka, events_of(round_))
        producer = Producer(kafka.producer())
        producer.produce(kafka.topic, f"poison {round_}".encode(), key="someone")
        assert producer.flush(30) == 0
        command(clean_database_url, kafka, "sink", "--once", dies_at=point)
    command(clean_database_url, kafka, "sink", "--once")
    assert command(clean_database_url, kafka, "sink", "--once")["messages"] == 0
    expected = [event for round_ in range(len(SINK)) for event in events_of(round_)]
    stored = read_all(clean_database_url, PostgresLog)
    assert sorted(stored) == sorted(expected)
    for user in range(5):
        assert of_user(stored, user) == of_user(expected, user)
    assert set(_dead_letters(kafka)) == {f"poison {round_}".encode() for round_ in range(len(SINK))}


def test_sinks_that_come_go_die_and_lose_postgres_in_the_stream_leave_each_row_once(
    clean_database_url: str, clean_database: sa.Engine, kafka: Kafka
) -> None:
    """One works and others wait. A stranger who subscribes within their group makes Kafka rebalance it, and changes
    nothing: the sinks name their partitions and offsets themselves."""
    shop.stock(clean_database)
    stranger = Consumer({"bootstrap.servers": kafka.servers, "group.id": GROUP, "enable.auto.commit": False})
    environment = os.environ | {"DATABASE_URL": clean_database_url}
    environment |= {"RECSYS_KAFKA_BOOTSTRAP_SERVERS": kafka.servers, "RECSYS_KAFKA_TOPIC": kafka.topic}
    call = [sys.executable, "-m", "recsys.cli", "sink"]
    sinks = [subprocess.Popen(call, env=environment) for _ in range(2)]
    try:
        for round_ in range(8):
            _deliver(clean_database_url, kafka, events_of(round_))
            if round_ == 2:
                stranger.subscribe([kafka.topic])
            if round_ in (1, 4):
                sinks[round_ // 4].kill()
                sinks[round_ // 4].wait(10)
                sinks.append(subprocess.Popen(call, env=environment))
            if round_ == 6:
                stranger.close()
                gone = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'recsys-sink'"
                with clean_database.connect() as connection:
                    assert connection.execute(sa.text(gone)).rowcount >= 1
            elif round_ >= 2 and round_ < 6:
                stranger.poll(0.5)
            if round_ % 2:
                shop.wait_until(lambda n=round_: shop.count(clean_database, "events") == (n + 1) * N, 30)
    finally:
        for sink in sinks:
            sink.kill()
            sink.wait(10)
    expected = [event for round_ in range(8) for event in events_of(round_)]
    assert sorted(read_all(clean_database_url, lambda c: KafkaLog(kafka, c))) == sorted(expected)
    stored = read_all(clean_database_url, PostgresLog)
    assert sorted(stored) == sorted(expected)
    for user in range(5):
        assert of_user(stored, user) == of_user(expected, user)


def _deliver(url: str, kafka: Kafka, events: list[Event]) -> None:
    """As by a service that was killed before it could write the rows."""

    async def work(connections: Connections) -> None:
        log = KafkaLog(kafka, connections)
        await log.deliver(events)
        await log.close()

    run(url, work)


def _dead_letters(kafka: Kafka) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": kafka.servers, "group.id": "test", "enable.partition.eof": True})
    numbers = list(consumer.list_topics(kafka.dead_letters, 10).topics[kafka.dead_letters].partitions)
    consumer.assign([TopicPartition(kafka.dead_letters, number, 0) for number in numbers])
    found, ended = [], 0
    while ended < len(numbers):
        for message in consumer.consume(10, 0.5):
            if message.error():
                ended += 1
            else:
                found.append(message.value())
    consumer.close()
    return found


def test_no_half_file_of_the_archive_is_ever_replayed_and_all_of_it_is_in_the_end(
    postgres_server: str, template_database: str, clean_database_url: str, clean_database: sa.Engine, tmp_path: Path
) -> None:
    """After each death somebody replays what there is into another shop, and dies of it, too, now and then."""
    shop.stock(clean_database)
    folder = tmp_path / "archive"
    n_replayed = 0
    with database_named(postgres_server, template_database, "another shop") as other_url:
        other = engine_of(other_url)
        shop.stock(other)
        other.dispose()
        for round_, point in enumerate(ARCHIVE):
            events = events_of(round_)
            run(clean_database_url, lambda c, e=events: PostgresLog(c).append(e))
            command(clean_database_url, None, "archive", str(folder), dies_at=point)
            if not (folder / "archive.json").exists():
                continue  # nothing counts yet
            for death in REPLAY if round_ == len(ARCHIVE) - 1 else ():
                command(other_url, None, "replay", str(folder), dies_at=death)
            counts = command(other_url, None, "replay", str(folder))
            assert counts["conflicts"] == counts["erased"] == 0
            n_replayed = counts["accepted"] + counts["duplicates"]
            assert n_replayed in range(0, (round_ + 1) * N + 1, N)
        assert n_replayed == len(ARCHIVE) * N
        events = events_of(len(ARCHIVE))
        run(clean_database_url, lambda c: PostgresLog(c).append(events))
        assert command(clean_database_url, None, "archive", str(folder))["events"] == N
        assert command(other_url, None, "replay", str(folder))["accepted"] == N
        ids = [
            name
            for path in sorted(folder.glob("day=*/part-*.parquet"))
            for name in pq.ParquetFile(path).read(["event_id"])["event_id"].to_pylist()
        ]
        assert len(ids) == len(set(ids)) == (len(ARCHIVE) + 1) * N
        assert read_all(other_url, PostgresLog) == read_all(clean_database_url, PostgresLog)
