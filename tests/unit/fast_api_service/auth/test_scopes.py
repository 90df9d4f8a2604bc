"""The scopes that routes declare, against one table of what they shall be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.routing import Mount, Route
from starlette.types import Scope

from fast_api_service.auth.scopes import by_operation
from recsys import api_key
from tests.unit.fast_api_service.auth.test_keys import bearer, key, service
from tests.unit.fast_api_service.test_service_app import Client, refused

# What is expected of the routes' own declarations, by method and path (that path, or anything below it); the first row
# that matches decides.
RULES: Final[tuple[tuple[str, str, set[str]], ...]] = (
    ("*", "/health", set()),
    ("*", "/ready", set()),
    ("*", "/docs", set()),
    ("*", "/openapi.json", set()),
    ("*", "/static", set()),
    ("GET", "/dashboard/data", {"metrics"}),
    ("GET", "/dashboard", set()),
    ("POST", "/recommend", {"recommend"}),
    ("GET", "/similar", {"recommend"}),
    ("POST", "/predict", {"recommend"}),
    ("POST", "/online/data/add", {"events"}),
    ("GET", "/online/events", {"users"}),
    ("GET", "/online", {"metrics"}),
    ("*", "/online", {"admin"}),
    ("*", "/items", {"catalogue"}),
    ("*", "/categories", {"catalogue"}),
    ("*", "/users", {"users"}),
    ("*", "/store_object", {"catalogue", "users"}),
    ("*", "/store_objects", {"catalogue", "users"}),
    ("GET", "/metrics", {"metrics"}),
    ("GET", "/model/info", {"metrics"}),
    ("*", "/model/export", {"admin"}),
    ("GET", "/config", {"metrics"}),
    ("*", "/config", {"admin"}),
)


def needed_by_rules(method: str, path: str) -> set[str] | None:
    """By RULES; None without a rule."""
    method = "GET" if method == "HEAD" else method
    for rule_method, start, scopes in RULES:
        if path.startswith(start) and rule_method in (method, "*") and path[len(start) : len(start) + 1] in ("", "/"):
            return scopes
    return None


def paths(app: FastAPI) -> set[str]:
    """One of each route, and one below what is mounted."""
    return {f"{r.path}/x" if isinstance(r, Mount) else re.sub(r"{\w+}", "1", r.path_format) for r in app.routes}


def codes(client: Client, method: str, path: str, texts: dict[str, str]) -> dict[str, int]:
    """What the gate says to a request with each of the keys; 200 where it lets it in, whatever the router then says."""
    gate, keys = client.app.enter, client.app.state.service.keys
    found = {}
    for name, text in texts.items():
        headers = [(b"authorization", f"Bearer {text}".encode())] if text else []
        answer = keys.refusal({"type": "http", "method": method, "path": path, "headers": headers}, gate._route)
        found[name] = 200 if isinstance(answer, str) else answer.status_code
    return found


@pytest.fixture(scope="module")
def guarded() -> tuple[Client, dict[str, str]]:
    """A service, and the text of a key for each scope, of one for all, and of none."""
    made = {scope: key(scope, rate_per_s=1e6) for scope in api_key.SCOPES}
    return service([row for _, row in made.values()]), {"none": ""} | {scope: text for scope, (text, _) in made.items()}


def test_every_route_declares_its_scopes() -> None:
    client = service([])
    assert all(isinstance(route, Route | Mount) for route in client.app.routes), "the gate knows of no others"
    found = by_operation(client.app.routes)
    documented = client.get("/openapi.json").json()["paths"]
    assert found.keys() >= {(method.upper(), path) for path, operations in documented.items() for method in operations}
    assert len(found) >= 10
    missing = sorted(f"{method} {path}" for (method, path), scopes in found.items() if scopes is None)
    assert missing == [], "these lack `@needs` or `@needs_no_key`"


def test_each_route_needs_what_the_rules_say(guarded: tuple[Client, dict[str, str]]) -> None:
    client, texts = guarded
    operations = {(method, path) for method, path in by_operation(client.app.routes)}
    for method, template in operations | {("HEAD", path) for method, path in operations if method == "GET"}:
        path = re.sub(r"{\w+}", "1", template) + ("/x" if template.endswith("/static") else "")
        needed = needed_by_rules(method, path)
        assert needed is not None, (method, path)
        expected = {name: 200 if not needed - {name} or name == "admin" else 403 for name in texts}
        expected["none"] = 401 if needed else 200
        assert codes(client, method, path, texts) == expected, (method, path)


def test_what_no_route_answers_needs_a_valid_key_unless_its_path_is_open(
    guarded: tuple[Client, dict[str, str]],
) -> None:
    client, texts = guarded
    known = paths(client.app)
    for path in (*known, "/nowhere", "/healthy", "/health/", "/docs/x", "/online/x", "/items/", "//recommend", "/", ""):
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
            found = codes(client, method, path, {name: texts[name] for name in ("none", "admin")})
            is_open = path in known and needed_by_rules("GET", path) == set()
            assert found == {"none": 200 if is_open else 401, "admin": 200}, (method, path)


def test_a_path_is_as_closed_to_methods_that_it_does_not_take(guarded: tuple[Client, dict[str, str]]) -> None:
    client, texts = guarded
    for method, path, scope in (
        ("GET", "/recommend", "recommend"),
        ("POST", "/similar/1", "recommend"),
        ("PATCH", "/items/1", "catalogue"),
        ("POST", "/model/info", "metrics"),
        ("PUT", "/online/training/start", "admin"),
    ):
        assert {name for name, code in codes(client, method, path, texts).items() if code == 200} == {scope, "admin"}
    assert set(codes(client, "GET", "/online/x", texts).values()) == {401, 200}  # and 404 to who has any key


def test_where_no_key_is_needed_no_route_is_looked_for() -> None:
    def route_of(_: Scope) -> None:
        raise AssertionError

    keys = service([]).app.state.service.keys
    assert keys.refusal({"type": "http", "method": "GET", "path": "/metrics", "headers": []}, route_of) == ""


def test_a_direct_route_is_found_by_one_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    text, row = key("recommend")
    client = service([row])
    monkeypatch.setattr(APIRoute, "matches", None)
    assert client.post("/recommend", json={}, headers=bearer(text)).status_code == 200


def test_a_route_that_declares_nothing_is_refused_to_every_key() -> None:
    text, row = key("admin")
    client = service([row])
    client.app.add_api_route("/forgotten/{name}", lambda name: name)
    client.app.mount("/files", StaticFiles(directory=Path(__file__).parent))
    for path in ("/forgotten/x", f"/files/{Path(__file__).name}"):
        assert "no rule" in refused(client.get(path, headers=bearer(text)), 403, "forbidden")
        refused(client.get(path), 401, "unauthorized")
    refused(client.get("/nowhere", headers=bearer(text)), 404, "not_found")
    refused(client.post("/similar/1", headers=bearer(text)), 405, "method_not_allowed")
    refused(client.post("/health"), 405, "method_not_allowed")


def test_the_document_asks_for_a_key_where_the_service_does() -> None:
    _, row = key("recommend")
    client = service([])
    operation = client.get("/openapi.json").json()["paths"]["/recommend"]["post"]
    assert "security" not in operation
    client.app.state.service.keys.take([row])
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = needed_by_rules(method.upper(), path)
            assert scopes is not None
            assert operation.get("security") == ([{"key": []}] if scopes else None), path
            if scopes:
                assert operation["responses"].keys() >= {"200", "401", "403", "429", "503"}
                assert all(scope in operation["description"].rpartition("Needs the scope")[2] for scope in scopes)


def test_the_readme_says_what_each_scope_allows() -> None:
    text = (Path(__file__).parents[4] / "fast_api_service" / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", text.partition("each for one purpose:")[2], re.MULTILINE)
    allowed = {scope: re.findall(r"/[a-z_/.]+", paths) for scope, paths in rows}
    assert list(allowed) == list(api_key.SCOPES)
    for _, start, scopes in RULES:
        for scope in scopes if len(scopes) == 1 else ():
            assert any(path == start or path.startswith(f"{start}/") for path in allowed[scope]), (scope, start)
    for scope, paths in allowed.items():
        for path in paths:
            assert {scope} in [needed_by_rules(method, path) for method in ("GET", "POST", "PUT")], (scope, path)
