"""Rows of the catalogue with ids that are none, written by hand: each costs itself, never the service."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from recsys.storage import tables
from tests.integration import serving_shop as shop

# What no importer and no API takes, by the type of ids.
BAD = {"integer": ["1234567890123456789", "sale", "01", "5.0"], "string": ["x" * 129, "", " pad "]}
ODD_ITEM, ODD_USER, ODD_CATEGORY = 100, 200, 300  # keys of the first bad rows
IN_BAD_CATEGORY = 11  # an item that is shown, of a category with a bad id


def insert(engine: sa.Engine, kind: str, first: int, suffix: str = "") -> int:
    """Bad rows of each kind, from `first` on; how many of users and items. A category is always an integer here."""
    bad = [(text + suffix, place) for place, text in enumerate(BAD[kind])]
    with engine.begin() as connection:
        items = [{"item_id": text, "item_key": ODD_ITEM + first + i, "category_key": 2} for text, i in bad]
        users = [{"user_id": text, "user_key": ODD_USER + first + i} for text, i in bad]
        connection.execute(sa.insert(tables.items), items)
        connection.execute(sa.insert(tables.users), users)
        values = {"category_id": f"sale{suffix}", "category_key": ODD_CATEGORY + first, "parent_category_key": 1}
        connection.execute(sa.insert(tables.categories), values)
        key = tables.items.c.item_key == IN_BAD_CATEGORY
        connection.execute(sa.update(tables.items).where(key).values(category_key=ODD_CATEGORY + first))
        child = tables.categories.c.category_key == 4
        connection.execute(sa.update(tables.categories).where(child).values(parent_category_key=ODD_CATEGORY + first))
    return len(bad)


def pages(client: httpx.Client, path: str, limit: int = 3) -> list[Any]:
    """All objects of a path, page by page."""
    name, found, after = path.strip("/"), [], None
    while True:
        answer = client.get(path, params={"limit": limit} | ({} if after is None else {"after": after}))
        assert answer.status_code == 200, answer.text
        found += answer.json()[name]
        if (after := answer.json()["next"]) is None:
            return found


def unreadable(client: httpx.Client) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("recsys_unreadable_rows{")]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


def check(client: httpx.Client, kind: str, n: int, n_categories: int) -> None:
    """Everybody is answered, without the bad rows."""
    own = 501 if kind == "integer" else "user-501"
    for body in ({"user_id": own, "top_k": 5}, {"top_k": 5}, {"category_id": 901}, {"candidate_items": [BAD[kind][0]]}):
        answer = client.post("/recommend", json=body)
        assert answer.status_code in (200, 422), answer.text
        assert answer.status_code == 200 or "candidate_items" in body
    assert client.get("/ready").status_code == 200
    assert client.get("/openapi.json").status_code == 200
    assert client.get(f"/similar/{shop.item_id(1, kind)}").status_code == 200
    items = pages(client, "/items", 7)
    assert len(items) == 60
    assert [item["category_id"] for item in items if item["item_id"] in ("item-11", 1011)] == [None]
    assert len(pages(client, "/users", 1)) == 3
    categories = {row["category_id"]: row["parent_id"] for row in pages(client, "/categories", 1)}
    assert categories == {901: None, 902: 901, 903: 901, 904: None}
    assert client.get(f"/items/{shop.item_id(11, kind)}").json()["category_id"] is None
    assert client.get("/categories/904").json()["parent_id"] is None
    assert unreadable(client) == {"item": n, "user": n, "category": n_categories}


@pytest.fixture(params=["integer", "string"])
def stocked(request: pytest.FixtureRequest, clean_database: sa.Engine) -> tuple[sa.Engine, str]:
    shop.stock(clean_database, request.param)
    shop.publish(clean_database, "v1", shop.FIRST)
    return clean_database, request.param


def test_bad_rows_cost_themselves_at_the_start_and_while_running(
    stocked: tuple[sa.Engine, str], clean_database_url: str
) -> None:
    engine, kind = stocked
    n = insert(engine, kind, 0)
    with shop.running_service(clean_database_url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        check(client, kind, n, 1)
        n += insert(engine, kind, 20, "x" if kind == "integer" else "y" * 129)
        shop.wait_until(lambda: unreadable(client)["item"] == n and unreadable(client)["category"] == 2, 10)
        check(client, kind, n, 2)
        good = shop.item_id(77, kind)  # and a row that is put right is an item
        with engine.begin() as connection:
            row = tables.items.c.item_key == ODD_ITEM
            values = {"item_id": good, "changed_xid": sa.text("pg_current_xact_id()")}
            connection.execute(sa.update(tables.items).where(row).values(values))
        shop.wait_until(lambda: unreadable(client)["item"] == n - 1, 10)
        assert client.get(f"/items/{good}").status_code == 200


FIRST_WEIGHED = 14  # an item; it and those after it are available
BAD_WEIGHTS = [-1, "-0.5", "much", "NaN", True, {"a": 1}, [1], "", 1e299, 1e-310]
GOOD_WEIGHTS = [3, "2.5", 0.000001, 0, None, "-0"]


def n_badly_weighted(client: httpx.Client) -> float:
    [line] = [one for one in client.get("/metrics").text.splitlines() if one.startswith("recsys_badly_weighted_items ")]
    return float(line.split()[1])


def weigh(engine: sa.Engine, key: int, weight: Any) -> None:
    values = {"properties": {"recommendation_weight": weight}, "changed_xid": sa.text("pg_current_xact_id()")}
    with engine.begin() as connection:
        connection.execute(sa.update(tables.items).where(tables.items.c.item_key == key).values(values))


def test_bad_weights_cost_their_items_alone(clean_database: sa.Engine, clean_database_url: str) -> None:
    shop.stock(clean_database, "integer")
    shop.publish(clean_database, "v1", shop.FIRST)
    for key, weight in enumerate([*BAD_WEIGHTS, *GOOD_WEIGHTS], FIRST_WEIGHED):
        weigh(clean_database, key, weight)
    n_bad = len(BAD_WEIGHTS)
    first_good = FIRST_WEIGHED + n_bad
    drawn = {shop.item_id(first_good + n, "integer") for n in (0, 1, 2)}
    with shop.running_service(clean_database_url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        config = {"surfaces": {"homepage": {"sources": ["editorial"]}}}
        assert client.put("/config", json={"config": config}).json()["warnings"] == []

        def shown() -> set[Any]:
            answer = client.post("/recommend", json={"user_id": 999, "top_k": 10}).json()
            return {str(item["item_id"]) for item in answer["recommendations"] if item["source"] == "editorial"}

        shop.wait_until(lambda: shown() == drawn, 20)
        assert n_badly_weighted(client) == n_bad
        weigh(clean_database, FIRST_WEIGHED, 1.5)  # put right
        weigh(clean_database, first_good, "n/a")  # and gone wrong, while it runs
        changed = drawn ^ {shop.item_id(key, "integer") for key in (FIRST_WEIGHED, first_good)}
        shop.wait_until(lambda: shown() == changed, 20)
        assert n_badly_weighted(client) == n_bad
    with shop.running_service(clean_database_url) as client:  # a worker that loads all of it sees the same
        shop.wait_until(lambda: shop.is_ready(client), 10)
        assert shown() == changed
        assert n_badly_weighted(client) == n_bad


@pytest.mark.parametrize("values", [{"properties": sa.text("'[]'::jsonb")}, {"item_key": -1}])
def test_rows_that_would_break_every_reader_are_refused_by_postgres(clean_database: sa.Engine, values: Any) -> None:
    with pytest.raises(sa.exc.IntegrityError), clean_database.begin() as connection:
        connection.execute(sa.insert(tables.items).values({"item_key": 1, "item_id": "a", **values}))
