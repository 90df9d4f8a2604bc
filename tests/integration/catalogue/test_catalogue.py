"""The catalogue over HTTP: what is told is stored, seen by every worker, and kept by the night."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from recsys.storage import locks, tables
from recsys.storage.engine import url_of
from tests.integration import serving_shop as shop
from tests.integration.serving_shop import count, put, row_of

SOON_S = 5.0  # the promise is one second; the machine that tests may be busy


@pytest.fixture(scope="module")
def workers(database_url: str, database: sa.Engine) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two workers on one published shop. They look for changes rarely, so that hearing of them is what is tested."""
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST)
    with (
        shop.running_service(database_url, API_POLL_S="5") as one,
        shop.running_service(database_url, API_POLL_S="5") as other,
    ):
        for client in (one, other):
            shop.wait_until(lambda client=client: shop.is_ready(client), 10)
        yield one, other


@pytest.fixture
def client(workers: tuple[httpx.Client, httpx.Client]) -> httpx.Client:
    return workers[0]


def offered(client: httpx.Client) -> list[int]:
    """Every item that there is to recommend, by key."""
    response = client.post("/recommend", json={"user_id": 501, "top_k": 1000})
    assert response.status_code == 200, response.text
    return [item["item_id"] - 1000 for item in response.json()["recommendations"]]


def test_an_id_in_a_path_keeps_its_line_end(client: httpx.Client) -> None:
    """`/users/503%0A` is not user 503."""
    assert client.get("/users/503").status_code == 200
    for path in ("/users/503%0A", "/items/1059%0A", "/similar/1001%0A", "/users/5%0A03"):
        answer = client.get(path)
        assert answer.status_code in {404, 422}, path
    for path in ("/users/503%0A", "/items/1059%0A", "/items/1059%0D%0A"):
        assert client.delete(path).status_code == 404
    assert client.get("/users/503").status_code == client.get("/items/1059").status_code == 200


def test_an_item_is_what_was_told_of_it_last(client: httpx.Client, database: sa.Engine) -> None:
    fields = {"category_id": "903", "title": "A thing", "price": 2.5, "properties": {"colour": "blue", "sizes": [1, 2]}}
    assert client.get("/items/2001").status_code == 404
    assert put(client, "/items/2001", **fields) == {"success": True, "type": "item", "id": 2001, "result": "created"}
    assert put(client, "/items/2001", **fields)["result"] == "unchanged"
    whole = {"success": True, "item_id": 2001, "available": True, **fields, "category_id": 903}
    assert client.get("/items/2001").json() == whole
    assert put(client, "/items/2001", available=False, properties={"sizes": None})["result"] == "updated"
    assert client.get("/items/2001").json() == whole | {"available": False, "properties": {"colour": "blue"}}
    stored = row_of(database, tables.items, "2001")
    assert stored["properties"] == {"colour": "blue", "price": 2.5}
    assert stored["item_key"] == 61
    assert stored["told_at"]
    assert put(client, "/items/2001", available=True, price=None, category_id=None, title=None)["result"] == "updated"
    assert client.get("/items/2001").json() == whole | {
        "price": None, "category_id": None, "title": None, "properties": {"colour": "blue"}
    }  # fmt: skip


def test_what_is_said_of_known_things_again_is_theirs_from_now_on(client: httpx.Client, database: sa.Engine) -> None:
    assert row_of(database, tables.items, "1059")["told_at"] is None
    assert put(client, "/items/1059", available=True)["result"] == "unchanged"
    posted_at = row_of(database, tables.items, "1059")["told_at"]
    assert posted_at is not None
    assert put(client, "/items/1059")["result"] == "unchanged"
    assert row_of(database, tables.items, "1059")["told_at"] == posted_at


