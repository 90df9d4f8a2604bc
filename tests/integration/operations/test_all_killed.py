"""Events are posted through two services and learned, while everything behind them is killed in turn."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import orjson
import psutil
import pytest
import sqlalchemy as sa

from tests import online_world as world
from tests.conftest import free_port
from tests.integration import serving_shop as shop
from tests.integration.posting import Clients, kill_postgres, own_postgres
from tests.integration.updater.updater_processes import execute, learned, rows
from tests.kafka_broker import Broker

pytestmark = [pytest.mark.slow]  # processes are killed, a network is trained

N = 1200
Answer = TypeVar("Answer")
OPTIONS = {"batch_events": 50, "batch_s": 0.5, "step_rows": 64, "updates_per_base": 10}


def samples() -> list[dict[str, Any]]:
    """Of now, as people like it."""
    chance = np.random.default_rng(9)
    made = [world.taste(number, chance, event_id=f"k{number:04}") for number in range(N)]
    return [{name: value for name, value in one.items() if name != "timestamp"} for one in made]


class Processes:
    """By name; killed and started again by name, and ended with the block."""

    def __init__(self, url: str, artifacts: Path, *, with_sink: bool) -> None:
        self.ports = [free_port(), free_port()]
        common = {"DATABASE_URL": url, "ARTIFACT_ROOT": str(artifacts)}
        common["RECSYS_UPDATER"] = orjson.dumps(OPTIONS).decode()
        self._calls = {
            f"service {n}": (["fast_api_service"], common | {"API_PORT": str(port)})
            for n, port in enumerate(self.ports)
        }
        self._calls["supervisor"] = (["recsys.cli", "updater"], common)
        if with_sink:
            self._calls["sink"] = (["recsys.cli", "sink"], common)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        for name in self._calls:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(40)

    def start(self, name: str) -> None:
        module, environment = self._calls[name]
        self._running[name] = subprocess.Popen([sys.executable, "-m", *module], env=os.environ | environment)

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running[name].wait(20)
        self.start(name)


def surely(ask: Callable[[], Answer]) -> Answer:
    """What Postgres says, again while it is away."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask()
        except sa.exc.DBAPIError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def kill_updater(engine: sa.Engine) -> None:
    """The one that works; its supervisor starts another."""

    def at_work() -> int:
        [row] = surely(lambda: rows(engine, "select holder, state from training_state"))
        pid = int(row["holder"].rpartition(":")[2]) if row["holder"] and row["state"] == "running" else 0
        return pid if pid and psutil.pid_exists(pid) else 0

    pid = 0
    while not pid:
        shop.wait_until(at_work, 90)
        pid = at_work()
    os.kill(pid, signal.SIGKILL)


def _let_learn(engine: sa.Engine, clients: Clients) -> None:
    """Until more is posted, and more is learned as long as there is more."""
    before = surely(lambda: learned(engine))
    clients.go_on(100)
    shop.wait_until(lambda: surely(lambda: learned(engine)) > before or len(clients.acknowledged) == N, 90)


@pytest.mark.parametrize("log", ["postgres", "kafka"])
def test_whatever_is_killed_all_that_was_acknowledged_is_stored_once_and_learned_once(
    artifacts: Path, tmp_path: Path, log: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(5)  # noqa: S311
    root = shutil.copytree(artifacts, tmp_path / "artifacts")
    broker: Broker | None = None
    victims = ["service 0", "service 1", "updater", "postgres"]
    if log == "kafka":
        broker = Broker()
        request.addfinalizer(broker.close)
        broker.start()
        monkeypatch.setenv("RECSYS_KAFKA_BOOTSTRAP_SERVERS", broker.servers)
        monkeypatch.setenv("RECSYS_KAFKA_TOPIC", broker.create(f"events-{uuid4().hex[:8]}", 3))
        victims += ["kafka", "sink"]
    chance.shuffle(victims)
    posted = samples()
    with own_postgres() as (folder, url, engine):
        world.stock(engine)
        execute(engine, "update training_state set watchdog_s = 5, backoff_s = 0.1")
        with Processes(url, root, with_sink=broker is not None) as processes:
            urls = [f"http://127.0.0.1:{port}" for port in processes.ports]
            shop.wait_until(lambda: rows(engine, "select from model_updates"), 90)
            with Clients(urls, posted, pause_s=0.1) as clients:
                for victim in victims:
                    _let_learn(engine, clients)
                    time.sleep(chance.random() / 2)
                    if victim == "postgres":
                        kill_postgres(folder)
                    elif victim == "updater":
                        kill_updater(engine)
                    elif broker is not None and victim == "kafka":
                        broker.kill()
                        time.sleep(0.5)
                        broker.start()
                    else:
                        processes.kill(victim)
                clients.finish()
            shop.wait_until(lambda: surely(lambda: learned(engine)) >= N, 90)
            time.sleep(2)  # more would be too much
        stored = sorted(row["event_id"] for row in rows(engine, "select event_id from events"))
        chain = rows(engine, "select * from model_updates order by number")
        state = rows(engine, "select * from training_state")[0]
    assert clients.acknowledged == {sample["event_id"] for sample in posted}
    assert stored == sorted(sample["event_id"] for sample in posted)
    assert sum(row["n_events"] for row in chain) == N
    assert [row["number"] for row in chain] == list(range(1, len(chain) + 1))
    assert chain[0]["parent"] is None
    for before, row in itertools.pairwise(chain):
        assert row["parent"] == before["chain"], row["reason"]
    assert state["n_rollbacks"] == 0
    assert len({row["fence"] for row in chain}) > 1
