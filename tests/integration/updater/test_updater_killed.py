"""The updater on each log, killed between any two steps and followed by another: what it becomes is the same."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import sqlalchemy as sa

from tests import online_world as world
from tests.conftest import database_named
from tests.integration import serving_shop as shop
from tests.integration.updater.dying_updater import POINTS
from tests.integration.updater.updater_processes import append, execute, learned, rows, started, updater
from tests.kafka_broker import Broker

pytestmark = [pytest.mark.slow]  # a network is trained, and processes import TensorFlow

OPTIONS: dict[str, Any] = {"batch_events": 50, "batch_s": 1e6, "priority_event_types": [], "step_rows": 32}
OPTIONS |= {"updates_per_base": 4, "buffer_rows": 200}
CHAIN = "select number, chain, is_base, n_events from model_updates order by number"


def samples() -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    made = [world.taste(number, random) for number in range(600)]
    for n in range(100):  # users of whom only these events tell, five of each
        made[6 * n + 5] = world.sample(61 + n // 5, 1 + n % 40, 6 * n + 5)
    # users and items that get rows meanwhile
    return made + [world.sample(2 * n % 60 + 2, 41 + n % 8, 600 + n) for n in range(100)]


@contextmanager
def stocked(server: str, template: str, name: str) -> Iterator[tuple[str, sa.Engine]]:
    with database_named(server, template, name) as url:
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"), poolclass=sa.NullPool)
        world.stock(engine)
        execute(engine, "update training_state set watchdog_s = 1")  # who was killed holds its lease no longer
        yield url, engine


def finish(url: str, engine: sa.Engine, root: Path) -> list[dict[str, Any]]:
    """The chain of an updater that has learned all, then the users who have keys."""
    with updater(url, root, **OPTIONS):
        shop.wait_until(lambda: learned(engine) == 700, 120)
        shop.wait_until(lambda: len(rows(engine, "select from model_updates where is_base")) == 4, 10)
    users = rows(engine, "select user_key, user_id from users order by user_key")
    assert len(users) == world.N_USERS + 20
    return rows(engine, CHAIN) + users


@pytest.fixture(scope="module")
def undisturbed(
    postgres_server: str, template_database: str, artifacts: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """On the Postgres log. To the bit: the chain is a checksum over all weights, moments and older training examples
    of all updates."""
    root = shutil.copytree(artifacts, tmp_path_factory.mktemp("undisturbed") / "artifacts")
    with stocked(postgres_server, template_database, "undisturbed") as (url, engine):
        append(url, samples())
        return finish(url, engine, root)


@pytest.fixture
def name_kafka(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the processes of a test have Kafka as their log."""

    def name(broker: Broker, n_partitions: int) -> str:
        topic = broker.create(f"events-{uuid4().hex[:8]}", n_partitions)
        monkeypatch.setenv("RECSYS_KAFKA_BOOTSTRAP_SERVERS", broker.servers)
        monkeypatch.setenv("RECSYS_KAFKA_TOPIC", topic)
        return topic

    return name


@pytest.mark.timeout(900)  # a process for each step, each of which imports TensorFlow
@pytest.mark.parametrize("log", ["postgres", "kafka"])
def test_killed_between_any_two_steps_it_ends_where_an_undisturbed_one_does(
    postgres_server: str,
    template_database: str,
    artifacts: Path,
    tmp_path: Path,
    undisturbed: list[dict[str, Any]],
    request: pytest.FixtureRequest,
    name_kafka: Any,
    log: str,
) -> None:
    """On Kafka as well, where one partition keeps the order of all: the two logs teach the same."""
    if log == "kafka":
        name_kafka(request.getfixturevalue("broker"), n_partitions=1)
    root = shutil.copytree(artifacts, tmp_path / "artifacts")
    with stocked(postgres_server, template_database, f"killed on {log}") as (url, engine):
        append(url, samples())
        if log == "kafka":  # as if the service had been killed before it could write them: the readers do
            execute(engine, "truncate events, user_recent")
        for n, point in enumerate(POINTS):
            process = started(url, root, "tests.integration.updater.dying_updater", point, str(1 + n % 2), **OPTIONS)
            try:
                assert process.wait(60) == -signal.SIGKILL, point
            finally:
                process.kill()
        chain = finish(url, engine, root)
        assert len({row["fence"] for row in rows(engine, "select fence from model_updates")}) > 3
        assert {row["log"].partition(":")[0] for row in rows(engine, "select log from model_updates")} == {log}
    assert chain == undisturbed
    assert [row["number"] for row in chain if "number" in row] == list(range(1, 19))


def test_who_takes_over_has_what_the_one_before_had_however_partitions_come_together(
    postgres_server: str, template_database: str, artifacts: Path, tmp_path: Path, broker: Broker, name_kafka: Any
) -> None:
    """The base that an updater writes of what it has learned, and the one that another writes in its place, who has
    followed the updates and read the events of each again: the same bits."""
    name_kafka(broker, n_partitions=3)
    root = shutil.copytree(artifacts, tmp_path / "artifacts")
    last_base = "number = (select max(number) from model_updates where is_base)"
    with stocked(postgres_server, template_database, "takes over") as (url, engine):
        with updater(url, root, **OPTIONS):
            for n in range(0, 700, 70):  # read as they come, and so mixed otherwise than all at once
                append(url, samples()[n : n + 70])
                shop.wait_until(lambda n=n: learned(engine) == (n + 70) // 50 * 50, 60)
            shop.wait_until(lambda: len(rows(engine, "select from model_updates where is_base")) == 4, 10)
        before = rows(engine, f"select number, chain, artifact from model_updates where {last_base}")
        execute(engine, f"delete from model_updates where number >= {before[0]['number']}")
        shutil.rmtree(root / before[0]["artifact"])
        with updater(url, root, **OPTIONS):
            shop.wait_until(lambda: len(rows(engine, "select from model_updates where is_base")) == 4, 60)
        after = rows(engine, f"select number, chain from model_updates where {last_base}")
    assert after == [{name: before[0][name] for name in ("number", "chain")}]
