"""The serving configuration: versions that every worker follows, and bad ones that nobody does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.integration import serving_shop as shop

LIST_FIRST = {"surfaces": {"cart": {"blend": "list_first"}}}


@pytest.fixture(scope="module")
def workers(database_url: str, database: sa.Engine) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two workers of one database; the second looks every five seconds by itself, so that it has to hear."""
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST)
    with shop.running_service(database_url) as first, shop.running_service(database_url) as second:
        for client in (first, second):
            shop.wait_until(lambda client=client: shop.is_ready(client), 10)
        yield first, second


def put(client: httpx.Client, config: Any, code: int = 200, **more: Any) -> dict[str, Any]:
    response = client.put("/config", json={"config": config, **more})
    assert response.status_code == code, response.text
    body: dict[str, Any] = response.json()
    return body


def first_item(client: httpx.Client, surface: str) -> tuple[int, int]:
    body = {"user_id": 501, "seq": [1001], "surface": surface, "top_k": 1}
    answer = client.post("/recommend", json=body).json()
    return answer["recommendations"][0]["item_id"], answer["provenance"]["config_id"]


def test_a_new_version_is_live_everywhere_within_five_seconds(workers: tuple[httpx.Client, httpx.Client]) -> None:
    first, second = workers
    assert first.get("/config").json()["config_id"] == 0
    assert first_item(second, "cart") == (1002, 0)  # in the list, and called by what was just seen
    version = put(first, LIST_FIRST, comment="the list comes first in carts")["config_id"]
    for client in workers:
        shop.wait_until(lambda client=client: first_item(client, "cart") == (1001, version), 5)
        assert first_item(client, "homepage") == (1002, version)
        assert f"recsys_config_id {float(version)}" in client.get("/metrics").text
    newest = second.get("/config").json()
    assert (newest["config_id"], newest["comment"]) == (version, "the list comes first in carts")
    assert newest["config"]["surfaces"]["cart"]["blend"] == "list_first"


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"surfaces": {"cart": {"blend": "magic"}}}, "blend"),
        ({"surfaces": {"basement": {}}}, "basement"),
        ({"surfaces": {"cart": {"sources": ["lists", "lists"]}}}, "twice"),
        ({"surfaces": {"cart": {"filters": {"properties": {"price": {"min": "2"}}}}}}, "min"),
        ({"surfaces": {"cart": {"max_per_category": 0}}}, "max_per_category"),
        ({"surfaces": {"cart": {"diversity": 1.1}}}, "diversity"),
        ({"surfaces": {"cart": {"filters": {"properties": {"a\0": {"min": 1}}}}}}, "properties"),
        ({"event_weights": {"a\0": 1}}, "event_weights"),
        ({"bought": [{"event_type": "a\0"}]}, "event_type"),
        ({"recent_half_life_hours": 0}, "recent_half_life_hours"),
        ({"event_weights": {"view": -1}}, "event_weights"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_bad_version_is_refused_and_the_former_one_stays(
    workers: tuple[httpx.Client, httpx.Client], config: dict[str, Any], word: str
) -> None:
    client, _ = workers
    before = client.get("/config").json()
    assert word in put(client, config, code=422)["error"]
    assert client.get("/config").json() == before


def test_two_editors_do_not_overwrite_each_other(workers: tuple[httpx.Client, httpx.Client]) -> None:
    first, second = workers
    seen = first.get("/config").json()["config_id"]
    newer = put(first, {}, replaces=seen)["config_id"]
    assert put(second, LIST_FIRST, code=409, replaces=seen)["status"] == "conflict"
    assert first.get("/config").json()["config_id"] == newer


def test_going_back_is_a_version_of_its_own(workers: tuple[httpx.Client, httpx.Client]) -> None:
    client, _ = workers
    chosen = put(client, {"recent_half_life_hours": 2})["config_id"]
    put(client, {"recent_half_life_hours": 3})
    back = client.post(f"/config/revert/{chosen}").json()
    assert back["config"]["recent_half_life_hours"] == 2
    assert back["config_id"] > chosen
    assert client.post("/config/revert/0").json()["config"]["recent_half_life_hours"] == 24
    assert client.post("/config/revert/424242").status_code == 404
    history = client.get("/config/history", params={"limit": 3}).json()["versions"]
    assert [version["config"]["recent_half_life_hours"] for version in history] == [24, 2, 3]


def test_a_version_that_cannot_be_read_is_told_and_not_used(
    workers: tuple[httpx.Client, httpx.Client], database: sa.Engine
) -> None:
    client, _ = workers
    good = put(client, LIST_FIRST)["config_id"]
    shop.wait_until(lambda: first_item(client, "cart") == (1001, good), 5)
    with database.begin() as connection:
        bad = connection.execute(
            sa.text("""insert into config_versions (config) values ('{"surfaces": 7}') returning config_id""")
        ).scalar_one()
    refused = "recsys_config_refused_total 1.0"
    shop.wait_until(lambda: refused in client.get("/metrics").text, 5)
    assert first_item(client, "cart") == (1001, good)  # and the answer says by which it was made
    assert client.get("/config").json()["config_id"] == good
    newest = client.get("/config/history", params={"limit": 1}).json()["versions"][0]
    assert (newest["config_id"], newest["config"]) == (bad, None)
    assert client.post(f"/config/revert/{bad}").status_code == 409
    with database.begin() as connection:
        connection.execute(sa.text("delete from config_versions where config_id = :bad"), {"bad": bad})
