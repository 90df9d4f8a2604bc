"""The service as a process, over HTTP, on real Postgres."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from fast_api_service.recommend.batch_schemas import BatchAnswer
from fast_api_service.schemas import ModelInfo, SimilarAnswer
from recsys.storage import embedded
from recsys.storage.engine import engine_of, migrate
from tests.conftest import execute, sibling
from tests.integration import serving_shop as shop
from tests.integration import tiny_model


@pytest.fixture(scope="module")
def service(database_url: str, database: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with a published catalogue of integer ids and a model, which no test changes."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    tiny_model.write(artifacts, "v1")
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST, {"deepfm": "deepfm/v1"})
    with shop.running_service(database_url, ARTIFACT_ROOT=str(artifacts)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tiny_model.in_service(client) == "deepfm/v1", 5)
        yield client


def recommended(client: httpx.Client, **request: Any) -> dict[str, Any]:
    body = shop.recommended(client, **request)
    ids = [item["item_id"] for item in body["recommendations"]]
    assert len(ids) == len(set(ids))
    assert [item["rank"] for item in body["recommendations"]] == list(range(1, len(ids) + 1))
    return body


def keys(body: dict[str, Any]) -> list[int]:
    """Item keys of an answer of the shop with integer ids."""
    return [item["item_id"] - 1000 for item in body["recommendations"]]


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_load_balancer_may_ask_for_the_head_alone(service: httpx.Client, path: str) -> None:
    whole, head = service.get(path), service.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == whole.headers[name]
    assert service.get(path).json() == whole.json()  # over the same connection: no byte of a body was left in it
    assert path in service.get("/openapi.json").json()["paths"]
    assert "head" not in service.get("/openapi.json").json()["paths"][path]


@pytest.mark.parametrize(
    ("user_id", "status", "tier", "expected"),
    [
        (501, "known", "ranked", [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]),
        (502, "known", "personal", [6, 7, 8, 9, 10, 11, 12, 14, 15, 16]),
        (503, "light", "popular", [11, 12, 14, 15, 16, 17, 18, 19, 20, 21]),
        (999, "unknown", "popular", [11, 12, 14, 15, 16, 17, 18, 19, 20, 21]),
        (None, "anonymous", "popular", [11, 12, 14, 15, 16, 17, 18, 19, 20, 21]),
    ],
)
def test_everybody_gets_ten_distinct_available_items(
    service: httpx.Client, user_id: int | None, status: str, tier: str, expected: list[int]
) -> None:
    body = recommended(service, user_id=user_id)
    assert keys(body) == expected
    assert body["user_id"] == user_id
    provenance = body["provenance"]
    assert (provenance["user"], provenance["tier"], provenance["degraded"]) == (status, tier, [])
    assert provenance["dataset"] == "dataset/v1"
    assert provenance["list_version"] == "v1"
    assert body["recommendations"][0]["source"] == tier
    assert body["recommendations"][0]["generator"] == f"{'default' if tier == 'popular' else tier} model"


def test_the_list_is_filled_to_the_end_of_the_catalogue(service: httpx.Client) -> None:
    body = recommended(service, user_id=501, top_k=1000)
    assert set(keys(body)) == set(range(1, 61)) - shop.UNAVAILABLE
    sources = [item["source"] for item in body["recommendations"]]
    assert sorted(set(sources), key=sources.index) == ["ranked", "personal", "popular", "available"]


def test_category_and_exclusions_hold_for_every_tier(service: httpx.Client) -> None:
    body = recommended(service, user_id=501, category_id=902, exclude=[1001, "1002", 4242], top_k=100)
    assert set(keys(body)) == set(range(4, 51)) - shop.UNAVAILABLE
    assert [item["source"] for item in body["recommendations"][:2]] == ["ranked", "ranked"]
    anonymous = recommended(service, category_id=902, top_k=3)
    assert keys(anonymous) == [21, 22, 23]
    assert anonymous["provenance"]["tier"] == "popular_in_category"
    empty = recommended(service, category_id=904)
    assert (empty["recommendations"], empty["provenance"]["tier"]) == ([], "nothing")


def test_a_batch_is_what_each_would_be_answered(service: httpx.Client) -> None:
    query: dict[str, Any] = {"category_id": 902, "exclude": [1001], "surface": "cart", "top_k": 4}
    user_ids = [502, "501", 999, 503, 501]
    response = service.post("/recommend/batch", json={"user_ids": user_ids, **query})
    BatchAnswer.model_validate(response.json())
    results = response.json()["results"]
    assert [result["user_id"] for result in results] == [502, 501, 999, 503, 501]
    for user_id, result in zip(user_ids, results, strict=True):
        alone = recommended(service, user_id=user_id, **query)
        assert result["recommendations"] == alone["recommendations"]
        assert (result["user"], result["tier"]) == (alone["provenance"]["user"], alone["provenance"]["tier"])
    whole = service.post("/recommend/batch", json={"user_ids": list(range(400, 1400)), "top_k": 100}).json()
    assert [result["user_id"] for result in whole["results"]] == list(range(400, 1400))
    assert {result["user"] for result in whole["results"]} == {"known", "light", "unknown"}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"user_ids": []}, "user_ids"),
        ({"user_ids": [1] * 1001}, "user_ids"),
        ({"user_ids": [1] * 1000, "top_k": 101}, "at most 100,000 items"),
        ({"user_ids": [True]}, "user_ids.0"),
        ({"user_ids": [1], "session_id": "x"}, "session_id: no such field"),
        ({}, "user_ids"),
    ],
)
def test_a_bad_batch_is_refused_as_a_whole(service: httpx.Client, body: dict[str, Any], problem: str) -> None:
    response = service.post("/recommend/batch", json=body)
    assert (response.status_code, response.json()["status"]) == (422, "invalid_request")
    assert problem in response.json()["error"]


def test_neighbours(service: httpx.Client) -> None:
    response = service.get("/similar/1001")
    SimilarAnswer.model_validate(response.json())
    assert [(item["item_id"], item["source"]) for item in response.json()["recommendations"]] == [
        (1002, "i2i"),
        (1004, "i2i"),  # 1003 is not available
        (1005, "similar"),
        (1006, "similar"),
    ]
    assert len(service.get("/similar/1001", params={"top_k": 2}).json()["recommendations"]) == 2
    alone = service.get("/similar/1060")
    assert (alone.status_code, alone.json()["recommendations"]) == (200, [])
    assert service.get("/similar/4242").json()["status"] == "unknown_item"


def test_model_info_tells_what_is_in_service(service: httpx.Client) -> None:
    info = service.get("/model/info").json()
    ModelInfo.model_validate(info)
    assert info["publication"]["lists"].keys() == shop.FIRST.keys()
    assert info["publication"]["lists"]["ranked"]["n_rows"] == 1
    assert info["models"] == {"als": "als/v1", "deepfm": "deepfm/v1"}
    assert (info["scorer"]["loaded"], info["scorer"]["problem"]) == ("deepfm/v1", None)
    assert info["catalogue"] == {
        "n_items": 60,
        "n_available": 57,
        "n_categories": 4,
        "id_types": {"user": "integer", "item": "integer", "category": "integer"},
        "numeric_properties": [],
    }


def test_every_example_of_the_document_runs(service: httpx.Client) -> None:
    document = service.get("/openapi.json").json()
    n_run = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parameters = {
                p["name"]: shop.with_ids(p["example"], p["name"])
                for p in operation.get("parameters", [])
                if "example" in p
            }
            bodies = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
            for body in [shop.with_ids(example["value"]) for example in bodies.values()] or [None]:
                headers = {"x-requested-with": "tests"}
                response = service.request(method, path.format(**parameters), json=body, headers=headers)
                assert response.status_code == 200, (path, body, response.text)
                if path in {"/recommend", "/similar/{item_id}"} and "filters" not in (
                    body or ()
                ):  # nothing has a price
                    assert response.json()["recommendations"], (path, body)
                n_run += 1
    assert n_run >= 28


def test_the_document_holds_no_id_of_the_shop(service: httpx.Client) -> None:
    """It is open to everybody, also where keys are needed for all else."""
    text = service.get("/openapi.json").text
    assert re.findall(r"\b(501|502|10(?:0[1-9]|[1-5][0-9]|60)|90[1-4])\b", text) == []


def test_on_older_tables_it_serves_nothing_and_says_what_to_do(postgres_server: str, tmp_path: Path) -> None:
    name, log = "older_than_the_service", tmp_path / "service.log"
    execute(postgres_server, f"drop database if exists {name} with (force)", f"create database {name}")
    try:
        with shop.running_service(sibling(postgres_server, name), log_file=log) as client:
            assert client.get("/ready").status_code == 503
            assert (client.head("/ready").status_code, client.head("/ready").content) == (503, b"")
            assert client.post("/recommend", json={}).status_code == 503
            shop.wait_until(lambda: "recsys migrate" in log.read_text(), 10)
    finally:
        execute(postgres_server, f"drop database if exists {name} with (force)")


def test_strings_stay_strings(clean_database_url: str, clean_database: sa.Engine) -> None:
    shop.stock(clean_database, "string")
    shop.publish(clean_database, "v1", shop.FIRST)
    with shop.running_service(clean_database_url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        body = recommended(client, user_id="user-501", top_k=2)
        assert [item["item_id"] for item in body["recommendations"]] == ["item-1", "item-2"]
        assert recommended(client, user_id=123, top_k=2)["user_id"] == "123"
        for user_id in ("ключ-🦊", "x" * 128, "' or 1=1 --", "\x01\x7f", "123", "NaN", "a/b"):
            assert recommended(client, user_id=user_id)["provenance"]["user"] == "unknown"
        assert client.get("/similar/item-1").json()["recommendations"][0]["item_id"] == "item-2"
        assert client.get("/similar/a%2Fb%3F").json()["status"] == "unknown_item"


def test_a_new_publication_is_served_within_five_seconds_and_never_mixed(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    with shop.running_service(clean_database_url) as client:
        assert client.get("/ready").json()["status"] == "not_ready"
        shop.stock(clean_database)
        first = shop.publish(clean_database, "v1", shop.FIRST)
        assert shop.wait_until(lambda: shop.is_ready(client), 5) < 5
        allowed = {first: {"ranked": {1, 2, 4, 5}, "personal": {6, 7, 8, 9, 10}, "popular": set(range(11, 31))}}
        answers: list[dict[str, Any]] = []
        with asking(lambda: answers.append(recommended(client, user_id=501, top_k=15))):
            second = shop.publish(clean_database, "v2", shop.SECOND)
            allowed[second] = {
                "ranked": {31, 32, 34, 35},
                "personal": set(range(36, 41)),
                "popular": set(range(41, 61)),
            }
            serves = lambda number: answers[-1]["provenance"]["publication_id"] == number  # noqa: E731
            assert shop.wait_until(lambda: serves(second), 5) < 5
            with clean_database.begin() as connection:  # and back
                shop.point_at(connection, first, 99)
            assert shop.wait_until(lambda: serves(first), 5) < 5
        assert len(answers) > 10
        for answer in answers:
            of = allowed[answer["provenance"]["publication_id"]]
            assert {item["source"] for item in answer["recommendations"]} == {"ranked", "personal", "popular"}
            for item in answer["recommendations"]:
                assert item["item_id"] - 1000 in of[item["source"]], answer


@pytest.mark.slow
def test_popular_items_are_served_while_postgres_is_away(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.conftest import free_port, open_temporary_folder

    folder, port = open_temporary_folder(), free_port()
    try:
        url = embedded.ensure(folder, port).url("recsys")
        engine = engine_of(url)
        migrate(engine)
        shop.stock(engine)
        shop.publish(engine, "v1", shop.FIRST)
        engine.dispose()
        with shop.running_service(url) as client:
            shop.wait_until(lambda: shop.is_ready(client), 10)
            assert recommended(client, user_id=501)["provenance"]["tier"] == "ranked"
            keys_before = keys(client.get("/similar/1001").json())
            embedded.stop(folder)
            for user_id in (501, 503, 999):
                body = recommended(client, user_id=user_id)
                assert (body["provenance"]["tier"], body["provenance"]["user"]) == ("popular", "unread")
                assert body["provenance"]["degraded"] == ["personal_lists", "recent_events"]
                assert len(keys(body)) == 10
            assert recommended(client)["provenance"]["degraded"] == []  # nobody has no lists to miss
            away = client.get("/similar/1001").json()  # neighbours are in their file
            assert (away["provenance"]["tier"], away["provenance"]["degraded"]) == ("i2i", [])
            assert keys(away) == keys_before
            event = {"user_id": 501, "item_id": 1001}
            for lost in (client.post("/online/data/add", json=event), client.get("/online/events/501")):
                assert (lost.status_code, lost.json()["status"]) == (503, "database_away")
            seen = recommended(client, user_id=501, item_ids=[1001])  # neighbours are in memory
            assert seen["provenance"]["tier"] == "i2i"
            assert client.put("/items/1001", json={"available": False}).json()["status"] == "database_away"
            shop.wait_until(lambda: client.get("/ready").json()["database"] == "away", 5)
            text = client.get("/metrics").text
            assert 'recsys_degraded_answers_total{part="personal_lists"} 4.0' in text
            assert "recsys_database_up 0.0" in text
            embedded.ensure(folder, port)
            shop.wait_until(lambda: recommended(client, user_id=501)["provenance"]["tier"] == "ranked", 10)
            shop.wait_until(lambda: client.get("/ready").json()["database"] == "up", 5)
    finally:
        embedded.stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_contract_holds_under_fuzz(service: httpx.Client) -> None:
    call = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(Path(__file__).parents[1] / "schemathesis.toml"),
        "run",
        str(service.base_url.join("/openapi.json")),
        "--checks",
        "all",
    ]
    limits = ["--max-examples", "25", "--generation-deterministic", "--no-color", "--workers", "1"]
    done = subprocess.run([*call, *limits], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


class asking:  # noqa: N801 - reads as a word: `with asking(...)`
    """Calls something over and over in a thread of its own; its first error is raised on leaving."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._call()
            while not self._over.is_set():
                self._call()
        except BaseException as error:
            self._error = error

    def __enter__(self) -> None:
        self._call()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
