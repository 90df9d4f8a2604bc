"""One whole day: `make demo`'s runner from nothing to answers over HTTP, a crash, a second run, and the end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.demo_world import KINDS, Demo, running_demo
from tests.integration.posting import kill_postgres
from tests.integration.serving_shop import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def notices() -> Iterator[tuple[int, list[str]]]:
    """A server for notices: its port, and the titles that have arrived."""
    titles: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            titles.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["title"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1], titles
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def demo(notices: tuple[int, list[str]]) -> Iterator[Demo]:
    size = {"USERS": "600", "ITEMS": "200", "EVENTS": "15000"}
    with running_demo(APPRISE_URL=f"json://127.0.0.1:{notices[0]}", **size) as demo:
        yield demo


@pytest.fixture(scope="module")
def output(demo: Demo) -> str:
    """What the first `make demo` printed."""
    return demo.run("start")


def test_all_steps_are_green(demo: Demo, output: str) -> None:
    demo.check_run()


def test_every_run_gave_notice(output: str, notices: tuple[int, list[str]]) -> None:
    wait_until(lambda: "nightly succeeded" in notices[1], 60)  # Airflow sends it after the run has ended
    assert not [title for title in notices[1] if "FAILED" in title]


def test_lists_are_in_postgres(demo: Demo, output: str) -> None:
    demo.check_lists()
    assert all(demo.n_lists(kind) for kind in KINDS)
    ((n_users,),) = demo.rows("select count(*) from users")
    assert demo.n_lists("ranked") > 0.5 * n_users


def test_known_light_and_unknown_users_get_ten_available_items(demo: Demo, output: str) -> None:
    assert demo.check_answers()["known"]["provenance"]["tier"] == "ranked"


def test_nobody_is_shown_again_what_they_bought(demo: Demo, output: str) -> None:
    demo.check_bought()


def test_printed_requests_work_as_printed(demo: Demo, output: str) -> None:
    lines = [line.strip() for line in output.splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 3
    for line in lines:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout), line
    for url in re.findall(r"http://127\.0\.0\.1:\d+(?:/docs)?(?=\s)", output):
        assert httpx.get(url, follow_redirects=True, timeout=30).is_success, url


def test_the_model_learns_from_what_is_posted(demo: Demo, output: str) -> None:
    """Purchases of one item raise it for somebody who did not buy it, within seconds; a killed updater comes back."""
    item = demo.recommend({"top_k": 10})["recommendations"][-1]["item_id"]
    users = [user for (user,) in demo.rows("select distinct visitorid from raw.events order by 1 limit 53")]
    with httpx.Client(base_url=demo.url("API_PORT"), timeout=30) as client:

        def predicted() -> float:
            body = client.post("/predict", json={"user_id": users[0], "item_id": item}).json()
            return float(body["predictions"][0]["probability"])

        def learned() -> bool:
            now = client.get("/online/training/status").json()
            online = client.get("/model/info").json()["scorer"]["online"]
            return now["state"] == "running" and now["lag"] == 0 and online["update"] == now["last_update"] > 0

        def buy(buyers: list[Any]) -> None:
            samples = [{"user_id": user, "item_id": item, "event_type": "transaction"} for user in buyers]
            client.post("/online/data/add", json={"samples": samples}).raise_for_status()

        wait_until(learned, 180)
        before = predicted()
        for start in range(1, 51, 10):
            buy(users[start : start + 10])
            time.sleep(0.5)
        wait_until(lambda: learned() and predicted() > before, 30)
        holder = client.get("/online/training/status").json()["holder"]
        psutil.Process(int(holder.rpartition(":")[2])).kill()
        buy(users[51:])  # others: the same again would be a retry
        wait_until(lambda: learned() and client.get("/online/training/status").json()["restarts"] == 1, 120)
        assert client.get("/online/updates/list").json()["updates"][0]["fence"] == 2


def test_what_a_restart_of_postgres_has_ended_comes_back(demo: Demo, output: str) -> None:
    """Airflow's scheduler may or may not outlive it; killed, it surely does not."""
    services = ("airflow-scheduler", "airflow-dag-processor", "mlflow")
    children = {name: demo.leader(name).children()[0] for name in services}
    for child in children.values():
        child.kill()
    kill_postgres(demo.state / "postgres")

    def are_replaced() -> bool:
        """Airflow calls one healthy for half a minute after its last heartbeat, so health alone says nothing."""
        now = {name: demo.leader(name).children() for name in services}
        return all(now[name] and now[name][0] != child for name, child in children.items())

    def is_well() -> bool:
        with suppress(httpx.HTTPError):
            health = httpx.get(f"{demo.url('AIRFLOW_PORT')}/api/v2/monitor/health", timeout=5).json()
            parts = [health[name]["status"] for name in ("metadatabase", "scheduler", "dag_processor")]
            return parts == ["healthy"] * 3 and httpx.get(f"{demo.url('MLFLOW_PORT')}/health", timeout=5).is_success
        return False

    wait_until(are_replaced, 120)
    wait_until(is_well, 240)
    demo.recommend({"top_k": 10})


def test_a_crash_and_a_second_run(demo: Demo, output: str) -> None:
    before = demo.rows("select publication_id from publication_pointer")
    for service in ("airflow-scheduler", "mlflow"):
        demo.leader(service).send_signal(signal.SIGKILL)
    api_server = demo.leader("airflow-api-server").pid
    demo.run("start")
    assert demo.leader("airflow-api-server").pid != api_server, "Airflow is one: it starts anew as a whole"
    assert demo.rows("select publication_id from publication_pointer") >= before
    assert len(demo.recommend({"user_id": 987_654_321})["recommendations"]) == 10


def test_with_api_keys_the_demo_says_so(demo: Demo, output: str) -> None:
    call = [sys.executable, "-m", "recsys.cli", "keys", "create", "--name", "a shop", "--scope", "recommend"]
    environment = demo.environment | {"DATABASE_URL": demo.database_url}
    key = subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    output = demo.run("start")
    assert "Authorization: Bearer" in output
    assert key not in output
    address = f"{demo.url('API_PORT')}/recommend"
    assert httpx.post(address, json={}, timeout=30).status_code == 401
    answer = httpx.post(address, json={}, headers={"Authorization": f"Bearer {key}"}, timeout=30)
    assert len(answer.json()["recommendations"]) == 10


def test_stop_leaves_no_process(demo: Demo, output: str) -> None:
    assert demo.processes()
    output = demo.run("stop")
    for name in (
        "airflow-scheduler",
        "airflow-api-server",
        "airflow-dag-processor",
        "mlflow",
        "fast-api-service",
        "updater",
    ):
        assert name in output
    assert "Postgres" in output
    assert demo.processes() == []
    for port in demo.ports.values():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    assert "Nothing was running" in demo.run("stop")
