"""An item that is deleted while an answer about it waits for Postgres: the answer is still one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from tests.integration import serving_shop as shop
from tests.integration import tiny_model


@pytest.fixture(scope="module")
def service(database_url: str, database: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root: Path = tmp_path_factory.mktemp("artifacts")
    tiny_model.write(root, "v1")
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST | {"i2i": {1: [2, 3, 4], 2: [1], 8: [9]}}, {"deepfm": "deepfm/v1"})
    with shop.running_service(database_url, ARTIFACT_ROOT=str(root), API_DEADLINE_MS="20000") as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tiny_model.in_service(client) == "deepfm/v1", 20)
        yield client


def n_items(client: httpx.Client) -> int:
    return sum(
        int(float(line.split()[-1]))
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("recsys_catalogue_items{")
    )


def while_held(
    client: httpx.Client, database: sa.Engine, table: str, item_id: int, ask: Callable[[], httpx.Response]
) -> httpx.Response:
    """What `ask` is answered when its read of the table waits until the worker has forgotten the item."""
    n = n_items(client)
    with ThreadPoolExecutor(1) as pool, database.connect() as holder:
        holder.execute(sa.text(f"lock table {table} in access exclusive mode"))
        answer = pool.submit(ask)
        waiting = sa.text("select count(*) from pg_locks where not granted and relation = cast(:name as regclass)")
        with database.connect() as other:
            shop.wait_until(lambda: other.execute(waiting, {"name": table}).scalar_one() > 0, 10)
        assert client.delete(f"/items/{item_id}").status_code == 200
        shop.wait_until(lambda: n_items(client) == n - 1, 10)
        assert not answer.done()
        holder.rollback()
        return answer.result(20)


def test_positions_of_a_product_whose_item_goes_away(service: httpx.Client, database: sa.Engine) -> None:
    body = {"user_id": 501, "category_id": 903, "products": [{"product_id": "a", "item_ids": [1052, 1053]}]}

    def ask() -> httpx.Response:
        return service.post("/predict/product_positions", json=body)

    before = ask().json()["positions"][0]["item_id"]
    answer = while_held(service, database, "user_recent", before, ask)
    assert answer.status_code == 200, answer.text
    assert answer.json()["positions"][0]["item_id"] == before
    assert ask().json()["positions"][0]["item_id"] == {1052, 1053}.difference({before}).pop()


@pytest.mark.parametrize(
    ("path", "body", "item_id"),
    [
        ("/recommend", {"user_id": 501, "item_ids": [1001], "surface": "product_detail", "explain": True}, 1001),
        ("/recommend", {"user_id": 501, "candidate_items": [1005, 1006], "explain": True}, 1005),
        ("/recommend/batch", {"user_ids": [501, 503], "exclude": [1004], "explain": True}, 1004),
        ("/predict", {"user_id": 501, "item_id": 1007}, 1007),
    ],
)
def test_other_answers(
    service: httpx.Client, database: sa.Engine, path: str, body: dict[str, object], item_id: int
) -> None:
    answer = while_held(service, database, "user_recent", item_id, lambda: service.post(path, json=body))
    assert answer.status_code == 200, answer.text
    assert item_id not in {item["item_id"] for item in answer.json().get("recommendations", [])}


def test_what_led_to_an_item_may_be_gone(service: httpx.Client) -> None:
    sample = {"session_id": "gone", "item_id": 1008, "event_type": "view"}
    sample["timestamp"] = dt.datetime.now(dt.UTC).isoformat()
    response = service.post("/online/data/add", json={"samples": [sample]})
    assert response.json()["accepted"] == 1, response.text

    def reason() -> dict[str, int] | None:
        answer = service.post("/recommend", json={"session_id": "gone", "explain": True})
        assert answer.status_code == 200, answer.text
        [called] = [item for item in answer.json()["recommendations"] if item["item_id"] == 1009]
        found: dict[str, int] | None = called["reason"]
        return found

    assert reason() == {"item_id": 1008}
    assert service.delete("/items/1008").status_code == 200
    shop.wait_until(lambda: reason() is None, 10)
