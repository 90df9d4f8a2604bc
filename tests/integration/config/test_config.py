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
        ({"surfaces": {"cart": {"sources": []}}}, "at least 1 item"),
        ({"bought": [{"event_type": "transaction", "days": 36_501}]}, "days"),
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


def test_a_source_that_there_is_not_is_the_only_complaint(workers: tuple[httpx.Client, httpx.Client]) -> None:
    error = put(workers[0], {"surfaces": {"cart": {"sources": ["magic"]}}}, code=422)["error"]
    assert "sources" in error
    assert "at least" not in error


def test_who_puts_a_rule_that_nothing_fits_is_told(workers: tuple[httpx.Client, httpx.Client]) -> None:
    client, _ = workers
    good = {"surfaces": {"cart": {"filters": {"categories": [902]}}}, "bought": [{"event_type": "transaction"}]}
    assert put(client, good)["warnings"] == []
    config = {
        "surfaces": {
            "cart": {"filters": {"properties": {"prize": {"max": 50}}}},
            "homepage": {"filters": {"categories": [902, 4711]}},
            "product_detail": {"filters": {"categories": [904]}},
        },
        "bought": [{"event_type": "purchse"}],
        "event_weights": {"view": 1, "gift": 2},
    }
    warnings = put(client, config)["warnings"]
    assert warnings[0].startswith("surfaces.cart.filters.properties: no item is known to have a number 'prize'")
    assert warnings[1] == "surfaces.cart.filters: no available item is as they ask, so cart shows nothing"
    assert warnings[2] == "surfaces.homepage.filters.categories: there is no category '4711'"
    assert (
        warnings[3]
        == "surfaces.product_detail.filters: no available item is as they ask, so product_detail shows nothing"
    )
    assert warnings[4].startswith("bought: no event of type 'purchse' is known here; there are")
    assert warnings[5:] == ["event_weights: no event of type 'gift' is known here"]
    client.post("/config/revert/0").raise_for_status()


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


NEWER = '{"surfaces": {"cart": {"a_later_field": 1}}}'  # as a later release of the service may write it


def test_a_worker_that_starts_keeps_the_newest_version_that_it_can_read(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    with shop.running_service(clean_database_url) as running:
        shop.wait_until(lambda: shop.is_ready(running), 10)
        good = put(running, LIST_FIRST)["config_id"]
        shop.wait_until(lambda: first_item(running, "cart") == (1001, good), 5)
        with clean_database.begin() as connection:  # more than anybody would look at in one go
            insert = "insert into config_versions (config) select cast(:newer as jsonb) from generate_series(1, 60)"
            connection.execute(sa.text(insert), {"newer": NEWER})
        with shop.running_service(clean_database_url) as started:
            shop.wait_until(lambda: shop.is_ready(started), 10)
            for worker in (running, started):
                shop.wait_until(lambda worker=worker: first_item(worker, "cart") == (1001, good), 5)
                shop.wait_until(
                    lambda worker=worker: "recsys_config_passed_over 60.0" in worker.get("/metrics").text, 5
                )
                config = worker.get("/config").json()
                assert (config["config_id"], len(config["passed_over"])) == (good, 60)
                assert f"in force: version {good}" in config["problem"]
                assert worker.get("/model/info").json()["config"]["problem"] == config["problem"]
            # what an editor was told is in force can be replaced
            newest = put(started, {}, replaces=good)["config_id"]
            for worker in (running, started):
                shop.wait_until(lambda worker=worker: first_item(worker, "cart") == (1002, newest), 5)
                assert worker.get("/config").json()["problem"] is None
                assert "recsys_config_passed_over 0.0" in worker.get("/metrics").text
            with clean_database.begin() as connection:
                connection.execute(sa.text("delete from config_versions where config_id = :id"), {"id": newest})
            for worker in (running, started):
                shop.wait_until(lambda worker=worker: first_item(worker, "cart") == (1001, good), 5)


def test_the_defaults_are_never_taken_in_silence(clean_database_url: str, clean_database: sa.Engine) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    with clean_database.begin() as connection:
        connection.execute(sa.text("insert into config_versions (config) values (:newer)"), {"newer": NEWER})
    with shop.running_service(clean_database_url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: client.get("/model/info").json()["config"]["problem"], 5)
        config = client.get("/config").json()
        assert (config["config_id"], config["passed_over"]) == (0, [1])
        assert "the defaults, because no version can be read" in config["problem"]
        assert "recsys_config_passed_over 1.0" in client.get("/metrics").text
