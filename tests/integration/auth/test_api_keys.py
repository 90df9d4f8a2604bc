"""API keys end to end: made on the command line, stored in real Postgres, checked by the service over HTTP."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy as sa

from recsys import api_key
from recsys.errors import InputError, NotFoundError
from recsys.storage import api_keys, tables
from tests.integration import serving_shop as shop
from tests.integration import tiny_model

ANYWHERE = "0.0.0.0"  # noqa: S104 - the service must refuse to serve there without keys
OPEN, ANY_KEY = "open", "any"

# What each route must ask for, all of several scopes; a route that is not here yet goes here before the tests pass.
SCOPE_BY_ROUTE = {
    ("GET", "/health"): OPEN,
    ("GET", "/ready"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/static/swagger-ui.css"): OPEN,
    ("POST", "/recommend"): "recommend",
    ("POST", "/recommend/batch"): "recommend",
    ("GET", "/similar/{item_id}"): "recommend",
    ("POST", "/predict"): "recommend",
    ("POST", "/predict/product_positions"): "recommend",
    ("GET", "/metrics"): "metrics",
    ("GET", "/model/info"): "metrics",
    ("POST", "/model/export"): "admin",
    ("POST", "/online/data/add"): "events",
    ("GET", "/online/events/{user_id}"): "users",
    ("POST", "/online/training/start"): "admin",
    ("POST", "/online/training/stop"): "admin",
    ("GET", "/online/training/status"): "metrics",
    ("GET", "/online/training/logs"): "metrics",
    ("PATCH", "/online/training/restart-policy"): "admin",
    ("GET", "/online/updates/list"): "metrics",
    ("GET", "/online/streaming/status"): "metrics",
    ("GET", "/online/streaming/config"): "metrics",
    ("POST", "/online/streaming/consume"): "admin",
    ("GET", "/items"): "catalogue",
    ("PUT", "/items"): "catalogue",
    ("DELETE", "/items"): "catalogue",
    ("GET", "/items/{item_id}"): "catalogue",
    ("PUT", "/items/{item_id}"): "catalogue",
    ("DELETE", "/items/{item_id}"): "catalogue",
    ("GET", "/users"): "users",
    ("PUT", "/users"): "users",
    ("DELETE", "/users"): "users",
    ("GET", "/categories"): "catalogue",
    ("PUT", "/categories"): "catalogue",
    ("DELETE", "/categories"): "catalogue",
    ("GET", "/users/{user_id}"): "users",
    ("PUT", "/users/{user_id}"): "users",
    ("DELETE", "/users/{user_id}"): "users",
    ("GET", "/categories/{category_id}"): "catalogue",
    ("PUT", "/categories/{category_id}"): "catalogue",
    ("DELETE", "/categories/{category_id}"): "catalogue",
    ("POST", "/store_object"): "catalogue users",
    ("POST", "/store_objects"): "catalogue users",
    ("GET", "/config"): "metrics",
    ("GET", "/config/history"): "metrics",
    ("PUT", "/config"): "admin",
    ("POST", "/config/revert/{config_id}"): "admin",
    ("GET", "/dashboard"): OPEN,
    ("GET", "/dashboard/static/dashboard.js"): OPEN,
    ("GET", "/dashboard/data"): "metrics",
    ("GET", "/nowhere"): ANY_KEY,
}
# One key for each scope, and one that has all but admin.
SCOPES_BY_KEY = {scope: {scope} for scope in api_key.SCOPES} | {
    "admin": set(api_key.SCOPES),
    "many": set(api_key.SCOPES) - {"admin"},
}


class Guarded(NamedTuple):
    """A service that other machines could reach, a key for each scope, and all that it logs."""

    client: httpx.Client
    text_by_scope: dict[str, str]
    log_file: Path
    database_url: str
    password: str  # of Postgres

    def call(self, method: str, path: str, key: str | None = None, **request: Any) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return self.client.request(method, path, headers=headers, **request)


@pytest.fixture(scope="module")
def guarded(database_url: str, database: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    shop.stock(database)
    artifacts = tmp_path_factory.mktemp("artifacts")
    tiny_model.write(artifacts, "v1")
    shop.publish(database, "v1", shop.FIRST, {"deepfm": "deepfm/v1"})
    texts = {
        name: api_keys.create(database, f"tests, {name}", ["admin"] if name == "admin" else sorted(scopes))[0]
        for name, scopes in SCOPES_BY_KEY.items()
    }
    log_file = tmp_path_factory.mktemp("service") / "log.jsonl"
    password = sa.make_url(database_url).password
    assert password, "the server of the tests asks for one"
    # the level at which libraries tell most
    loud = {"API_HOST": ANYWHERE, "RECSYS_LOG_LEVEL": "DEBUG", "RECSYS_LOG_FORMAT": "json"}
    loud["ARTIFACT_ROOT"] = str(artifacts)
    with shop.running_service(database_url, log_file=log_file, **loud) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: "deepfm_serving/v1 is in service" in log_file.read_text(), 10)
        yield Guarded(client, texts, log_file, database_url, password)


def example(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    """A path, and a body where there is one, that the document gives for a route; ids of nothing where it is silent."""
    operation = document["paths"].get(path, {}).get(method.lower(), {})
    ids = {p["name"]: p["example"] for p in operation.get("parameters", []) if p["in"] == "path" and "example" in p}
    bodies = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
    filled = re.sub(r"\{(\w+)\}", lambda name: str(ids.get(name[1], 404404)), path)
    return {"path": filled, "json": next((body["value"] for body in bodies.values()), None)}


def test_every_route_answers_every_kind_of_key_as_it_should(guarded: Guarded) -> None:
    document = guarded.call("GET", "/openapi.json").json()
    built = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert built - SCOPE_BY_ROUTE.keys() == set(), "say in SCOPE_BY_ROUTE which scope these need"
    # right but for its last character; and of nobody
    near = guarded.text_by_scope["admin"][:-1] + ("A" if guarded.text_by_scope["admin"][-1] != "A" else "B")
    for (method, path), needed in SCOPE_BY_ROUTE.items():
        request = example(document, method, path)
        for key in (None, near, api_key.make()[0]):
            answer = guarded.call(method, key=key, **request)
            if needed == OPEN:
                assert answer.status_code == 200, (method, path)
                continue
            assert (answer.status_code, answer.json()["status"]) == (401, "unauthorized"), (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-request-id"]
        needs = set() if needed in (OPEN, ANY_KEY) else set(needed.split())
        for scope, key in guarded.text_by_scope.items():
            answer = guarded.call(method, key=key, **request)
            if missing := needs - SCOPES_BY_KEY[scope]:
                assert (answer.status_code, answer.json()["status"]) == (403, "forbidden"), (method, path, scope)
                assert all(one in answer.json()["error"].partition(";")[0] for one in missing)
            elif (method, path) not in built and needed != OPEN:
                assert answer.status_code in {404, 405}, (method, path, scope)
            else:
                assert answer.status_code not in {401, 403, 429, 500}, (method, path, scope, answer.text)


def test_a_key_gets_what_it_is_for(guarded: Guarded) -> None:
    body = guarded.call("POST", "/recommend", guarded.text_by_scope["recommend"], json={"user_id": 501}).json()
    assert body["recommendations"][0]["item_id"] == 1001
    assert guarded.call("GET", "/metrics", guarded.text_by_scope["admin"]).status_code == 200


def test_no_secret_and_nobody_is_in_the_log(guarded: Guarded) -> None:
    user_id = 7_654_321
    wrong = api_key.make()[0]
    for key in (*guarded.text_by_scope.values(), wrong):
        for body in ({"user_id": user_id}, {"user_id": user_id, "top_k": 0}, {"user_id": [user_id]}):
            guarded.call("POST", "/recommend", key, json=body)
            guarded.client.post("/recommend", json=body, headers={"x-api-key": key})
        guarded.call("POST", "/online/data/add", key, json={"user_id": user_id, "item_id": 1001})
        guarded.call("GET", f"/online/events/{user_id}", key)
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        guarded.client.get("/recommend", headers=upgrade | {"x-api-key": key, "sec-websocket-key": "a" * 22 + "=="})
    text = guarded.log_file.read_text()
    entries = [json.loads(line) for line in text.splitlines()]  # each line is one entry
    assert any("API keys are valid" in entry["message"] for entry in entries)
    secrets = [key.split("_", 2)[2] for key in (*guarded.text_by_scope.values(), wrong)]
    for unwanted in (*secrets, str(user_id), guarded.password):
        assert unwanted not in text


def test_new_and_revoked_keys_and_their_limits_are_known_within_seconds(guarded: Guarded, database: sa.Engine) -> None:
    text, key = api_keys.create(database, "slow", ["recommend"], rate_per_s=0.01)  # so one at once
    shop.wait_until(lambda: guarded.call("GET", "/nowhere", text).status_code == 404, 5)
    answer = guarded.call("POST", "/recommend", text, json={})
    assert (answer.status_code, answer.json()["status"]) == (429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 100
    assert guarded.call("POST", "/recommend", guarded.text_by_scope["recommend"], json={}).status_code == 200
    metrics = guarded.call("GET", "/metrics", guarded.text_by_scope["metrics"]).text
    assert re.search(r'recsys_shed_total\{reason="rate_limit"\} [1-9]', metrics)
    assert re.search(r'recsys_auth_failures_total\{reason="wrong"\} [1-9]', metrics)
    api_keys.revoke(database, key.key_id)
    shop.wait_until(lambda: guarded.call("POST", "/recommend", text, json={}).status_code == 401, 5)


def test_without_keys_other_machines_are_refused_until_there_is_one(
    clean_database_url: str, clean_database: sa.Engine, tmp_path: Path
) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    log_file = tmp_path / "log"
    with shop.running_service(clean_database_url, log_file=log_file, API_HOST=ANYWHERE) as client:
        shop.wait_until(lambda: "recsys keys create" in client.get("/ready").json()["error"], 10)
        for method, path in SCOPE_BY_ROUTE:
            if path != "/health":
                answer = client.request(method, path.format(item_id=1001, user_id=501, category_id=902, config_id=0))
                assert (answer.status_code, answer.json()["status"]) == (503, "not_ready"), path
        assert "recsys keys create" in log_file.read_text()
        text = recsys(clean_database_url, "create", "--name", "shop", "--scope", "recommend").stdout.strip()
        shop.wait_until(lambda: shop.is_ready(client), 5)
        assert client.post("/recommend", json={}).status_code == 401
        answer = client.post("/recommend", json={"user_id": 501}, headers={"x-api-key": text})
        assert answer.json()["provenance"]["tier"] == "ranked"


def recsys(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "recsys.cli", "keys", *arguments]
    environment = os.environ | {"DATABASE_URL": url}
    return subprocess.run(call, env=environment, capture_output=True, text=True, check=False)


def test_the_command_line_shows_a_key_once(clean_database_url: str, clean_database: sa.Engine) -> None:
    made = recsys(
        clean_database_url, "create", "--name", "shop", "--scope", "events", "--scope", "recommend", "--rate", "5"
    )
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    presented = api_key.read(text)
    assert presented is not None
    assert "will not be shown again" in made.stderr
    assert text not in made.stderr
    shown = recsys(clean_database_url, "list").stdout
    assert text.split("_", 2)[2] not in shown
    (entry,) = json.loads(shown)
    assert (entry["key_id"], entry["name"], entry["scopes"]) == (presented.key_id, "shop", ["recommend", "events"])
    assert (entry["rate_per_s"], entry["revoked_at"]) == (5, None)
    with clean_database.connect() as connection:
        stored = str(connection.execute(sa.select(tables.api_keys)).all())
    assert text.split("_", 2)[2] not in stored
    ended = recsys(clean_database_url, "revoke", presented.key_id)
    assert json.loads(ended.stdout)["revoked_at"]
    assert api_keys.every(clean_database)[0].revoked_at is not None
    unknown = recsys(clean_database_url, "revoke", "nobody")
    assert unknown.returncode == 1
    assert unknown.stderr.splitlines()[-1] == "error: there is no key of this id; `recsys keys list` shows the ids"
    bad = recsys(clean_database_url, "create", "--name", "shop", "--scope", "god")
    assert bad.returncode == 2
    assert "scopes are recommend, events, catalogue, users, metrics, admin" in bad.stderr


@pytest.mark.parametrize(
    ("name", "scopes", "rate_per_s", "problem"),
    [
        ("", ["recommend"], None, "name"),
        ("x" * 101, ["recommend"], None, "name"),
        ("a\nb", ["recommend"], None, "name"),
        ("shop", [], None, "needs a scope"),
        ("shop", ["recommend", "Admin"], None, "'Admin'"),
        ("shop", ["recommend"], 0.0, "rate"),
        ("shop", ["recommend"], float("nan"), "rate"),
        ("shop", ["recommend"], float("inf"), "rate"),
    ],
)
def test_what_no_key_can_have_is_refused(
    database: sa.Engine, name: str, scopes: list[str], rate_per_s: float | None, problem: str
) -> None:
    before = len(api_keys.every(database))
    with pytest.raises(InputError, match=problem):
        api_keys.create(database, name, scopes, rate_per_s)
    assert len(api_keys.every(database)) == before


def test_a_key_expires_and_the_list_says_when(
    clean_database_url: str, clean_database: sa.Engine, guarded: Guarded, database: sa.Engine
) -> None:
    for given, days in (("90d", 90), ("12h", 0.5), ("2999-01-01T00:00:00+02:00", None)):
        made = recsys(clean_database_url, "create", "--name", given, "--scope", "metrics", "--expires", given)
        assert made.returncode == 0, made.stderr
        key = api_keys.every(clean_database)[-1]
        assert key.expires_at is not None
        assert f"until {key.expires_at.astimezone(dt.UTC).isoformat()[:10]}" in made.stderr
        if days is not None:
            assert abs(key.expires_at - key.created_at - dt.timedelta(days=days)) < dt.timedelta(minutes=5)
    shown = json.loads(recsys(clean_database_url, "list").stdout)
    assert dt.datetime.fromisoformat(shown[-1]["expires_at"]) == dt.datetime(2998, 12, 31, 22, tzinfo=dt.UTC)
    for given, problem in (("2020-01-01", "of no use"), ("soon", "no instant"), ("0d", "of no use")):
        refused = recsys(clean_database_url, "create", "--name", "x", "--scope", "metrics", "--expires", given)
        assert (refused.returncode, problem in refused.stderr) == (2, True), refused.stderr
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=4)
    text, key = api_keys.create(database, "short", ["metrics"], None, soon)
    shop.wait_until(lambda: guarded.call("GET", "/metrics", text).status_code == 200, 3.5)
    shop.wait_until(lambda: guarded.call("GET", "/metrics", text).status_code == 401, 10)
    assert f"{key.key_id} expired" in guarded.call("GET", "/metrics", text).json()["error"]


def test_who_changed_the_configuration_is_a_key_that_was_checked(
    guarded: Guarded, clean_database_url: str, clean_database: sa.Engine
) -> None:
    text = guarded.text_by_scope["admin"]
    put = guarded.call("PUT", "/config", text, json={"config": {}, "comment": "by a key"})
    assert put.json()["author"] == text.split("_")[1]
    shop.stock(clean_database)
    with shop.running_service(clean_database_url) as client:  # no key is needed, so nobody is known
        answer = client.put("/config", json={"config": {}, "comment": "x"}, headers={"x-api-key": text})
        assert (answer.status_code, answer.json()["author"]) == (200, "")


def test_revoking_again_keeps_the_first_instant(database: sa.Engine) -> None:
    _, key = api_keys.create(database, "shop", ["recommend"])
    first = api_keys.revoke(database, key.key_id)
    assert first.revoked_at is not None
    assert api_keys.revoke(database, key.key_id) == first
    with pytest.raises(NotFoundError):
        api_keys.revoke(database, "nobody")


@pytest.mark.slow
@pytest.mark.parametrize("scope", [None, "many", "admin"])
def test_the_contract_holds_under_fuzz_with_and_without_a_key(guarded: Guarded, scope: str | None) -> None:
    config = str(Path(__file__).parents[1] / "schemathesis.toml")
    document = str(guarded.client.base_url.join("/openapi.json"))
    call = [sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run", document]
    limits = ["--checks", "all", "--max-examples", "25", "--generation-deterministic", "--no-color", "--workers", "1"]
    header = [] if scope is None else ["--header", f"Authorization: Bearer {guarded.text_by_scope[scope]}"]
    done = subprocess.run([*call, *limits, *header], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
