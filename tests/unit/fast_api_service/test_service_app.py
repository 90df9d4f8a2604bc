"""The application without a database: the snapshot is put in by hand, and only anonymous requests are made."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import traceback
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from fast_api_service.app import create_app
from fast_api_service.metrics import Metrics
from fast_api_service.middleware.concurrency import MAX_BODY_BYTES
from fast_api_service.runtime.state import state_of
from fast_api_service.schemas import RecommendAnswer
from fast_api_service.settings import ApiSettings
from recsys import __version__
from recsys.errors import InputError
from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.core import StoredList
from recsys.serving.ids import JsonType
from recsys.serving.snapshot import ListVersion, Publication, Snapshot
from tests.unit.fast_api_service.middleware.test_concurrency import HEADERS, bounded

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def snapshot(json_type: JsonType) -> Snapshot:
    items = ItemDictionary(json_type)
    for key in range(1, 21):
        items.add(key, str(100 + key), 1 + key % 2, key != 20)
    version = ListVersion(1, "default", "v1", "dataset/1", "default_recommendations", AT, 1, 5, ("popular",))
    return Snapshot(
        publication=Publication(3, 3, AT, "published", "dataset/1", {"als": "als/1"}, {}, {"default": version}),
        items=items,
        categories=CategoryTree(json_type, {1: "11", 2: "12"}, {1: None, 2: None}),
        lists={"default": {0: StoredList.of([20, 5, 4, 3], [9.0, 8.0, 7.0, 6.0], [0, 0, 0, 0])}},
        user_id_type=json_type,
    )


class Client:
    """Calls the application in this process, without a socket and without its start-up."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def call(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **request)

        return asyncio.run(answer())

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.call("GET", path, **request)

    def post(self, path: str, **request: Any) -> httpx.Response:
        return self.call("POST", path, **request)


@pytest.fixture(params=["integer", "string"])
def json_type(request: pytest.FixtureRequest) -> JsonType:
    return request.param


@pytest.fixture
def client(json_type: JsonType) -> Client:
    app = create_app("postgresql://nobody@127.0.0.1:1/nothing", ApiSettings())
    app.state.service.snapshot = snapshot(json_type)
    app.state.service.keys.take([])
    return Client(app)


def refused(response: Any, code: int, status: str) -> str:
    body = response.json()
    assert (response.status_code, body["success"], body["status"]) == (code, False, status), body
    assert body.keys() == {"success", "status", "error"}
    assert response.headers["x-request-id"]
    return str(body["error"])


def test_ids_come_back_in_the_type_of_the_catalogue(client: Client, json_type: JsonType) -> None:
    for excluded in (105, "105"):
        body = client.post("/recommend", json={"top_k": 3, "exclude": [excluded]}).json()
        RecommendAnswer.model_validate(body)
        expected = [104, 103, 119]
        ids = [item["item_id"] for item in body["recommendations"]]
        assert ids == (expected if json_type == "integer" else [str(number) for number in expected])
    assert [item["source"] for item in body["recommendations"]] == ["popular", "popular", "available"]
    assert [item["rank"] for item in body["recommendations"]] == [1, 2, 3]
    assert body["provenance"]["publication_id"] == 3
    assert body["provenance"]["models"] == {"als": "als/1"}
    assert (body["provenance"]["tier"], body["provenance"]["user"]) == ("popular", "anonymous")
    assert body["provenance"]["list_age_s"] > 0
    assert body["provenance"]["degraded"] == []


def test_the_state_of_ordinary_routes_can_be_overridden(client: Client) -> None:
    other = create_app("postgresql://nobody@127.0.0.1:1/nothing", ApiSettings()).state.service
    other.snapshot = dataclasses.replace(snapshot("integer"), categories=CategoryTree("integer", {}, {}))
    client.app.dependency_overrides[state_of] = lambda: other
    client.app.state.service = None
    assert client.get("/model/info").json()["catalogue"]["n_categories"] == 0
    for path in ("/ready", "/metrics", "/similar/101", "/online/streaming/config"):
        assert client.get(path).status_code == 200
    for path in ("/items", "/users/1", "/config", "/dashboard/data", "/online/events/1", "/online/training/status"):
        refused(client.get(path), 503, "database_away")


