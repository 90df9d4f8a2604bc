"""The service, killed between any two steps of storing events: a client that sends the same again finds it once."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from recsys.events.connections import Connections
from recsys.events.log import START
from recsys.events.opening import open_log
from recsys.settings import Settings
from tests.integration import serving_shop as shop
from tests.integration.runtime.dying_service import KAFKA, POSTGRES
from tests.kafka_broker import Broker

pytestmark = [pytest.mark.slow]  # processes are killed

N = 10


def samples(round_: int) -> list[dict[str, Any]]:
    """Half of them without an id of their own: one is derived."""
    made = [
        {"event_id": f"e{n:03}", "user_id": 501 + n % 3, "item_id": 1001 + n % 60, "label": round_}
        for n in range(round_ * N, round_ * N + N)
    ]
    return [one if n % 2 else {**one, "event_id": None} for n, one in enumerate(made)]


def read_all(url: str) -> list[tuple[str | None, str, float | None]]:
    """What a reader that begins now finds."""

    async def work() -> list[tuple[str | None, str, float | None]]:
        connections = Connections(url, "reader")
        log, after, found = open_log(Settings(), connections), START, []
        while (batch := await log.read(after, 100)).after != after:
            found += [(event.user_id, event.item_id, event.label) for event in batch.events]
            after = batch.after
        await log.close()
        await connections.close()
        return found

    return asyncio.run(work())


@pytest.mark.parametrize("log", ["postgres", "kafka"])
def test_killed_between_any_two_steps_what_is_sent_again_is_stored_once(
    clean_database_url: str,
    clean_database: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    log: str,
) -> None:
    shop.stock(clean_database)
    points = POSTGRES
    if log == "kafka":
        points = KAFKA
        broker: Broker = request.getfixturevalue("broker")
        monkeypatch.setenv("RECSYS_KAFKA_BOOTSTRAP_SERVERS", broker.servers)
        monkeypatch.setenv("RECSYS_KAFKA_TOPIC", broker.create(f"events-{uuid4().hex[:8]}"))
    outcomes = []
    for round_, point in enumerate(points):
        module = ("tests.integration.runtime.dying_service", point)
        with shop.running_service(clean_database_url, may_die=True, module=module) as client:
            with pytest.raises(httpx.TransportError):
                client.post("/online/data/add", json={"samples": samples(round_)})
            assert client.process.wait(10) == -9, point  # type: ignore[attr-defined]
    with shop.running_service(clean_database_url) as client:
        for round_ in range(len(points)):
            answer = client.post("/online/data/add", json={"samples": samples(round_)}).raise_for_status().json()
            assert answer["accepted"] + answer["duplicates"] == N
            outcomes.append(answer["accepted"])
    stored_before = list(points).index("rows are committed")
    assert outcomes == [N] * stored_before + [0] * (len(points) - stored_before)
    expected = sorted(
        (str(one["user_id"]), str(one["item_id"]), float(round_))
        for round_ in range(len(points))
        for one in samples(round_)
    )
    assert sorted(read_all(clean_database_url)) == expected
    assert shop.count(clean_database, "events") == len(expected)
    with clean_database.connect() as connection:
        rows = connection.execute(sa.text("select sum(cardinality(item_keys)) from user_recent")).scalar_one()
    assert rows == len(expected)
