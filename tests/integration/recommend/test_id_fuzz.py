"""Ids as the world sends them: any text, any number, as JSON or in a path. Never a 5xx, and never another's id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.storage.engine import engine_of, migrate
from tests.conftest import execute, sibling
from tests.integration import serving_shop as shop


@pytest.fixture(scope="module", params=["integer", "string"])
def service(request: pytest.FixtureRequest, database_url: str) -> Iterator[tuple[httpx.Client, str]]:
    """A shop with ids of one kind; what the fuzz stores there hurts nobody."""
    name = f"ids_{request.param}"
    url = sibling(database_url, name)
    execute(database_url, f"drop database if exists {name}", f"create database {name}")
    engine = engine_of(url)
    try:
        migrate(engine)
        shop.stock(engine, request.param)
        shop.publish(engine, "v1", shop.FIRST)
        with shop.running_service(url) as client:
            shop.wait_until(lambda: shop.is_ready(client), 10)
            yield client, request.param
    finally:
        engine.dispose()
        execute(database_url, f"drop database {name} with (force)")


texts = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="\0\x01\x7f\u200b\u202e\ufeff\U0001f600'\"\\;%_/?#. -", min_size=1, max_size=12),
    st.sampled_from(
        [
            "501",
            "1001",
            "0501",
            "+501",
            "501.0",
            "5e2",
            "-0",
            " 501",
            "501\n",
            "\u0665\u0660\u0661",
            "item-1",
            "user-501",
        ]
    ),
    st.integers(100, 200).map(lambda n: "x" * n),
    st.integers(min_value=10**17, max_value=10**30).map(str),
    st.just("../../etc/passwd"),
    st.just("'; drop table users; --"),
)
ids = st.one_of(
    texts,
    st.integers(-(10**30), 10**30),
    st.sampled_from([0, -1, 501, 502, 503, 1001, 1002, 501.0, 2**63, 10**18 - 1, 10**18]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
)
lone_surrogates = st.sampled_from(['"\\ud800"', '"a\\udfffb"', '"\\ud800\\u0041"'])
bodies = st.one_of(
    st.fixed_dictionaries(
        {}, optional={"user_id": ids, "session_id": ids, "category_id": ids, "top_k": st.just(3)}
    ).map(lambda body: ("/recommend", body)),
    st.lists(ids, max_size=3).map(lambda some: ("/recommend", {"item_ids": some, "exclude": some, "seq": some})),
    st.lists(ids, min_size=1, max_size=3).map(lambda some: ("/recommend", {"candidate_items": some})),
    st.lists(ids, min_size=1, max_size=3).map(lambda some: ("/recommend/batch", {"user_ids": some})),
    st.tuples(ids, ids).map(lambda pair: ("/online/data/add", {"user_id": pair[0], "item_id": pair[1], "label": 1})),
    st.tuples(ids, ids).map(
        lambda pair: ("/online/data/add", {"samples": [{"user_id": 501, "item_id": pair[0], "event_id": pair[1]}]})
    ),
    st.tuples(ids, ids).map(lambda pair: ("/predict", {"user_id": pair[0], "item_id": pair[1]})),
    ids.map(lambda one: ("/store_object", {"type": "item", "data": {"item_id": one, "available": False}})),
    ids.map(lambda one: ("/store_object", {"type": "user", "data": {"user_id": one}})),
)
paths = st.tuples(
    st.sampled_from(["/similar/", "/items/", "/users/", "/categories/", "/online/events/"]),
    texts.filter(lambda text: text.strip("/.") != ""),
)
FUZZ = settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(request=bodies)
def test_ids_in_bodies(service: tuple[httpx.Client, str], request: tuple[str, dict[str, Any]]) -> None:
    path, body = request
    checked(*service, service[0].post(path, json=body), body)


@FUZZ
@given(path=paths)
def test_ids_in_paths(service: tuple[httpx.Client, str], path: tuple[str, str]) -> None:
    checked(*service, service[0].get(path[0] + quote(path[1], safe="")), path)


@given(surrogate=lone_surrogates)
def test_half_of_a_surrogate_pair_is_no_id(service: tuple[httpx.Client, str], surrogate: str) -> None:
    headers = {"content-type": "application/json"}
    for path, body in (
        ("/recommend", f'{{"user_id": {surrogate}}}'),
        ("/recommend/batch", f'{{"user_ids": [{surrogate}]}}'),
        ("/online/data/add", f'{{"user_id": {surrogate}, "item_id": 1001}}'),
        ("/store_object", f'{{"type": "user", "data": {{"user_id": {surrogate}}}}}'),
    ):
        response = service[0].post(path, content=body, headers=headers)
        assert response.status_code == 422, (path, response.text)
        checked(*service, response, body)


def checked(client: httpx.Client, kind: str, response: httpx.Response, sent: Any) -> None:
    assert response.status_code < 500 or response.json()["status"] == "model_unavailable", (sent, response.text)
    answer = json.loads(response.content.decode())  # JSON in UTF-8, whatever was sent
    assert answer["success"] is (response.status_code == 200), (sent, answer)
    if not answer["success"]:
        assert answer.get("status") or response.status_code == 207, (sent, answer)
        return
    expected = int if kind == "integer" else str
    items = [item["item_id"] for item in answer.get("recommendations", ())]
    assert all(type(item_id) is expected for item_id in items), (sent, items)
    if answer.get("user_id") is not None:
        assert type(answer["user_id"]) is expected