def test_users_and_categories(client: httpx.Client, database: sa.Engine) -> None:
    assert put(client, "/users/701", properties={"country": "UK"})["result"] == "created"
    assert put(client, "/users/701", properties={"country": "UK", "age": None})["result"] == "unchanged"
    assert client.get("/users/701").json() == {"success": True, "user_id": 701, "properties": {"country": "UK"}}
    assert row_of(database, tables.users, "701")["user_key"] == 4
    assert put(client, "/categories/910", parent_id=902)["result"] == "created"
    assert client.get("/categories/910").json() == {"success": True, "category_id": 910, "parent_id": 902}
    assert put(client, "/categories/910", parent_id=None)["result"] == "updated"
    assert put(client, "/categories/910")["result"] == "unchanged"
    assert row_of(database, tables.categories, "910")["category_key"] == 5
    for entity, path in (("user", "/users/4242"), ("category", "/categories/4242"), ("item", "/items/4242")):
        assert (client.get(path).status_code, client.get(path).json()["status"]) == (404, f"unknown_{entity}")
    assert "not an integer" in put(client, "/items/no-number", 422)["error"]


def test_of_many_objects_the_bad_ones_are_named_and_the_others_stored(client: httpx.Client) -> None:
    items: list[Any] = [
        {"item_id": 3001, "title": "one"},
        {"item_id": 3002, "category_id": 4242},
        {"item_id": "three"},
        {"item_id": 3004, "colour": "blue"},
        "five",
        {"item_id": "3001", "title": "one again"},
        {"item_id": 1001},
        {"item_id": 3008, "properties": {str(i): "x" * 300 for i in range(64)}},
        {"item_id": 3009, "properties": {"price": 3}},
    ]
    answer = put(client, "/items", 207, items=items)
    assert answer["created"] == [{"type": "item", "id": 3001}]
    assert answer["updated"] == [{"type": "item", "id": 3001}]
    assert answer["unchanged"] == [{"type": "item", "id": 1001}]
    reasons = {one["index"]: one["reason"] for one in answer["rejected"]}
    assert list(reasons) == [1, 2, 3, 4, 7, 8]
    for index, word in zip(reasons, ("4242", "integer", "colour", "object", "16384", "field of its own"), strict=True):
        assert word in reasons[index]
    assert client.get("/items/3001").json()["title"] == "one again"
    assert client.get("/items/3002").status_code == 404
    refused = put(client, "/items", 422, items=items[1:3])
    assert refused["status"] == "all_rejected"
    assert [one["index"] for one in refused["rejected"]] == [0, 1]
    assert "4242" in refused["error"]
    assert put(client, "/items/3002", 422, category_id=4242)["status"] == "rejected"
    many = [{"item_id": 5000 + i, "available": False} for i in range(1001)]
    assert put(client, "/items", 422, items=many)["status"] == "invalid_request"
    assert len(put(client, "/items", items=many[:1000])["created"]) == 1000


def test_categories_make_no_cycle(client: httpx.Client) -> None:
    chain = [{"category_id": 921}, {"category_id": 922, "parent_id": 921}, {"category_id": 923, "parent_id": 922}]
    assert len(put(client, "/categories", categories=chain)["created"]) == 3
    assert "921 → 923 → 922 → 921" in put(client, "/categories/921", 422, parent_id=923)["error"]
    assert "cycle" in put(client, "/categories/921", 422, parent_id=921)["error"]
    both = [{"category_id": 921, "parent_id": 902}, {"category_id": 902, "parent_id": 923}]
    answer = put(client, "/categories", 207, categories=both)
    assert [one["index"] for one in answer["rejected"]] == [1]
    assert client.get("/categories/902").json()["parent_id"] == 901


def test_the_generic_form_stores_the_same(workers: tuple[httpx.Client, httpx.Client]) -> None:
    one, other = workers
    objects = [
        {"type": "item", "data": {"item_id": 3101, "category_id": 931}},
        {"type": "category", "data": {"category_id": 931, "parent_id": 903}},
        {"type": "user", "data": {"user_id": 731}},
        {"type": "shop", "data": {}},
    ]
    response = one.post("/store_objects", json={"objects": objects})
    assert response.status_code == 207, response.text
    assert [made["id"] for made in response.json()["created"]] == [3101, 931, 731]
    assert [refused["index"] for refused in response.json()["rejected"]] == [3]
    single = one.post("/store_object", json=objects[0])
    assert single.json() == {"success": True, "type": "item", "id": 3101, "result": "unchanged"}

    def in_category() -> list[int]:
        response = other.post("/recommend", json={"category_id": 931})
        return [item["item_id"] for item in response.json().get("recommendations", [])]

    shop.wait_until(lambda: in_category() == [3101], SOON_S)


