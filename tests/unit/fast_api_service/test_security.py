"""Keys, scopes, limits and headers, without a database: the keys are put in by hand."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route

from fast_api_service.app import create_app
from fast_api_service.metrics import Metrics
from fast_api_service.security import ANY_KEY, OPEN, RULES, Keyring, StoredKey, needed_scope
from fast_api_service.settings import ApiSettings
from recsys import api_key
from tests.unit.fast_api_service.test_service_app import Client, refused, snapshot

ANYWHERE = "0.0.0.0"  # noqa: S104 - the service must refuse to serve there without keys


def key(*scopes: str, rate_per_s: float | None = None, revoked: bool = False) -> tuple[str, StoredKey]:
    text, stored = api_key.make()
    return text, StoredKey(stored.key_id, stored.digest, scopes, rate_per_s, revoked)


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def service(rows: list[StoredKey] | None, **settings: object) -> Client:
    app = create_app("postgresql://nobody@127.0.0.1:1/nothing", ApiSettings.model_validate(settings))
    app.state.service.snapshot = snapshot("integer")
    if rows is not None:
        app.state.service.keys.take(rows)
    return Client(app)


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and path of all that the application answers to, documented or not."""
    for route in app.routes:
        if isinstance(route, Mount):
            yield "GET", route.path
        elif isinstance(route, Route):
            for method in route.methods or ():
                yield method, route.path_format
        else:
            raise TypeError(f"what does {route} answer to?")


def test_every_route_has_a_rule() -> None:
    client = service([])
    found = set(routes(client.app))
    documented = client.get("/openapi.json").json()["paths"]
    assert found >= {(method.upper(), path) for path, operations in documented.items() for method in operations}
    assert len(found) >= 10
    missing = sorted(f"{method} {path}" for method, path in found if needed_scope(method, path) == ANY_KEY)
    assert missing == [], "say in security.RULES which scope these need"


def test_every_rule_can_be_reached() -> None:
    for method, path, scope in RULES:
        assert needed_scope("DELETE" if method == "*" else method, path) == scope


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("HEAD", "/docs", OPEN),
        ("POST", "/health", OPEN),
        ("GET", "/healthy", ANY_KEY),
        ("POST", "/recommend/batch", "read"),
        ("POST", "/predict/product_positions", "read"),
        ("GET", "/similar/a/b", "read"),
        ("POST", "/online/data/add", "write"),
        ("POST", "/online/data/addition", "admin"),
        ("GET", "/online/events/501", "read"),
        ("POST", "/online/training/start", "admin"),
        ("GET", "/online/training/status", "read"),
        ("PATCH", "/online/training/restart-policy", "admin"),
        ("GET", "/items/1", "read"),
        ("DELETE", "/users/1", "write"),
        ("POST", "/store_objects", "write"),
        ("GET", "/config/history", "read"),
        ("PUT", "/config", "admin"),
        ("POST", "/model/export", "admin"),
        ("POST", "/model/info", ANY_KEY),
        ("GET", "//recommend", ANY_KEY),
        ("GET", "", ANY_KEY),
    ],
)
def test_a_request_needs_the_scope_of_its_route(method: str, path: str, scope: str) -> None:
    assert needed_scope(method, path) == scope


def test_without_keys_this_machine_may_do_everything(caplog: pytest.LogCaptureFixture) -> None:
    client = service([])
    assert client.post("/recommend", json={}).status_code == 200
    assert client.get("/metrics").status_code == 200
    assert "recsys keys create" in caplog.text