def test_a_category_bounds_the_answer(client: Client) -> None:
    body = client.post("/recommend", json={"category_id": 12, "top_k": 50}).json()
    assert {int(item["item_id"]) % 2 for item in body["recommendations"]} == {1}
    assert len(body["recommendations"]) == 10


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": 1001}, "top_k"),
        ({"top_k": None}, "top_k"),
        ({"surface": "moon"}, "surface"),
        ({"exclude": [1] * 1001}, "exclude"),
        ({"exclude": [[1]]}, "exclude.0"),
        ({"user_id": True}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "a\0b"}, "user_id"),
        ({"user_id": "x" * 129}, "user_id"),
        ({"user_id": 10**18}, "user_id"),
        ({"item_id": 1}, "item_id"),
        ([], "Content-Type"),
    ],
)
def test_bad_input_is_named(client: Client, body: Any, field: str) -> None:
    assert field in refused(client.post("/recommend", json=body), 422, "invalid_request")


@pytest.mark.parametrize("field", ["exclude", "item_ids", "candidate_items", "seq", "user_ids"])
def test_lists_are_read_up_to_the_first_invalid_entry(client: Client, field: str) -> None:
    path = "/recommend/batch" if field == "user_ids" else "/recommend"
    error = refused(client.post(path, json={field: [[]] * 100_000}), 422, "invalid_request")
    assert error.startswith(f"{field}.0: an id is an integer or a string")
    assert error.count("an id is") == 1


def test_of_many_problems_some_are_named_and_all_counted(client: Client) -> None:
    error = refused(client.post("/recommend", json={f"x{n}": 1 for n in range(20_000)}), 422, "invalid_request")
    assert error.startswith("x0: no such field; x1: no such field")
    assert "; and 19995 more" in error


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"\xff",
        b'{"user_id": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"top_k": NaN}',
        b'{"top_k": 1%s}' % (b"0" * 9000),
        b"[" * 100_000,
    ],
)
def test_bytes_that_are_no_request_are_refused(client: Client, raw: bytes) -> None:
    response = client.post("/recommend", content=raw, headers={"content-type": "application/json"})
    refused(response, 422, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("PATCH", "/online/training/restart-policy", {}, "give max_restarts, backoff_s or watchdog_s. See /docs"),
        ("POST", "/predict", {"user_ids": [1], "item_ids": [1, 2]}, "1 user_ids and 2 item_ids; give as many of both"),
        ("POST", "/store_object", {"type": "item"}, "item.data: Field required. See /docs"),
        ("POST", "/store_object", {"type": "basket"}, "type: should be one of 'item', 'user', 'category'. See /docs"),
        ("POST", "/store_object", {"data": {}}, "type: Field required. See /docs"),
        ("POST", "/store_object", [], "the body should be a JSON object"),
        ("POST", "/recommend", {"candidate_items": []}, "candidate_items: should have at least 1 item, not 0. See"),
        ("POST", "/recommend", {"exclude": [1] * 1001}, "exclude: should have at most 1000 items, not 1001. See /docs"),
    ],
)
def test_what_is_wrong_with_a_body_is_said_in_the_words_of_the_form_that_was_meant(
    client: Client, method: str, path: str, body: Any, words: str
) -> None:
    answer = client.call(method, path, json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(words)
    assert "Object" not in answer.json()["error"]


def test_a_form_is_told_to_be_json(client: Client) -> None:
    assert "Content-Type: application/json" in refused(
        client.post("/recommend", data={"user_id": "1"}), 422, "invalid_request"
    )


def test_a_body_that_is_too_large_is_refused_declared_or_not(client: Client) -> None:
    too_much = b'{"exclude": [' + b" " * MAX_BODY_BYTES + b"]}"
    headers = {"content-type": "application/json"}
    refused(client.post("/recommend", content=too_much, headers=headers), 413, "body_too_large")

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(too_much), 65536):
            yield too_much[start : start + 65536]

    refused(client.post("/recommend", content=pieces(), headers=headers), 413, "body_too_large")


