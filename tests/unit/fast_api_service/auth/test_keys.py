"""Keys, scopes, limits and headers, without a database: the keys are put in by hand."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re

import pytest

from fast_api_service.app import create_app
from fast_api_service.auth.keys import Keyring, StoredKey
from fast_api_service.metrics import Metrics
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
    text, row = key("recommend")
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
    text, row = key("recommend")
    other, _ = key("recommend")
    revoked, revoked_row = key("admin", revoked=True)
    client = service([row, revoked_row])
    secret = text.split("_", 2)[2]
    swapped = f"rk_{other.split('_')[1]}_{secret}"
    for wrong in (text[:-1], text + "x", text.upper(), swapped, other, revoked, secret, "", "ключ".encode().hex()):
        refused(client.post("/recommend", json={}, headers=bearer(wrong)), 401, "unauthorized")
    refused(client.get("/metrics", headers={"authorization": f"Basic {text}"}), 401, "unauthorized")
    refused(client.get("/metrics", headers={b"x-api-key": b"rk_\xff_\x80"}), 401, "unauthorized")
    watching, watching_row = key("metrics")
    client.app.state.service.keys.take([row, revoked_row, watching_row])
    metrics = client.get("/metrics", headers=bearer(watching)).text
    assert 'recsys_auth_failures_total{reason="wrong"} 10.0' in metrics
    assert 'recsys_auth_failures_total{reason="missing"} 1.0' in metrics


def test_what_is_refused_counts_under_its_route() -> None:
    text, row = key("recommend", rate_per_s=0.5)
    watching, watching_row = key("metrics")
    client = service([row, watching_row], max_in_flight=1)
    for headers in ({}, bearer(text), bearer(text), bearer(watching)):
        client.post("/recommend", json={}, headers=headers)
    client.get("/users/1")
    client.get("/nowhere")
    client.app.state.service.keys._rows = None  # as before they were read
    client.post("/predict", json={})
    client.app.state.service.keys.take([row, watching_row])
    metrics = client.get("/metrics", headers=bearer(watching)).text
    for route, method, status in (
        *(("/recommend", "POST", status) for status in (401, 200, 429, 403)),
        *(("/users/{user_id}", "GET", 401), ("other", "GET", 401), ("/predict", "POST", 503)),
    ):
        assert f'recsys_requests_total{{method="{method}",route="{route}",status="{status}"}} 1.0' in metrics


def test_revoking_the_last_key_opens_nothing() -> None:
    _, row = key("admin", revoked=True)
    refused(service([row]).post("/recommend", json={}), 401, "unauthorized")


TRIES = {
    "recommend": ("POST", "/recommend"),
    "events": ("POST", "/online/data/add"),
    "catalogue": ("PUT", "/items/1"),
    "users": ("DELETE", "/users/1"),
    "metrics": ("GET", "/metrics"),
    "admin": ("PUT", "/config"),
}


@pytest.mark.parametrize("scopes", [*((scope,) for scope in api_key.SCOPES), ("recommend", "events")])
def test_a_key_may_do_what_its_scopes_are_for_and_no_more(scopes: tuple[str, ...]) -> None:
    text, row = key(*scopes)
    client = service([row])
    assert TRIES.keys() == set(api_key.SCOPES)
    for scope, (method, path) in TRIES.items():
        answer = client.call(method, path, headers=bearer(text))
        if scope in scopes or "admin" in scopes:
            assert answer.status_code not in {401, 403}
        else:
            assert f"scope {scope}" in refused(answer, 403, "forbidden")


def test_what_stores_users_and_items_alike_needs_both_scopes() -> None:
    for scopes, missing in ((("users",), "scope catalogue"), (("events",), "scopes catalogue and users")):
        text, row = key(*scopes)
        assert missing in refused(service([row]).post("/store_object", headers=bearer(text)), 403, "forbidden")
    text, row = key("users", "catalogue")
    assert service([row]).post("/store_object", headers=bearer(text)).status_code == 422


def test_a_key_ends_when_it_expires() -> None:
    text, row = key("recommend")
    now = dt.datetime.now(dt.UTC)
    for expires_at, code in ((now + dt.timedelta(hours=1), 200), (now, 401), (None, 200)):
        answer = service([row._replace(expires_at=expires_at)]).post("/recommend", json={}, headers=bearer(text))
        assert answer.status_code == code
        if code == 401:
            assert f"expired at {now.isoformat()}" in refused(answer, 401, "unauthorized")
    near = bearer(text[:-1] + ("A" if text[-1] != "A" else "B"))  # who only guesses is told nothing of it
    expired = service([row._replace(expires_at=now)]).post("/recommend", json={}, headers=near)
    assert "expired" not in refused(expired, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/recommend/", "/config/", "/dashboard/", "/health/"])
def test_no_answer_leads_to_where_the_host_header_says(path: str) -> None:
    text, row = key("admin")
    answer = service([row]).get(path, headers={"host": "evil.example"} | bearer(text))
    assert "location" not in answer.headers
    refused(answer, 404, "not_found")


def test_a_fast_key_is_slowed_down_and_no_other() -> None:
    now = 100.0
    ring = Keyring(ApiSettings(rate_per_s=10), Metrics(), clock=lambda: now)
    slow, slow_row = key("metrics", rate_per_s=0.25)
    usual, usual_row = key("metrics")
    ring.take([slow_row, usual_row])

    def code(text: str) -> int:
        headers = [(b"authorization", b"Bearer " + text.encode())]
        answer = ring.refusal({"method": "GET", "path": "/metrics", "headers": headers}, lambda _: None)
        if isinstance(answer, str):
            return 200
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == ("4" if text == slow else "1")
        return answer.status_code

    assert [code(slow) for _ in range(2)] == [200, 429]
    assert [code(usual) for _ in range(21)] == [200] * 20 + [429]  # two seconds' worth
    ring.take([slow_row, usual_row, key("metrics")[1]])  # another key changes nothing for them
    assert (code(slow), code(usual)) == (429, 429)
    now += 4.0
    assert [code(slow) for _ in range(2)] == [200, 429]
    assert [code(usual) for _ in range(21)] == [200] * 20 + [429]
    assert ring._metrics.shed.labels("rate_limit")._value.get() == 6


def test_pages_of_others_may_not_call_unless_named() -> None:
    text, row = key("recommend")
    preflight = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    closed = service([row]).call("OPTIONS", "/recommend", headers=preflight)
    assert "access-control-allow-origin" not in closed.headers
    client = service([row], cors_origins=["https://shop.example"])
    wanted = preflight | {"access-control-request-headers": "authorization"}
    answer = client.call("OPTIONS", "/recommend", headers=wanted)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://shop.example")
    for headers, code in ((bearer(text), 200), ({}, 401)):
        answer = client.post("/recommend", json={}, headers={"origin": "https://shop.example"} | headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (code, "https://shop.example")
        assert "access-control-allow-credentials" not in answer.headers
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
