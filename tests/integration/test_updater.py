"""The updater as a process beside the service: an event changes what another process answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa

from tests import online_world as world
from tests.integration import serving_shop as shop
from tests.integration import tiny_model

pytestmark = [pytest.mark.slow]  # a network is trained, and processes import TensorFlow

OPTIONS = {"batch_s": 0.5, "step_rows": 64, "guard_window": 200}


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    world.write_model(root, "v1")
    return root


@contextmanager
def updater(
    database_url: str, artifacts: Path, *, module: str = "recsys.online.updater", **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """The process that learns."""
    settings = {
        "DATABASE_URL": database_url,
        "ARTIFACT_ROOT": str(artifacts),
        "RECSYS_UPDATER": orjson.dumps(OPTIONS | options).decode(),
    }
    process = subprocess.Popen([sys.executable, "-m", module], env=os.environ | settings)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def service(database_url: str, artifacts: Path) -> Iterator[httpx.Client]:
    with shop.running_service(database_url, ARTIFACT_ROOT=str(artifacts)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tiny_model.in_service(client) is not None, 10)
        yield client


def post(client: httpx.Client, *samples: dict[str, Any]) -> None:
    for start in range(0, len(samples), 500):
        client.post("/online/data/add", json={"samples": samples[start : start + 500]}).raise_for_status()


def probability(client: httpx.Client, user: int, item: int) -> float:
    body = client.post("/predict", json={"user_id": 500 + user, "item_id": 1000 + item}).json()
    return float(body["predictions"][0]["probability"])


def status(client: httpx.Client) -> dict[str, Any]:
    body: dict[str, Any] = client.get("/online/training/status").raise_for_status().json()
    return body


def online(client: httpx.Client) -> dict[str, Any]:
    body: dict[str, Any] = client.get("/model/info").raise_for_status().json()["scorer"]["online"]
    return body


def test_what_one_process_is_told_another_one_predicts(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path
) -> None:
    world.stock(clean_database)
    with (
        service(clean_database_url, artifacts) as told,
        service(clean_database_url, artifacts) as asked,
        updater(clean_database_url, artifacts),
    ):
        shop.wait_until(lambda: status(told)["state"] == "running", 60)
        before = probability(asked, 7, 33)
        # other users' purchases: only what was learned can tell of them
        for number in range(0, 50, 10):
            bought = [world.sample(9 + 2 * n, 33, number + n, event_type="transaction") for n in range(10)]
            post(told, *bought)
            shop.wait_until(lambda n=number: online(asked)["update"] >= 2 + n // 10, 10)
        assert probability(asked, 7, 33) > before + 0.03
        shop.wait_until(lambda: online(asked)["update"] == online(told)["update"] > 1, 5)
        now = status(told)
        assert (now["last_update"], now["lag"]) == (online(asked)["update"], 0)
        assert now["model"] == "deepfm/v1"
        assert now["heartbeat_age_s"] < 5
        listed = told.get("/online/updates/list").json()["updates"]
        assert [update["number"] for update in listed] == list(range(now["last_update"], 0, -1))
        assert listed[-1]["is_base"]
        assert sum(update["n_events"] for update in listed) == 50
