"""What was bought is not shown, also where its item came into the catalogue after the purchase."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import httpx
import pytest
import sqlalchemy as sa

from recsys.storage import tables
from tests.integration import serving_shop as shop


@pytest.fixture(scope="module")
def client(database_url: str, database: sa.Engine) -> Iterator[httpx.Client]:
    with shop.served(database_url, database) as client:
        yield client


def post(client: httpx.Client, item_ids: Sequence[int], event_type: str, **who: object) -> None:
    at = dt.datetime.now(dt.UTC)
    samples = [
        who
        | {"item_id": item_id, "event_type": event_type, "timestamp": (at + dt.timedelta(milliseconds=n)).isoformat()}
        for n, item_id in enumerate(item_ids)
    ]
    response = client.post("/online/data/add", json={"samples": samples})
    assert response.json()["accepted"] == len(samples), response.text


def offered(client: httpx.Client, item_id: int, **who: object) -> list[int]:
    answer = client.post("/recommend", json={"candidate_items": [item_id], **who})
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["recommendations"]]


def come(client: httpx.Client, item_id: int) -> None:
    """The item is put into the catalogue, and nobody else is kept from it."""
    shop.put(client, f"/items/{item_id}", available=True)
    shop.wait_until(lambda: offered(client, item_id) == [item_id], 5)


@pytest.mark.parametrize(("who", "item_id"), [({"user_id": 503}, 2001), ({"session_id": "guest"}, 2002)])
def test_the_next_answer_knows(client: httpx.Client, who: dict[str, object], item_id: int) -> None:
    post(client, [item_id], "transaction", **who)
    come(client, item_id)
    assert offered(client, item_id, **who) == []
    batch = {"user_ids": [503], "top_k": 100}
    if "user_id" in who:
        [result] = client.post("/recommend/batch", json=batch).json()["results"]
        assert item_id not in {item["item_id"] for item in result["recommendations"]}
    post(client, [1001], "view", **who)
    assert offered(client, item_id, **who) == []  # and the stored row, which is made anew, as well


def test_what_was_looked_at_only_is_shown(client: httpx.Client) -> None:
    post(client, [2003], "view", user_id=501)
    come(client, 2003)
    assert offered(client, 2003, user_id=501) == [2003]


def test_a_purchase_behind_many_later_events(client: httpx.Client) -> None:
    post(client, [2004], "transaction", user_id=502)
    for _ in range(3):
        post(client, range(1001, 1031), "view", user_id=502)
    come(client, 2004)
    assert offered(client, 2004, user_id=502) == []


def test_an_item_that_the_night_gave_a_key(client: httpx.Client, database: sa.Engine) -> None:
    post(client, [2005], "transaction", user_id=504)
    with database.begin() as connection:
        connection.execute(sa.insert(tables.items), [{"item_key": 90, "item_id": "2005", "available": True}])
    shop.wait_until(lambda: offered(client, 2005) == [2005], 5)
    assert offered(client, 2005, user_id=504) == []