def test_a_deleted_item_is_gone_for_ever_and_keeps_its_key(
    workers: tuple[httpx.Client, httpx.Client], database: sa.Engine
) -> None:
    one, other = workers
    assert 2 in offered(other)
    deleted = one.delete("/items/1002")
    assert deleted.json() == {"success": True, "type": "item", "id": 1002, "result": "deleted"}
    assert one.delete("/items/1002").json()["result"] == "absent"
    assert one.delete("/items/424242").json()["result"] == "absent"
    assert one.get("/items/1002").json()["status"] == "unknown_item"
    assert "was deleted" in put(one, "/items/1002", 422, title="again")["error"]
    for client in workers:
        shop.wait_until(lambda client=client: 2 not in offered(client), SOON_S)
        assert client.get("/similar/1002").json()["status"] == "unknown_item"
    assert row_of(database, tables.items, "1002")["item_key"] == 2
    with shop.running_service(url_of(database)) as fresh:
        shop.wait_until(lambda: shop.is_ready(fresh), 10)
        assert 2 not in offered(fresh)
        assert fresh.get("/similar/1002").json()["status"] == "unknown_item"


def test_a_category_is_deleted_when_it_is_empty(client: httpx.Client) -> None:
    put(client, "/categories/941", parent_id=901)
    put(client, "/items/3201", category_id=941)
    refused = client.delete("/categories/941")
    assert (refused.status_code, refused.json()["status"]) == (409, "category_in_use")
    assert "1 items and 0 categories" in refused.json()["error"]
    assert client.delete("/categories/901").status_code == 409
    put(client, "/items/3201", category_id=None)
    assert client.delete("/categories/941").json()["result"] == "deleted"
    assert client.delete("/categories/941").json()["result"] == "absent"
    assert client.get("/categories/941").status_code == 404
    assert "no category" in put(client, "/items/3201", 422, category_id=941)["error"]
    assert "was deleted" in put(client, "/categories/941", 422)["error"]

    def unknown() -> bool:
        response = client.post("/recommend", json={"category_id": 941})
        return bool(response.json().get("status") == "unknown_category")

    shop.wait_until(unknown, SOON_S)


