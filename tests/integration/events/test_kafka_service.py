"""The service and its helpers on a real Kafka broker: away, killed, with poison in the topic, behind the outbox."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, Producer, TopicPartition

from fast_api_service.events.streaming_schemas import ConsumeAnswer, StreamingConfig, StreamingStatus
from recsys.events.connections import Connections
from recsys.events.event import Event
from recsys.events.kafka.client import Kafka
from recsys.events.kafka.log import KafkaLog
from recsys.events.log import START
from recsys.storage import raw_tables
from tests.conftest import free_port
from tests.integration import serving_shop as shop
from tests.integration.posting import Clients, kill_postgres, own_postgres
from tests.kafka_broker import Broker


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker that a test may kill."""
    broker = Broker()
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture
def kafka(own_broker: Broker) -> Kafka:
    return Kafka(own_broker.servers, own_broker.create(f"events-{uuid4().hex[:8]}"))


def settings_of(kafka: Kafka, **more: str) -> dict[str, str]:
    return {"RECSYS_KAFKA_BOOTSTRAP_SERVERS": kafka.servers, "RECSYS_KAFKA_TOPIC": kafka.topic} | more


def read_all(kafka: Kafka, url: str) -> list[Event]:
    """What a reader that begins now finds in the log."""

    async def work() -> list[Event]:
        connections = Connections(url, "reader")
        log, after, events = KafkaLog(kafka, connections), START, list[Event]()
        while (batch := await log.read(after, 100)).after != after:
            events, after = events + batch.events, batch.after
        await log.close()
        await connections.close()
        return events

    return asyncio.run(work())


def command(kafka: Kafka, url: str, *arguments: str) -> Any:
    environment = os.environ | settings_of(kafka) | {"DATABASE_URL": url}
    call = [sys.executable, "-m", "recsys.cli", *arguments]
    return json.loads(subprocess.run(call, env=environment, check=True, stdout=subprocess.PIPE, timeout=120).stdout)