def test_what_is_not_there_is_said_in_the_one_form(client: Client, json_type: JsonType) -> None:
    assert "99" in refused(client.post("/recommend", json={"category_id": 99}), 404, "unknown_category")
    refused(client.get("/similar/no-such-item"), 404, "unknown_item")
    refused(client.get("/similar/999"), 404, "unknown_item")
    refused(client.get("/nowhere"), 404, "not_found")
    response = client.get("/recommend")
    assert "POST" in refused(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    if json_type == "integer":
        assert "integers" in refused(client.post("/recommend", json={"user_id": "guest"}), 422, "invalid_request")


def test_a_fault_of_ours_shows_no_trace(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.app.state.service.now = "nothing of the kind"
    response = client.post("/recommend", json={}, headers={"x-request-id": "abc-1"})
    error = refused(response, 500, "internal_error")
    assert "abc-1" in error
    assert "AttributeError" not in error
    assert response.headers["x-request-id"] == "abc-1"
    assert "AttributeError" in caplog.text
    assert "object has no attribute" not in caplog.text  # messages of errors may quote what a user sent


def test_an_answer_that_breaks_off_quotes_nothing_either(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError(f"user {500 + 1}")

    async def ask() -> None:
        async def receive() -> Message:
            return {"type": "http.request"}

        async def send(_: Message) -> None: ...

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [*HEADERS, (b"x-request-id", b"abc-1")]}
        await bounded(broken, Metrics(), 1)[0](scope, receive, send)

    with pytest.raises(RuntimeError, match="abc-1") as raised:
        asyncio.run(ask())
    assert "501" not in "".join(traceback.format_exception(raised.value))
    assert "501" not in caplog.text
    assert "abc-1" in caplog.text


def test_a_strange_request_id_is_replaced(client: Client) -> None:
    response = client.get("/health", headers={"x-request-id": "a b"})
    assert response.headers["x-request-id"] not in {"", "a b"}


def test_nothing_published_is_not_ready_but_alive(client: Client) -> None:
    client.app.state.service.snapshot = None
    assert client.get("/health").json() == {"success": True, "status": "alive", "version": __version__}
    for answer in (client.get("/ready"), client.post("/recommend", json={}), client.get("/model/info")):
        refused(answer, 503, "not_ready")
        assert int(answer.headers["retry-after"]) > 0


def test_the_document_names_the_ids_of_the_loaded_catalogue(client: Client, json_type: JsonType) -> None:
    document = client.get("/openapi.json").json()
    user_id = document["components"]["schemas"]["RecommendRequest"]["properties"]["user_id"]["anyOf"][0]
    assert f"user ids of this catalogue are {json_type}s" in user_id["description"]
    assert "x-id-of" not in str(document)
    example = document["paths"]["/similar/{item_id}"]["get"]["parameters"][0]["example"]
    assert example == (1 if json_type == "integer" else "item-1")
    assert client.get("/docs").status_code == 200
    assert client.get("/static/swagger-ui-bundle.js").status_code == 200
    assert "https://" not in client.get("/docs").text  # the page works without the internet


def test_metrics_count_by_route_and_not_by_address(client: Client) -> None:
    client.post("/recommend", json={"top_k": 1})
    client.get("/similar/1")
    client.get("/secret-address")
    text = client.get("/metrics").text
    assert 'recsys_requests_total{method="POST",route="/recommend",status="200"} 1.0' in text
    assert 'route="/similar/{item_id}",status="404"} 1.0' in text
    assert 'recsys_answers_total{surface="homepage",tier="popular"} 1.0' in text
    assert 'recsys_cold_starts_total{user="anonymous"} 1.0' in text
    assert "secret-address" not in text


def test_an_answer_is_short_of_what_could_be_asked(client: Client) -> None:
    candidates = [101, 102, 103, 103, 999999]
    for top_k, short in ((3, 0), (10, 0), (4, 0)):
        client.post("/recommend", json={"top_k": top_k, "candidate_items": candidates})
        text = client.get("/metrics").text
        assert f'recsys_short_answers_total{{route="/recommend"}} {short}.0' in text
    client.post("/recommend", json={"candidate_items": [101, 120]})  # one is not available
    assert 'recsys_short_answers_total{route="/recommend"} 1.0' in client.get("/metrics").text


def test_the_service_is_for_this_machine_alone_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_HOST", raising=False)
    assert ApiSettings().is_loopback
    assert not ApiSettings(host="0.0.0.0").is_loopback  # noqa: S104 - the point of the test


def test_a_url_of_another_database_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="only postgresql:// is supported"):
        create_app("mysql://root@localhost/shop", ApiSettings())


def test_batches_leave_turns_of_the_loop_to_all_else(client: Client) -> None:
    """Counted in turns: of all batches together one goes on in a turn, by a few users."""
    n_users, n_turns = 200, 0

    async def run() -> list[httpx.Response]:
        loop = asyncio.get_running_loop()
        is_over = False

        def tick() -> None:
            nonlocal n_turns
            n_turns += 1
            if not is_over:
                loop.call_soon(tick)

        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as caller:
            loop.call_soon(tick)
            body = {"user_ids": list(range(n_users)), "top_k": 4}
            found = await asyncio.gather(*(caller.post("/recommend/batch", json=body) for _ in range(3)))
            is_over = True
            return list(found)

    answers = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [len(answer.json()["results"]) for answer in answers] == [n_users] * 3
    assert n_turns >= 3 * n_users / 2
