"""The OpenAPI document: made once, beside the event loop, with examples that are true and name nobody."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import threading
from collections import Counter
from typing import Any

import httpx
import pytest

from fast_api_service import openapi
from fast_api_service.middleware.concurrency import MAX_BODY_BYTES
from recsys import api_key
from recsys.serving.ids import JsonType
from tests.unit.fast_api_service.auth.test_keys import bearer, key, service
from tests.unit.fast_api_service.test_service_app import Client, refused, snapshot


def document_of(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, one) for path, by_method in document["paths"].items() for method, one in by_method.items()]


def test_it_is_made_once_for_the_types_of_ids_and_whether_a_key_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    made_in: list[threading.Thread] = []
    make = openapi.get_openapi

    def counted(**arguments: Any) -> dict[str, Any]:
        made_in.append(threading.current_thread())
        return make(**arguments)

    monkeypatch.setattr(openapi, "get_openapi", counted)
    client = service([])
    state = client.app.state.service

    async def many() -> None:
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as many_clients:
            await asyncio.gather(*(many_clients.get("/openapi.json") for _ in range(5)))

    asyncio.run(many())
    state.snapshot = dataclasses.replace(state.snapshot, factors=None)  # as each change of the catalogue makes one
    document_of(client)
    assert len(made_in) == 1
    state.snapshot = snapshot("string")
    document_of(client)
    state.keys.take([key("admin")[1]])
    document_of(client)
    assert len(made_in) == 3
    assert threading.main_thread() not in made_in


@pytest.mark.parametrize(("json_type", "user", "item"), [("integer", 1, 1), ("string", "user-1", "item-1")])
def test_examples_are_of_the_catalogues_type_and_of_nobody(json_type: JsonType, user: Any, item: Any) -> None:
    client = service([])
    client.app.state.service.snapshot = snapshot(json_type)
    document = document_of(client)
    assert not re.findall(r"\b1(?:0[1-9]|1[0-9]|20)\b", str(document))  # the shop's ids
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert body["examples"]["pairs"]["value"]["pairs"] == [{"user_id": user, "item_id": item}]
    parameters = document["paths"]["/users/{user_id}"]["get"]["parameters"]
    assert [one["example"] for one in parameters] == [user]


def test_an_example_with_a_category_is_marked_as_a_template() -> None:
    """Another unknown id is answered all the same; of a category that there is not, 404."""
    document, n_marked = document_of(service([])), 0
    for operations in document["paths"].values():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for one in content.get("examples", {}).values():
                assert ("category_id" in one["value"]) == one.get("description", "").startswith("A template")
                n_marked += "category_id" in one["value"]
    assert n_marked >= 2


def test_no_two_schemas_have_one_title_or_a_name_of_a_module() -> None:
    """Who makes a client of the document gives its classes these names."""
    schemas = document_of(service([]))["components"]["schemas"]
    titles = Counter(schema.get("title", name) for name, schema in schemas.items())
    assert [title for title, n in titles.items() if n > 1] == []
    assert [name for name in schemas if "__" in name or name.endswith(("-Input", "-Output"))] == []


def example(operation: dict[str, Any], code: int) -> dict[str, Any]:
    found: dict[str, Any] = operation["responses"][str(code)]["content"]["application/json"]["example"]
    return found


def test_every_refusal_has_an_example_of_its_own() -> None:
    n = 0
    for method, path, operation in operations(document_of(service([]))):
        for code, response in operation["responses"].items():
            if int(code) >= 400:
                shown = response["content"]["application/json"]["example"]
                assert shown.keys() == {"success", "status", "error"}, (method, path, code)
                assert "{" not in shown["error"]
                n += 1
    assert n > 150


def test_the_examples_of_refusals_are_what_is_answered() -> None:
    """Of those that need no Postgres, word for word."""
    text, row = key(*(scope for scope in api_key.SCOPES if scope != "admin"))
    events_text, events_row = key("events")
    recommend_text, recommend_row = key("recommend")
    client = service([row, events_row, recommend_row])
    checked = Counter[int]()

    def check(operation: dict[str, Any], answer: httpx.Response, code: int) -> None:
        expected = example(operation, code)
        message = refused(answer, code, expected["status"])
        assert re.sub(r"rk?_?[0-9a-f]{12}|key [0-9a-f]{12}", "key", message) == expected["error"].replace(
            "key 3f9c0a1b2c3d", "key"
        )
        checked[code] += 1

    for method, path, operation in operations(document_of(client)):
        if "401" not in operation["responses"]:
            continue
        parameters = {p["name"]: p["example"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        filled = path.format(**parameters)
        check(operation, client.call(method, filled), 401)
        needs_recommend = "lacks the scope recommend" in example(operation, 403)["error"]
        lacking = bearer(events_text if needs_recommend else recommend_text)
        answer = client.call(method, filled, headers=lacking)
        if "scopes" not in answer.json()["error"]:
            check(operation, answer, 403)
        if "admin" in example(operation, 403)["error"]:
            continue
        if "413" in operation["responses"]:
            body = b"[" + b"1," * (MAX_BODY_BYTES // 2) + b"1]"
            check(operation, client.call(method, filled, headers=bearer(text), content=body), 413)
        if "422" in operation["responses"]:
            if "requestBody" in operation:
                answer = client.call(method, filled, headers=bearer(text), json=[])
            elif any(one["in"] == "query" for one in operation.get("parameters", ())):
                name = example(operation, 422)["error"].partition(":")[0]
                answer = client.call(method, filled, headers=bearer(text), params={name: 0})
            else:
                continue  # Postgres knows the types of ids
            check(operation, answer, 422)
    assert checked[401] > 40
    assert checked[403] > 35
    assert checked[413] > 10
    assert checked[422] > 15
    paths = document_of(client)["paths"]
    answer = client.get("/similar/1", headers=bearer(text))
    check(paths["/similar/{item_id}"]["get"], answer, 404)
    for path in ("/recommend", "/recommend/batch"):
        body = {"category_id": 1} | ({"user_ids": [1]} if path.endswith("batch") else {})
        check(paths[path]["post"], client.post(path, headers=bearer(text), json=body), 404)
