"""The updater and the service as processes, and what tests ask of them."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import sqlalchemy as sa

from recsys.events.connections import Connections
from recsys.events.event import parse
from recsys.events.opening import open_log
from recsys.settings import Settings
from tests import online_world as world
from tests.integration import serving_shop as shop
from tests.integration import tiny_model

OPTIONS = {"batch_s": 0.5, "step_rows": 64, "guard_window": 200}


def started(database_url: str, artifacts: Path | str, *call: str, **options: Any) -> subprocess.Popen[bytes]:
    """A process that learns; the updater itself where no other module is named."""
    settings = {
        "DATABASE_URL": database_url,
        "ARTIFACT_ROOT": str(artifacts),
        "RECSYS_UPDATER": orjson.dumps(OPTIONS | options).decode(),
    }
    module = call or ("recsys.updater.__main__",)
    return subprocess.Popen([sys.executable, "-m", *module], env=os.environ | settings)


@contextmanager
def updater(
    database_url: str, artifacts: Path | str, *call: str, may_be_killed: bool = False, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """The same, ended on leaving."""
    process = started(database_url, artifacts, *call, **options)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert process.wait(30) == 0 or may_be_killed


@contextmanager
def service(database_url: str, artifacts: Path | str) -> Iterator[httpx.Client]:
    with shop.running_service(database_url, ARTIFACT_ROOT=str(artifacts)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tiny_model.in_service(client) is not None, 10)
        yield client


def append(database_url: str, samples: list[dict[str, Any]]) -> None:
    """Put events into the log that the environment names, as the service does, without one."""
    texts = [
        sample
        | {name: str(sample[name]) for name in ("user_id", "item_id")}
        | {"timestamp": dt.datetime.fromisoformat(sample["timestamp"])}
        for sample in samples
    ]
    events, rejected = parse(texts, world.CUT_AT + dt.timedelta(days=30))
    assert not rejected

    async def work() -> None:
        connections = Connections(database_url, "tests")
        log = open_log(Settings(), connections)
        for start in range(0, len(events), 500):
            await log.append([event for _, event in events[start : start + 500]])
        await log.close()
        await connections.close()

    asyncio.run(work())


def execute(engine: sa.Engine, sql: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(sql), values)


def rows(engine: sa.Engine, sql: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.text(sql)).mappings()]


def learned(engine: sa.Engine) -> int:
    """Events that updates hold."""
    return int(rows(engine, "select coalesce(sum(n_events), 0) as n from model_updates")[0]["n"])


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


def updates(client: httpx.Client) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = client.get("/online/updates/list", params={"limit": 200}).json()["updates"]
    return listed