@contextmanager
def running(kafka: Kafka, url: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | settings_of(kafka) | {"DATABASE_URL": url}
    process = subprocess.Popen([sys.executable, "-m", "recsys.cli", *arguments], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def declare(engine: sa.Engine, weights: dict[str, float], bought: list[str]) -> None:
    """What the event types of the shop are from now on."""
    row = {
        "source": "tests",
        "path": "shop",
        "options": {},
        **{f"{entity}_id_type": "integer" for entity in ("user", "item", "category")},
        "event_weights": weights,
        "label_event_types": [],
        "bought_event_types": bought,
        "status": "complete",
    }
    with engine.begin() as connection:
        connection.execute(sa.insert(raw_tables.imports).values(row))


def stored_types(engine: sa.Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return dict(map(tuple, connection.execute(sa.text("select event_id, event_type from events"))))


def add(client: httpx.Client, *raw: dict[str, Any]) -> httpx.Response:
    return client.post("/online/data/add", json={"samples": list(raw)})


def test_an_event_in_kafka_is_in_the_next_answer_and_a_broker_that_is_away_is_told(
    clean_database_url: str, clean_database: sa.Engine, own_broker: Broker, kafka: Kafka
) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    with shop.running_service(clean_database_url, **settings_of(kafka)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        one = {"event_id": "one", "user_id": 777, "item_id": 1001, "event_type": "addtocart"}
        assert add(client, one).json()["accepted"] == 1
        answer = client.post("/recommend", json={"user_id": 777, "explain": True}).json()
        assert answer["recommendations"][0]["reason"] == {"item_id": 1001}
        assert add(client, one).json()["duplicates"] == 1
        assert add(client, one | {"item_id": 1002}).status_code == 409
        own_broker.kill()
        two = {"event_id": "two", "user_id": 777, "item_id": 1002}
        refused = add(client, two)
        assert (refused.status_code, refused.json()["status"]) == (503, "log_away")
        assert int(refused.headers["Retry-After"]) >= 1
        started = time.monotonic()
        assert add(client, two).status_code == 503
        assert time.monotonic() - started < 1, "while Kafka is known to be away, nobody waits for it"
        assert client.post("/recommend", json={"user_id": 777}).status_code == 200
        own_broker.start()
        shop.wait_until(lambda: add(client, two).status_code == 200, 60)
        assert shop.count(clean_database, "events") == 2
    assert [event.event_id for event in read_all(kafka, clean_database_url)] == ["one", "two"]


def test_the_log_is_told_without_its_secrets_and_looked_into_without_moving_a_reader(
    clean_database_url: str, clean_database: sa.Engine, broker: Broker
) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    kafka = Kafka(broker.servers, broker.create(f"events-{uuid4().hex[:8]}"))
    options = json.dumps({"linger.ms": 1, "sasl.username": "somebody", "sasl.password": "secret-word"})
    for more in ({}, settings_of(kafka, RECSYS_KAFKA_OPTIONS=options)):
        with shop.running_service(clean_database_url, **more) as client:
            shop.wait_until(lambda client=client: shop.is_ready(client), 10)
            answer = client.get("/online/streaming/config")
            StreamingConfig.model_validate(answer.json())
            assert "secret-word" not in answer.text
            assert "somebody" not in answer.text
            name = f"kafka:{kafka.topic}" if more else "postgres"
            assert answer.json()["log"] == name
            ids = [f"{name}-{number}" for number in range(12)]
            assert add(client, *({"event_id": id_, "user_id": 501, "item_id": 1001} for id_ in ids)).status_code == 200
            if more:
                assert answer.json()["hidden_options"] == ["sasl.password", "sasl.username"]
                assert answer.json()["options"] == {"linger.ms": 1}
                assert command(kafka, clean_database_url, "sink", "--once")["messages"] == 12
                assert add(client, {"event_id": "later", "user_id": 501, "item_id": 1002}).status_code == 200
                ids = [*ids[1:], "later"]
            for _ in range(2):
                sample = client.post("/online/streaming/consume", json={"limit": 12})
                ConsumeAnswer.model_validate(sample.json())
                assert [event["event_id"] for event in sample.json()["events"]] == ids
            assert sample.json()["events"][0]["user_id"] == 501
            status = client.get("/online/streaming/status").json()
            StreamingStatus.model_validate(status)
            lags = {reader["name"]: reader["lag"] for reader in status["readers"]}
            assert lags == {"updater": 13 if more else 12, "monitor": 0} | ({"sink": 1} if more else {})


def test_poison_goes_to_the_dead_letters_with_its_reason_and_blocks_nobody(
    clean_database_url: str, clean_database: sa.Engine, broker: Broker
) -> None:
    shop.stock(clean_database)
    kafka = Kafka(broker.servers, broker.create(f"events-{uuid4().hex[:8]}", n_partitions=1))
    good = {"event_id": "foreign", "user_id": 501, "item_id": 1001, "occurred_at": "2026-03-01T00:00:00Z"}
    messages = {
        b"\xff\x00": "not JSON",
        b"[1]": "JSON object",
        json.dumps(good | {"item_id": None}).encode(): "item_id is missing",
        json.dumps(good | {"event_id": "x", "parameters": {"a": "\0"}}).encode(): "NUL",
        json.dumps(good | {"event_id": "y", "occurred_at": "0001-01-01T00:00:00+14:00"}).encode(): "cannot store",
    }
    producer = Producer(kafka.producer())
    for number, value in enumerate([*messages, json.dumps(good).encode()]):
        producer.produce(kafka.topic, value, key=str(number))
    assert producer.flush(30) == 0
    assert command(kafka, clean_database_url, "sink", "--once") == {"messages": 6}
    assert command(kafka, clean_database_url, "sink", "--once") == {"messages": 0}
    assert [event.event_id for event in read_all(kafka, clean_database_url)] == ["foreign"]
    assert shop.count(clean_database, "user_recent where owner = 'user:501' and item_keys = '{1}'") == 1
    consumer = Consumer({"bootstrap.servers": kafka.servers, "group.id": "test"})
    consumer.assign([TopicPartition(kafka.dead_letters, number, 0) for number in range(3)])
    found = {}
    deadline = time.monotonic() + 30
    while len(found) < len(messages) and time.monotonic() < deadline:
        for message in consumer.consume(10, 0.5):
            headers = dict(message.headers() or [])
            found[message.value()] = headers["reason"].decode()
            assert headers["place"].decode().startswith(f"{kafka.topic}/0/")
    consumer.close()
    assert found.keys() == messages.keys()
    for value, reason in messages.items():
        assert reason in found[value]


def test_messages_of_other_producers_have_the_types_of_the_shop(
    clean_database_url: str, clean_database: sa.Engine, broker: Broker
) -> None:
    """As events that are posted over HTTP; also for a reader that finds the message before the sink does."""
    shop.stock(clean_database)
    declare(clean_database, {"listen": 1.0, "save": 2.0, "Kauf": 5.0}, ["Kauf"])
    kafka = Kafka(broker.servers, broker.create(f"events-{uuid4().hex[:8]}", n_partitions=1))
    posted = {
        "none": {},
        "null": {"event_type": None},
        "of_another_name": {"action_type": "SAVE"},
        "bought": {"event_type": "Purchase"},
        "strange": {"event_type": "gift"},
    }
    expected = {"none": "listen", "null": "listen", "of_another_name": "save", "bought": "Kauf", "strange": "gift"}
    producer = Producer(kafka.producer())
    for name, fields in posted.items():
        message = {"event_id": name, "user_id": 501, "item_id": 1001, "occurred_at": "2026-03-01T00:00:00Z"} | fields
        producer.produce(kafka.topic, json.dumps(message), key="501")
    assert producer.flush(30) == 0
    assert command(kafka, clean_database_url, "sink", "--once")["messages"] == len(posted)
    assert stored_types(clean_database) == expected
    declare(clean_database, {"watch": 1.0}, [])  # what is stored stays, also for those who read it later
    assert {event.event_id: event.event_type for event in read_all(kafka, clean_database_url)} == expected
    producer.produce(kafka.topic, json.dumps(message | {"event_id": "later", "event_type": None}), key="501")
    assert producer.flush(30) == 0
    assert read_all(kafka, clean_database_url)[-1].event_type == "watch"
    assert stored_types(clean_database) == expected | {"later": "watch"}


def test_the_words_of_the_setting_hold_for_messages_and_for_posts(
    clean_database_url: str, clean_database: sa.Engine, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_EVENT_SYNONYMS", json.dumps({"bought": ["erworben"]}))
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    kafka = Kafka(broker.servers, broker.create(f"events-{uuid4().hex[:8]}", n_partitions=1))
    message = {"event_id": "message", "user_id": 501, "item_id": 1001, "event_type": "Erworben"}
    producer = Producer(kafka.producer())
    producer.produce(kafka.topic, json.dumps(message | {"occurred_at": "2026-03-01T00:00:00Z"}), key="501")
    assert producer.flush(30) == 0
    assert command(kafka, clean_database_url, "sink", "--once")["messages"] == 1
    with shop.running_service(clean_database_url, **settings_of(kafka)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        assert add(client, message | {"event_id": "post"}).json()["stored_as"] == {"Erworben": "transaction"}
    assert stored_types(clean_database) == {"message": "transaction", "post": "transaction"}


def test_the_metrics_tell_what_stands_between_kafka_and_the_tables(
    clean_database_url: str, clean_database: sa.Engine, broker: Broker
) -> None:
    shop.stock(clean_database)
    kafka = Kafka(broker.servers, broker.create(f"events-{uuid4().hex[:8]}"))
    with shop.running_service(clean_database_url, **settings_of(kafka, RECSYS_EVENT_OUTBOX="true")) as client:

        def figure(name: str) -> float:
            return next(
                float(line.split()[-1]) for line in client.get("/metrics").text.splitlines() if line.startswith(name)
            )

        events = [{"event_id": f"e{number}", "user_id": 501, "item_id": 1001} for number in range(12)]
        assert add(client, *events).status_code == 200
        producer = Producer(kafka.producer())
        producer.produce(kafka.topic, b"poison", key="someone")
        assert producer.flush(30) == 0
        shop.wait_until(lambda: figure("recsys_outbox_events") == 12, 30)
        assert 0 < figure("recsys_outbox_oldest_seconds") < 60
        shop.wait_until(lambda: figure("recsys_sink_lag_messages") == 1, 30)
        assert figure("recsys_dead_letters") == 0
        assert figure('recsys_log_worker_up{worker="relay"}') == figure('recsys_log_worker_up{worker="sink"}') == 0
        with running(kafka, clean_database_url, "relay"), running(kafka, clean_database_url, "sink"):
            shop.wait_until(lambda: figure("recsys_dead_letters") == 1, 30)
            shop.wait_until(lambda: figure("recsys_sink_lag_messages") == figure("recsys_outbox_events") == 0, 30)
            assert figure("recsys_outbox_oldest_seconds") == 0
            assert figure('recsys_log_worker_up{worker="relay"}') == figure('recsys_log_worker_up{worker="sink"}') == 1


def test_the_outbox_takes_events_while_kafka_is_away_and_the_relay_delivers_them_in_order(
    clean_database_url: str, clean_database: sa.Engine, own_broker: Broker, kafka: Kafka
) -> None:
    shop.stock(clean_database)
    own_broker.kill()
    posted = [f"e{number:03}" for number in range(60)]
    with shop.running_service(clean_database_url, **settings_of(kafka, RECSYS_EVENT_OUTBOX="true")) as client:
        for start in range(0, 60, 7):
            batch = [
                {"event_id": name, "user_id": 500 + int(name[1:]) % 4, "item_id": 1001}
                for name in posted[start : start + 7]
            ]
            assert add(client, *batch).status_code == 200
    with running(kafka, clean_database_url, "relay"):
        time.sleep(3)  # it finds no broker and is patient
        own_broker.start()
        shop.wait_until(lambda: not shop.count(clean_database, "events where kafka_offset is null"), 60)
    found = [event.event_id for event in read_all(kafka, clean_database_url)]
    assert sorted(found) == posted
    for user in range(4):
        mine = [name for name in found if int(name[1:]) % 4 == user]
        assert mine == sorted(mine)
    assert command(kafka, clean_database_url, "relay", "--once") == {"passed": 0}


@pytest.mark.slow
def test_behind_the_outbox_whatever_is_killed_what_was_acknowledged_is_stored_and_read_once(
    own_broker: Broker, kafka: Kafka
) -> None:
    """Clients post, and send again what was not acknowledged, while service, Postgres, Kafka and relay die;
    test_all_killed.py does so with the sink."""
    with own_postgres() as (folder, url, engine):
        shop.stock(engine)
        acknowledged, posted = _post_while_killing(own_broker, kafka, url, folder)
        shop.wait_until(lambda: command(kafka, url, "relay", "--once") == {"passed": 0}, 60)
        with engine.connect() as connection:
            stored = connection.execute(sa.text("select event_id from events")).scalars().all()
        found = [event.event_id for event in read_all(kafka, url)]
    assert acknowledged == set(posted)
    assert sorted(stored) == sorted(posted)
    assert sorted(found) == sorted(posted)


def _post_while_killing(broker: Broker, kafka: Kafka, url: str, folder: Any) -> tuple[set[str], list[str]]:
    """Ids that were acknowledged, and all that were posted; each of the kinds of processes is killed twice."""
    chance = random.Random(11)  # noqa: S311
    samples = [{"event_id": f"k{n:04}", "user_id": 500 + n % 7, "item_id": 1001} for n in range(1500)]
    port = free_port()
    environment = (
        os.environ | settings_of(kafka, RECSYS_EVENT_OUTBOX="true") | {"DATABASE_URL": url, "API_PORT": str(port)}
    )
    calls = {"service": ["-m", "fast_api_service"], "relay": ["-m", "recsys.cli", "relay"]}
    processes = {name: subprocess.Popen([sys.executable, *call], env=environment) for name, call in calls.items()}
    try:
        with Clients([f"http://127.0.0.1:{port}"], samples) as clients:
            victims = ["service", "relay", "kafka", "postgres"] * 2
            chance.shuffle(victims)
            for victim in victims:
                clients.go_on(60)
                time.sleep(chance.random() / 2)
                if victim == "kafka":
                    broker.kill()
                    time.sleep(0.5)
                    broker.start()
                elif victim == "postgres":
                    kill_postgres(folder)
                else:
                    processes[victim].kill()
                    processes[victim].wait(20)
                    processes[victim] = subprocess.Popen([sys.executable, *calls[victim]], env=environment)
            clients.finish()
    finally:
        for process in processes.values():
            process.kill()
            process.wait(20)
    return clients.acknowledged, [str(sample["event_id"]) for sample in samples]
