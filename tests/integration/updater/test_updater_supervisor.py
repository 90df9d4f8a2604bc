"""The supervisor keeps one updater at work, ends one that hangs, and gives up when it is told to."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import sqlalchemy as sa

from tests import online_world as world
from tests.integration import serving_shop as shop
from tests.integration.updater.updater_processes import (
    append,
    learned,
    service,
    status,
    updater,
)

pytestmark = [pytest.mark.slow]  # a network is trained, and processes import TensorFlow


def test_a_supervisor_restarts_ends_and_gives_up_as_it_is_told(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(artifacts, tmp_path / "artifacts")
    world.stock(clean_database)
    random = np.random.default_rng(7)

    def pid(client: httpx.Client) -> int:
        return int(str(status(client)["holder"]).rpartition(":")[2])

    def lines(client: httpx.Client, stream: str) -> str:
        found = client.get("/online/training/logs", params={"stream": stream, "limit": 200}).json()["lines"]
        return "\n".join(line["line"] for line in found)

    def works(client: httpx.Client, in_place_of: int = 0) -> bool:
        now = status(client)
        holder = now["holder"] if now["state"] == "running" else None
        return holder is not None and int(holder.rpartition(":")[2]) != in_place_of

    with (
        service(clean_database_url, root) as client,
        updater(clean_database_url, root, "recsys.cli", "updater", may_be_killed=True) as supervisor,
    ):
        policy = {"max_restarts": 2, "backoff_s": 0.2, "watchdog_s": 5}
        answer = client.patch("/online/training/restart-policy", json=policy).json()
        assert answer == pytest.approx(policy)
        shop.wait_until(lambda: works(client), 60)
        assert status(client)["supervisor"].endswith(f":{supervisor.pid}")
        append(clean_database_url, [world.taste(number, random) for number in range(100)])
        shop.wait_until(lambda: learned(clean_database) == 100, 30)

        first = pid(client)
        os.kill(first, signal.SIGKILL)
        shop.wait_until(lambda: works(client, in_place_of=first), 60)
        assert (status(client)["restarts"], status(client)["fence"]) == (1, 2)
        second = pid(client)
        os.kill(second, signal.SIGSTOP)
        shop.wait_until(lambda: works(client, in_place_of=second), 60)
        assert not psutil.pid_exists(second)
        assert status(client)["restarts"] == 2
        append(clean_database_url, [world.taste(number, random) for number in range(100, 200)])
        shop.wait_until(lambda: learned(clean_database) == 200, 30)
        assert "hangs: no heartbeat" in lines(client, "supervisor")
        assert "resumed deepfm/v1 after update" in lines(client, "updater")

        os.kill(pid(client), signal.SIGKILL)
        shop.wait_until(lambda: status(client)["state"] == "failed", 30)
        assert "given up after 2 restarts" in status(client)["reason"]
        time.sleep(2)
        assert status(client)["holder"] is None
        assert client.post("/online/training/start").json()["wanted"] == "running"
        shop.wait_until(lambda: works(client), 60)
        assert status(client)["restarts"] == 0

        append(clean_database_url, [world.taste(number, random) for number in range(200, 210)])
        client.post("/online/training/stop").raise_for_status()
        shop.wait_until(lambda: status(client)["state"] == "stopped" and status(client)["holder"] is None, 40)
        assert learned(clean_database) <= 210
        append(clean_database_url, [world.taste(number, random) for number in range(210, 220)])
        time.sleep(2)
        assert status(client)["lag"] == 220 - learned(clean_database) > 0
        client.post("/online/training/start").raise_for_status()
        shop.wait_until(lambda: status(client)["lag"] == 0, 60)
        child = pid(client)
        supervisor.kill()  # its updater does not live on
        supervisor.wait(10)
        shop.wait_until(lambda: not psutil.pid_exists(child), 30)
    assert learned(clean_database) == 220
