"""The catalogue page by page, and many deletions at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.integration import serving_shop as shop


@pytest.fixture(scope="module")
def client(database_url: str, database: sa.Engine) -> Iterator[httpx.Client]:
    with shop.served(database_url, database) as client:
        yield client


def pages(client: httpx.Client, what: str, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        answer = client.get(f"/{what}", params={"limit": limit} | ({} if after is None else {"after": after}))
        assert answer.status_code == 200, answer.text
        assert len(answer.json()[what]) <= limit
        found += answer.json()[what]
        after = answer.json()["next"]
        if after is None:
            return found


def delete(client: httpx.Client, path: str, code: int, **body: Any) -> dict[str, Any]:
    response = client.request("DELETE", path, json=body)
    assert response.status_code == code, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("limit", [7, 60, 1000])
def test_pages_hold_everything_once(client: httpx.Client, limit: int) -> None:
    items = pages(client, "items", limit)
    assert [item["item_id"] for item in items] == list(range(1001, 1061))
    assert items[2] == {k: v for k, v in client.get("/items/1003").json().items() if k != "success"}
    assert [user["user_id"] for user in pages(client, "users", limit)] == [501, 502, 503]
    categories = pages(client, "categories", limit)
    assert [(one["category_id"], one["parent_id"]) for one in categories] == [
        (901, None), (902, 901), (903, 901), (904, 901),
    ]  # fmt: skip


def test_a_page_after_what_is_not_there_is_refused(client: httpx.Client) -> None:
    for after in ("4242", "x", "1001\0"):
        answer = client.get("/items", params={"after": after})
        assert (answer.status_code, answer.json()["status"]) == (422, "invalid_request"), after


def test_many_items_go_at_once_and_each_is_told_of(client: httpx.Client) -> None:
    ids = list(range(2001, 2011))
    shop.put(client, "/items", items=[{"item_id": id_} for id_ in ids])
    answer = delete(client, "/items", 207, item_ids=[*ids, 4242, "no number"])
    assert (answer["deleted"], answer["absent"]) == (ids, [4242])
    assert [one["index"] for one in answer["rejected"]] == [11]
    assert not {item["item_id"] for item in pages(client, "items", 1000)} & set(ids)
    assert delete(client, "/items", 200, item_ids=ids)["absent"] == ids
    assert delete(client, "/items", 422, item_ids=["no number"])["status"] == "all_rejected"


def test_categories_go_children_first(client: httpx.Client) -> None:
    tree = [{"category_id": 3001}, {"category_id": 3002, "parent_id": 3001}, {"category_id": 3003, "parent_id": 3002}]
    shop.put(client, "/categories", categories=tree)
    refused = delete(client, "/categories", 422, category_ids=[3001, 3002])
    assert "holds 0 items and 1 categories" in refused["error"]
    answer = delete(client, "/categories", 200, category_ids=[3003, 3002, 3001])
    assert answer["deleted"] == [3003, 3002, 3001]


def test_users_are_erased_with_a_receipt_each(client: httpx.Client) -> None:
    shop.put(client, "/users", users=[{"user_id": 7001}, {"user_id": 7002}])
    assert client.post("/online/data/add", json={"user_id": 7001, "item_id": 1001}).status_code == 200
    receipts = delete(client, "/users", 200, user_ids=[7001, 7002, 7003])["receipts"]
    assert [(one["user_id"], one["removed"]["users"], one["removed"]["events"]) for one in receipts] == [
        (7001, 1, 1), (7002, 1, 0), (7003, 0, 0),
    ]  # fmt: skip
    assert 7001 not in [user["user_id"] for user in pages(client, "users", 1000)]