@pytest.mark.parametrize("path", ["/ready", "/docs", "/openapi.json", "/metrics", "/model/info", "/nowhere"])
def test_without_keys_nothing_is_served_to_other_machines(path: str, caplog: pytest.LogCaptureFixture) -> None:
    client = service([], host=ANYWHERE)
    assert "recsys keys create" in refused(client.get(path), 503, "not_ready")
    assert "recsys keys create" in caplog.text
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", ANYWHERE])
def test_nothing_is_served_before_the_keys_are_read(host: str) -> None:
    client = service(None, host=host)
    assert "not read" in refused(client.post("/recommend", json={}), 503, "not_ready")
    assert client.get("/ready").headers["retry-after"]
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", ANYWHERE])
def test_with_keys_a_key_is_needed_everywhere(host: str) -> None:
    text, row = key("read")
    client = service([row], host=host)
    answer = client.post("/recommend", json={})
    assert "Authorization: Bearer" in refused(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    for headers in (bearer(text), {"authorization": f"bearer {text}"}, {"x-api-key": text}):
        assert client.post("/recommend", json={}, headers=headers).status_code == 200
    for path in ("/health", "/ready", "/docs", "/openapi.json", "/static/swagger-ui.css"):
        assert client.get(path).status_code == 200
    refused(client.get("/nowhere"), 401, "unauthorized")
    refused(client.get("/nowhere", headers=bearer(text)), 404, "not_found")


def test_a_key_is_wrong_when_any_part_of_it_is() -> None:
    text, row = key("read")
    other, _ = key("read")
    revoked, revoked_row = key("admin", revoked=True)
    client = service([row, revoked_row])
    secret = text.split("_", 2)[2]
    swapped = f"rk_{other.split('_')[1]}_{secret}"
    for wrong in (text[:-1], text + "x", text.upper(), swapped, other, revoked, secret, "", "ключ".encode().hex()):
        refused(client.post("/recommend", json={}, headers=bearer(wrong)), 401, "unauthorized")
    refused(client.get("/metrics", headers={"authorization": f"Basic {text}"}), 401, "unauthorized")
    refused(client.get("/metrics", headers={b"x-api-key": b"rk_\xff_\x80"}), 401, "unauthorized")
    metrics = client.get("/metrics", headers=bearer(text)).text
    assert 'recsys_auth_failures_total{reason="wrong"} 10.0' in metrics
    assert 'recsys_auth_failures_total{reason="missing"} 1.0' in metrics


def test_revoking_the_last_key_opens_nothing() -> None:
    _, row = key("admin", revoked=True)
    refused(service([row]).post("/recommend", json={}), 401, "unauthorized")


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["read"], {"read"}),
        (["write"], {"write"}),
        (["read", "write"], {"read", "write"}),
        (["admin"], {"read", "write", "admin"}),
    ],
)
def test_admin_may_all_and_write_does_not_read(scopes: list[str], allowed: set[str]) -> None:
    text, row = key(*scopes)
    client = service([row])
    tries = {"read": ("GET", "/metrics"), "write": ("PUT", "/items/1"), "admin": ("PUT", "/config")}
    for scope, (method, path) in tries.items():
        answer = client.call(method, path, headers=bearer(text))
        if scope in allowed:
            assert answer.status_code not in {401, 403}
        else:
            assert f"scope {scope}" in refused(answer, 403, "forbidden")


def test_a_fast_key_is_slowed_down_and_no_other() -> None:
    now = 100.0
    ring = Keyring(ApiSettings(rate_per_s=10), Metrics(), clock=lambda: now)
    slow, slow_row = key("read", rate_per_s=0.25)
    usual, usual_row = key("read")
    ring.take([slow_row, usual_row])

    def code(text: str) -> int:
        answer = ring.refusal("GET", "/metrics", [(b"authorization", b"Bearer " + text.encode())])
        if answer is None:
            return 200
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == ("4" if text == slow else "1")
        return answer.status_code

    assert [code(slow) for _ in range(2)] == [200, 429]
    assert [code(usual) for _ in range(21)] == [200] * 20 + [429]  # two seconds' worth
    ring.take([slow_row, usual_row, key("read")[1]])  # another key changes nothing for them
    assert (code(slow), code(usual)) == (429, 429)
    now += 4.0
    assert [code(slow) for _ in range(2)] == [200, 429]
    assert [code(usual) for _ in range(21)] == [200] * 20 + [429]
    assert ring._metrics.shed.labels("rate_limit")._value.get() == 6


def test_pages_of_others_may_not_call_unless_named() -> None:
    text, row = key("read")
    preflight = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    closed = service([row]).call("OPTIONS", "/recommend", headers=preflight)
    assert "access-control-allow-origin" not in closed.headers
    client = service([row], cors_origins=["https://shop.example"])
    wanted = preflight | {"access-control-request-headers": "authorization"}
    answer = client.call("OPTIONS", "/recommend", headers=wanted)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://shop.example")
    for headers, code in ((bearer(text), 200), ({}, 401)):
        said = client.post("/recommend", json={}, headers={"origin": "https://shop.example"} | headers)
        assert (said.status_code, said.headers["access-control-allow-origin"]) == (code, "https://shop.example")
        assert "access-control-allow-credentials" not in said.headers
    other = client.post("/recommend", json={}, headers={"origin": "https://evil.example"} | bearer(text))
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("origin", ["*", "shop.example", "https://shop.example/", "https://*.example", "null"])
def test_an_origin_that_cannot_be_one_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="no origin"):
        ApiSettings(cors_origins=[origin])


def test_the_page_runs_its_own_scripts_alone() -> None:
    page = service([]).get("/docs")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    inline = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert len(inline) == 1
    digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert not re.search(r"\son[a-z]+=|javascript:", page.text)  # which the policy would forbid
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-frame-options"] == "DENY"


def test_no_answer_is_taken_for_another_type() -> None:
    client = service([])
    for path in ("/health", "/docs", "/static/swagger-ui.css", "/nowhere"):
        assert client.get(path).headers.get_list("x-content-type-options") == ["nosniff"]


def test_the_document_asks_for_a_key_where_the_service_does() -> None:
    _, row = key("read")
    client = service([])
    operation = client.get("/openapi.json").json()["paths"]["/recommend"]["post"]
    assert "security" not in operation
    client.app.state.service.keys.take([row])
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = needed_scope(method.upper(), path)
            assert operation.get("security") == (None if scope == OPEN else [{"key": []}]), path
            if scope != OPEN:
                assert operation["responses"].keys() >= {"200", "401", "403", "429", "503"}
                assert f"`{scope}`" in operation["description"]
