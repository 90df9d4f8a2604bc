"""Filters, quotas and diversity over HTTP, against a plain reading of the rows in Postgres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from recsys.artifacts import ArtifactStore
from recsys.storage import tables
from tests.integration import serving_shop as shop

BELOW = {901: {901, 902, 903, 904}, 902: {902}, 903: {903}, 904: {904}}
BOUGHT = {501: {2, 12}, 502: set()}  # user id → item keys
CONFIG = {
    "surfaces": {
        "homepage": {"diversity": 0.5},
        "cart": {"filters": {"properties": {"price": {"max": 6}}}, "max_per_category": 2},
        "category_list": {"filters": {"excluded_categories": ["903"]}, "blend": "interleave"},
        "product_detail": {"max_per_category": 3, "diversity": 1},
    }
}
PRICES = [1, "2.5", 4, None, "n7.000", "dear", 9]


@dataclass(frozen=True)
class Row:
    category_id: int | None
    available: bool
    numbers: dict[str, float]


@pytest.fixture(scope="module")
def service(database_url: str, database: sa.Engine) -> Iterator[httpx.Client]:
    """A shop with prices in several forms, and a configuration with rules on every surface."""
    shop.stock(database)
    rows = [
        {"key": key, "category": [2, 3, 4, None][key % 4], "properties": {"price": PRICES[key % 7], "n": key % 5}}
        for key in range(1, 61)
    ]
    with database.begin() as connection:
        connection.execute(
            sa.update(tables.items)
            .where(tables.items.c.item_key == sa.bindparam("key"))
            .values(category_key=sa.bindparam("category"), properties=sa.bindparam("properties")),
            rows,
        )
    shop.publish(database, "v1", shop.FIRST)
    with shop.running_service(database_url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        samples = [
            {"user_id": user_id, "item_id": 1000 + key, "event_type": "transaction"}
            for user_id, keys in BOUGHT.items()
            for key in keys
        ]
        samples.append({"session_id": "guest", "item_id": 1001})
        assert client.post("/online/data/add", json={"samples": samples}).status_code == 200
        version = client.put("/config", json={"config": CONFIG}).json()["config_id"]
        shop.wait_until(lambda: ask(client)["provenance"]["config_id"] == version, 10)
        yield client


@pytest.fixture(scope="module")
def rows(service: httpx.Client, database: sa.Engine) -> dict[int, Row]:
    """The shop as Postgres has it, by item id."""
    sql = """
        select item_id::int, category_id::int, available, properties
        from items left join categories using (category_key)
    """
    as_number = {"2.5": 2.5, "n7.000": 7.0, "dear": None}

    def numbers(properties: dict[str, Any]) -> dict[str, float]:
        found = ((name, as_number.get(value, value)) for name, value in properties.items())
        return {name: value for name, value in found if value is not None}

    with database.connect() as connection:
        return {
            item_id: Row(category_id, available, numbers(properties))
            for item_id, category_id, available, properties in connection.execute(sa.text(sql))
        }


def ask(client: httpx.Client, **request: Any) -> dict[str, Any]:
    response = client.post("/recommend", json=request)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def ids(body: dict[str, Any]) -> list[int]:
    return [item["item_id"] for item in body["recommendations"]]


def matches(row: Row, filters: dict[str, Any]) -> bool:
    wanted = {below for id_ in filters.get("categories", ()) for below in BELOW.get(int(id_), ())}
    left_out = {below for id_ in filters.get("excluded_categories", ()) for below in BELOW.get(int(id_), ())}
    if (filters.get("categories") and row.category_id not in wanted) or row.category_id in left_out:
        return False
    for name, of in filters.get("properties", {}).items():
        value = row.numbers.get(name)
        if value is None or not of.get("min", value) <= value <= of.get("max", value):
            return False
    return True


category_ids = st.lists(st.sampled_from([901, 902, "903", 904, 4242]), min_size=1, max_size=3)
bound = st.integers(0, 5).flatmap(
    lambda low: st.sampled_from([{"min": low}, {"max": low + 4}, {"min": low, "max": low + 3}])
)
requests = st.fixed_dictionaries(
    {"top_k": st.integers(1, 70), "surface": st.sampled_from(sorted(CONFIG["surfaces"]))},
    optional={
        "user_id": st.sampled_from([501, 502, 503, 999]),
        "session_id": st.sampled_from(["guest", "nobody"]),
        "category_id": st.sampled_from([901, 902, 903]),
        "exclude": st.lists(st.integers(1001, 1065), max_size=8),
        "item_ids": st.lists(st.integers(1001, 1060), max_size=3),
        "seq": st.lists(st.sampled_from([1001, 1002, 1050]), max_size=3),
        "candidate_items": st.lists(st.integers(1001, 1060), min_size=1, max_size=40),
        "filters": st.fixed_dictionaries(
            {},
            optional={
                "categories": category_ids,
                "excluded_categories": category_ids,
                "properties": st.dictionaries(st.sampled_from(["price", "n"]), bound, max_size=2),
            },
        ),
    },
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests)
def test_every_answer_is_what_the_rows_allow(
    service: httpx.Client, rows: dict[int, Row], request: dict[str, Any]
) -> None:
    surface = CONFIG["surfaces"][request["surface"]]
    kept_back = {*request.get("exclude", ()), *request.get("item_ids", ())}
    kept_back |= {1000 + key for key in BOUGHT.get(request.get("user_id", 0), ())}
    candidates = request.get("candidate_items", rows)
    possible = {
        item_id
        for item_id, row in rows.items()
        if row.available
        and item_id not in kept_back
        and item_id in candidates
        and ("category_id" not in request or row.category_id in BELOW[request["category_id"]])
        and matches(row, request.get("filters", {}))
        and matches(row, surface.get("filters", {}))
    }
    quota = surface.get("max_per_category", len(rows))
    by_category = Counter(rows[item_id].category_id for item_id in possible)
    n_possible = sum(n if of is None else min(n, quota) for of, n in by_category.items())
    event(f"possible: {min(n_possible, 5)}")
    found = ids(ask(service, **request))
    assert set(found) <= possible
    assert len(found) == len(set(found)) == min(request["top_k"], n_possible)
    shown = Counter(rows[item_id].category_id for item_id in found)
    assert all(n <= quota for of, n in shown.items() if of is not None)


def test_what_no_item_can_match_is_named(service: httpx.Client) -> None:
    assert service.get("/model/info").json()["catalogue"]["numeric_properties"] == ["n", "price"]
    body = ask(service, filters={"properties": {"weight": {"min": 1}}})
    assert body["recommendations"] == []
    assert body["warnings"] == ["filters.properties: no item is known to have a number 'weight', so none matches"]
    body = ask(service, filters={"categories": [902, "sofas"]}, top_k=3)
    assert body["warnings"] == ["filters.categories: there is no category 'sofas'"]
    assert len(ids(body)) == 3  # of the category that there is
    assert "warnings" not in ask(service, filters={"properties": {"price": {"min": 1}}})


@pytest.mark.parametrize("name", ["price", "weight"])
def test_a_batch_is_filtered_as_each_request_is(service: httpx.Client, name: str) -> None:
    filters = {"categories": [902], "properties": {name: {"max": 4}}}
    query: dict[str, Any] = {"filters": filters, "surface": "cart", "top_k": 4}
    batch = service.post("/recommend/batch", json={"user_ids": [501, 999], **query}).json()
    alone = [ask(service, user_id=user_id, **query) for user_id in (501, 999)]
    assert [of["recommendations"] for of in batch["results"]] == [body["recommendations"] for body in alone]
    assert batch.get("warnings") == alone[0].get("warnings")
    assert ("warnings" in batch) == (name == "weight")


def test_bad_filters_are_refused(service: httpx.Client) -> None:
    for filters in (
        {"properties": {"price": {"least": 1}}},
        {"colour": "red"},
        {"categories": [None]},
        {"properties": []},
    ):
        response = service.post("/recommend", json={"filters": filters})
        assert (response.status_code, response.json()["status"]) == (422, "invalid_request"), filters


def test_examples_ask_for_what_there_is(service: httpx.Client) -> None:
    document = service.get("/openapi.json").json()
    body = document["paths"]["/recommend"]["post"]["requestBody"]["content"]["application/json"]
    answer = ask(service, **shop.with_ids(body["examples"]["filtered"]["value"]))
    assert answer["recommendations"]
    assert "warnings" not in answer


@pytest.fixture
def other_service(clean_database_url: str, clean_database: sa.Engine) -> Iterator[httpx.Client]:
    with shop.served(clean_database_url, clean_database) as client:
        yield client


def test_filters_follow_the_catalogue_within_a_second(other_service: httpx.Client) -> None:
    client = other_service
    cheap = {"filters": {"properties": {"price": {"max": 5}}}}
    assert "no item is known" in ask(client, **cheap)["warnings"][0]
    shop.put(client, "/items/1007", price=4.5, properties={"size": "12"})
    assert shop.wait_until(lambda: ids(ask(client, **cheap)) == [1007], 5) < 1
    assert ids(ask(client, filters={"properties": {"size": {"min": 12, "max": 12}}})) == [1007]
    shop.put(client, "/items/1007", price=5.5)
    assert shop.wait_until(lambda: ids(ask(client, **cheap)) == [], 5) < 1
    shop.put(client, "/items/new", 422, price=1)
    shop.put(client, "/items/2001", price=1, category_id=904)
    assert shop.wait_until(lambda: ids(ask(client, **cheap)) == [2001], 5) < 1
    client.delete("/items/2001")
    assert shop.wait_until(lambda: ids(ask(client, **cheap)) == [], 5) < 1


def test_rules_of_a_surface_that_nothing_can_match_are_named_in_each_answer(other_service: httpx.Client) -> None:
    config = {"surfaces": {"cart": {"filters": {"properties": {"prize": {"max": 50}}}}}}
    version = other_service.put("/config", json={"config": config}).json()["config_id"]
    shop.wait_until(lambda: ask(other_service)["provenance"]["config_id"] == version, 5)
    answer = ask(other_service, surface="cart")
    assert answer["recommendations"] == []
    assert answer["warnings"] == [
        "the surface's filters.properties: no item is known to have a number 'prize', so none matches"
    ]
    assert len(ids(ask(other_service))) == 10


def test_diversity_by_the_factors_of_the_als_behind_the_lists(
    clean_database_url: str, clean_database: sa.Engine, tmp_path: Path
) -> None:
    """All items of one category: their factors alone tell 1 and 2, which are alike, from the others."""
    store = ArtifactStore(str(tmp_path))
    factors = np.eye(8, dtype=np.float32)[[0, 0, 1, 2, 3, 4, 5]]
    with store.writing("als", "v1", made_by="tests") as (folder, _):
        np.savez(folder / "model.npz", item_keys=np.array([1, 2, 4, 5, 6, 7, 8], dtype=np.int32), item_factors=factors)
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST, {"als": "als/v1"})
    with shop.running_service(clean_database_url, ARTIFACT_ROOT=str(tmp_path)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.put(client, "/config", config={"surfaces": {"homepage": {"diversity": 1.0}}})

        def first() -> list[int]:
            answer = client.post("/recommend", json={"user_id": 501, "top_k": 3}).json()
            return [item["item_id"] - 1000 for item in answer["recommendations"]]

        shop.wait_until(lambda: first() == [1, 4, 5], 5)