def test_an_unavailable_item_leaves_the_answers_of_every_worker_within_a_second(
    workers: tuple[httpx.Client, httpx.Client], database: sa.Engine
) -> None:
    def by_api(key: int, available: bool) -> None:
        put(workers[0], f"/items/{1000 + key}", available=available)

    def by_hand(key: int, available: bool) -> None:
        with database.begin() as connection:
            connection.execute(sa.update(tables.items).filter_by(item_key=key).values(available=available))

    waits = []
    for change in (by_api, by_hand):
        for available in (False, True, False, True):
            change(1, available)
            started = time.monotonic()
            for client in workers:
                shop.wait_until(lambda client=client, wanted=available: (1 in offered(client)) == wanted, SOON_S)
            waits.append(time.monotonic() - started)
    print("seconds until both workers knew:", [round(wait, 2) for wait in waits])
    assert sorted(waits)[len(waits) // 2] < 1.5  # far less than their regular look, which is every 5 s


def test_a_change_that_is_committed_late_is_not_passed_over(client: httpx.Client, database: sa.Engine) -> None:
    with database.connect() as slow, database.connect() as quick:
        slow.execute(sa.update(tables.items).filter_by(item_key=7).values(available=False))
        quick.execute(sa.update(tables.items).filter_by(item_key=8).values(available=False))
        quick.commit()
        shop.wait_until(lambda: 8 not in offered(client), SOON_S)
        assert 7 in offered(client)
        slow.commit()
        shop.wait_until(lambda: 7 not in offered(client), SOON_S)


def test_a_lost_listener_comes_back(client: httpx.Client, database: sa.Engine) -> None:
    listening = "pg_stat_activity where datname = current_database() and application_name = 'recsys-api-listener'"
    shop.wait_until(lambda: count(database, listening) == 2, 10)
    with database.begin() as connection:
        connection.execute(sa.text(f"select pg_terminate_backend(pid) from {listening}"))
    put(client, "/items/1009", available=False)
    shop.wait_until(lambda: 9 not in offered(client), 15)
    shop.wait_until(lambda: count(database, listening) == 2, 15)


def test_many_writers_give_each_id_one_key(workers: tuple[httpx.Client, httpx.Client], database: sa.Engine) -> None:
    def write(number: int) -> None:
        users = [{"user_id": 8000 + (number * 7 + i) % 40, "properties": {"by": number}} for i in range(20)]
        response = workers[number % 2].put("/users", json={"users": users})
        assert response.status_code in {200, 503}, response.text  # 503: told to come again
        if response.status_code == 503:
            assert response.json()["status"] == "catalogue_busy"
            time.sleep(int(response.headers["retry-after"]))
            assert workers[number % 2].put("/users", json={"users": users}).status_code == 200

    before = count(database, "users")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(16)))
    with database.connect() as connection:
        rows = connection.execute(sa.text("select user_key, user_id from users order by user_key")).all()
    assert len(rows) == before + 40
    assert [row.user_key for row in rows] == list(range(1, len(rows) + 1))


def test_while_the_night_gives_keys_known_things_are_stored_and_new_ones_asked_to_wait(
    client: httpx.Client, database: sa.Engine
) -> None:
    with database.begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(locks.KEYS)))
        assert put(client, "/items/1010", title="known")["result"] == "updated"
        response = client.put("/items/6001", json={})
        assert (response.status_code, response.json()["status"]) == (503, "catalogue_busy")
        assert response.headers["retry-after"]
        assert client.delete("/users/999").json()["status"] == "catalogue_busy"
    assert put(client, "/items/6001")["result"] == "created"


def test_nothing_is_half_written_when_postgres_goes_away(client: httpx.Client, database: sa.Engine) -> None:
    body = {
        "objects": [
            {"type": "category", "data": {"category_id": 951}},
            {"type": "item", "data": {"item_id": 3301, "category_id": 951}},
        ]
    }
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "create function go_away() returns trigger language plpgsql as $$ begin"
                " perform pg_terminate_backend(pg_backend_pid()); return new; end $$"
            )
        )
        connection.execute(
            sa.text("create trigger go_away before insert on items for each row execute function go_away()")
        )
    response = client.post("/store_objects", json=body)
    with database.begin() as connection:
        connection.execute(sa.text("drop function go_away cascade"))
    assert (response.status_code, response.json()["status"]) == (503, "database_away")
    assert response.headers["retry-after"]
    assert client.get("/categories/951").status_code == 404
    assert client.post("/store_objects", json=body).status_code == 200


def test_without_a_data_set_and_without_postgres(clean_database_url: str) -> None:
    with shop.running_service(clean_database_url) as client:
        response = client.put("/items/1", json={})
        assert (response.status_code, response.json()["status"]) == (503, "not_ready")
    with shop.running_service("postgresql://nobody@127.0.0.1:1/nothing") as client:
        calls: list[Callable[[], httpx.Response]] = [
            lambda: client.put("/items/1", json={}),
            lambda: client.get("/items/1"),
            lambda: client.delete("/items/1"),
            lambda: client.delete("/users/1"),
            lambda: client.post("/store_objects", json={"objects": [{"type": "user", "data": {"user_id": 1}}]}),
        ]
        for call in calls:
            response = call()
            # not even the API keys could be read, so that nobody is let through
            assert (response.status_code, response.json()["status"]) == (503, "not_ready")
            assert response.headers["retry-after"]
