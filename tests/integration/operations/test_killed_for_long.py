"""Everything is killed again and again while clients post, readers read and publishers publish.

RECSYS_TEST_KILLS says how often, some ten seconds apart; 60 take ten minutes.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from recsys.storage import tables
from tests import online_world as world
from tests.integration import serving_shop as shop
from tests.integration.nights import publishing
from tests.integration.operations.test_all_killed import Processes, kill_updater, surely
from tests.integration.posting import Clients, kill_postgres, own_postgres
from tests.integration.updater.updater_processes import execute, learned, rows

N_KILLS = int(os.environ.get("RECSYS_TEST_KILLS", "8"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 30 * N_KILLS)]
PAUSE_S = (4.0, 14.0)
MODEL = "deepfm/v1"


class Readers:
    """Two that ask for recommendations over and over; what they were answered, and what should not have been."""

    def __init__(self, urls: list[str]) -> None:
        self.answers: list[tuple[int, int, list[int]]] = []  # publication, owner, item keys
        self.codes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(url, n)) for n, url in enumerate(urls)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _read(self, url: str, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        with httpx.Client(timeout=20) as client:
            while not self._over.is_set():
                owner = chance.choice(publishing.OWNERS)
                try:
                    response = client.post(f"{url}/recommend", json={"user_id": 500 + owner, "top_k": 10})
                except httpx.TransportError:  # the worker is dead
                    self.codes["no answer"] += 1
                    time.sleep(0.1)
                    continue
                self._note(owner, response)
                time.sleep(0.01)

    def _note(self, owner: int, response: httpx.Response) -> None:
        self.codes[str(response.status_code)] += 1
        if response.status_code == 503 and "retry-after" in response.headers:
            return
        if response.status_code != 200:
            self.wrong.append(f"{response.status_code} {response.text[:200]}")
            return
        body = response.json()
        items = [entry["item_id"] - 1000 for entry in body["recommendations"]]
        if len(set(items)) != 10 or set(items) & shop.UNAVAILABLE:
            self.wrong.append(f"{items} for {owner}")
        if body["provenance"]["tier"] == "personal":
            self.answers.append((body["provenance"]["publication_id"], owner, items))


class Publisher:
    """A process that publishes edition after edition; it can be killed and begins again."""

    def __init__(self, url: str) -> None:
        self._call = [sys.executable, "-m", "tests.integration.nights.publishing", url, MODEL]
        self.n_killed = 0

    def __enter__(self) -> Publisher:
        self._process = subprocess.Popen(self._call, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(20)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(20)
        self.n_killed += 1
        self._process = subprocess.Popen(self._call, stdout=subprocess.DEVNULL)


def samples(n: int) -> list[dict[str, Any]]:
    chance = np.random.default_rng(3)
    made = [world.taste(number, chance, event_id=f"k{number:06}") for number in range(n)]
    return [{name: value for name, value in one.items() if name != "timestamp"} for one in made]


def test_kills_of_everything_for_long_lose_no_event_and_mix_no_publication(artifacts: Path, tmp_path: Path) -> None:
    chance = random.Random(11)  # noqa: S311
    root = shutil.copytree(artifacts, tmp_path / "artifacts")
    victims = ["service 0", "service 1", "updater", "postgres", "publisher"]
    posted = samples(300 * (N_KILLS + 2))
    with own_postgres() as (folder, url, engine):
        world.stock(engine, MODEL)
        with engine.begin() as connection:
            users = [{"user_key": key, "user_id": str(500 + key)} for key in publishing.OWNERS]
            connection.execute(sa.insert(tables.users), users)
        publishing.publish(engine, MODEL)
        execute(engine, "update training_state set watchdog_s = 5, backoff_s = 0.1, max_restarts = 1000")
        with Processes(url, root, with_sink=False) as processes:
            urls = [f"http://127.0.0.1:{port}" for port in processes.ports]
            shop.wait_until(lambda: rows(engine, "select from model_updates"), 120)
            with Readers(urls) as readers, Publisher(url) as publisher:
                with Clients(urls, posted, pause_s=0.15) as clients:
                    order = itertools.islice(itertools.cycle(victims), N_KILLS)
                    for victim in chance.sample(list(order), N_KILLS):
                        time.sleep(chance.uniform(*PAUSE_S))
                        if victim == "postgres":
                            kill_postgres(folder)
                        elif victim == "updater":
                            # without this, the supervisor's pauses grow from one kill to the next
                            surely(lambda: execute(engine, "update training_state set restarts = 0"))
                            kill_updater(engine)
                        elif victim == "publisher":
                            publisher.kill()
                        else:
                            processes.kill(victim)
                    clients.finish(600)
                shop.wait_until(lambda: surely(lambda: learned(engine)) >= len(posted), 300)
            edition_of = {
                row["publication_id"]: int(row["edition"].partition("/")[2])
                for row in rows(
                    engine,
                    "select publication_id, models ->> 'edition' as edition from publications where models ? 'edition'",
                )
            }
        stored = Counter(row["event_id"] for row in rows(engine, "select event_id from events"))
        n_learned = rows(engine, "select sum(n_events) as n from model_updates")[0]["n"]
    print(f"{N_KILLS} kills, {len(stored)} events, {len(edition_of)} publications, {readers.codes}")
    assert not readers.wrong, readers.wrong[:3]
    assert len(readers.answers) > 20 * N_KILLS, readers.codes
    mixed = [
        (publication, owner, items)
        for publication, owner, items in readers.answers
        if items != publishing.items_of(edition_of[publication], owner)[:10]
    ]
    assert not mixed, mixed[:3]
    assert len({publication for publication, *_ in readers.answers}) > 2, "readers saw publications change"
    assert clients.acknowledged == {sample["event_id"] for sample in posted}
    assert stored == Counter(dict.fromkeys(clients.acknowledged, 1))
    assert n_learned == len(posted)
