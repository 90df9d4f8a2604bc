"""One whole day: `make demo`'s runner from nothing to answers over HTTP, a crash, a second run, and the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg2
import pytest

ROOT = Path(__file__).resolve().parents[2]
DAGS = {path.stem for path in (ROOT / "dags").glob("*.py")} - {"__init__"}
PORTS = ("API_PORT", "AIRFLOW_PORT", "MLFLOW_PORT", "PG_PORT")
KINDS = {"default", "personal", "ranked", "i2i", "similar"}
# What a user of this checkout may have set must not reach the test, nor the test the user's database.
NOT_THEIRS = ("DATABASE_URL", "ARTIFACT_ROOT", "MLFLOW_TRACKING_URI", "SOURCE", "INPUT", "OPTIONS", "REPLACE")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]


def free_ports(n: int) -> list[int]:
    probes = [socket.socket() for _ in range(n)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Demo:
    """A demo with a state folder and ports of its own."""

    def __init__(self, state: Path, notices_port: int) -> None:
        self.state = state
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.environment = (
            os.environ
            | dict.fromkeys(NOT_THEIRS, "")
            | {name: str(port) for name, port in self.ports.items()}
            | {"RECSYS_LOCAL_DIR": str(state), "USERS": "600", "ITEMS": "200", "EVENTS": "15000"}
            | {"APPRISE_URL": f"json://127.0.0.1:{notices_port}", "TELEGRAM_BOT_TOKEN": "", "NO_COLOR": "1"}
        )

    def run(self, action: str) -> str:
        """What `make demo` (start) or `make stop` (stop) prints; fails the test with it when it fails."""
        call = [sys.executable, "-m", "airflow_service.demo", action]
        done = subprocess.run(call, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def recommend(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.url('API_PORT')}/recommend", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        url = f"postgresql://postgres@127.0.0.1:{self.ports['PG_PORT']}/recsys"
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def airflow(self, path: str, **parameters: Any) -> dict[str, Any]:
        password = json.loads((self.state / "secrets" / "airflow_passwords.json").read_text())["admin"]
        with httpx.Client(base_url=self.url("AIRFLOW_PORT"), timeout=30) as client:
            token = client.post("/auth/token", json={"username": "admin", "password": password})
            headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
            answer = client.get(f"/api/v2{path}", params=parameters, headers=headers)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found

    def leader(self, service: str) -> psutil.Process:
        return psutil.Process(json.loads((self.state / "run" / f"{service}.json").read_text())["pid"])

    def processes(self) -> list[int]:
        """Processes of this demo by two marks: its state folder in the environment, or in the command line."""
        found = []
        for process in psutil.process_iter():
            try:
                told = [*process.environ().values(), *process.cmdline()]
                alive = process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
            except psutil.Error:
                continue
            if alive and any(str(self.state) in text for text in told):
                found.append(process.pid)
        return found


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
    state = Path(tempfile.mkdtemp(prefix="recsys-day-"))
    state.chmod(0o755)  # the embedded Postgres does not run as root
    demo = Demo(state.resolve(), notices[0])
    try:
        yield demo
    finally:
        subprocess.run(
            [sys.executable, "-m", "airflow_service.demo", "stop"], cwd=ROOT, env=demo.environment, check=True
        )
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="module")
def said(demo: Demo) -> str:
    """What the first `make demo` printed."""
    return demo.run("start")


def test_all_dags_are_green(demo: Demo, said: str) -> None:
    runs = demo.airflow("/dags/~/dagRuns", limit=100)["dag_runs"]
    assert {run["dag_id"] for run in runs} == DAGS
    assert {run["state"] for run in runs} == {"success"}
    (dataset,) = {run["partition_key"] for run in runs} - {None}
    assert dataset.startswith("dataset/")
    for run in runs:
        path = f"/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances"
        states = {task["task_id"]: task["state"] for task in demo.airflow(path)["task_instances"]}
        assert states.pop("report_refusal", "skipped") in ("skipped", "success")
        assert set(states.values()) == {"success"}


def test_every_run_gave_notice(said: str, notices: tuple[int, list[str]]) -> None:
    # rank_and_publish's own notice may be on its way still: Airflow sends it after the run has ended.
    assert {f"{dag_id} succeeded" for dag_id in DAGS - {"rank_and_publish"}} <= set(notices[1])
    assert not [title for title in notices[1] if "FAILED" in title]


def test_lists_are_in_postgres(demo: Demo, said: str) -> None:
    ((manifest,),) = demo.rows("select manifest from publication_pointer join publications using (publication_id)")
    assert set(manifest) == KINDS
    for kind, version in manifest.items():
        ((n_rows, shortest, n_unavailable),) = demo.rows(
            f"""
            select count(*), min(cardinality(item_keys)),
                   count(*) filter (where item_keys && (select array_agg(item_key) from items where not available))
            from lists where list_version_id = {int(version)}
            """
        )
        assert n_rows > 0, kind
        assert shortest > 0, kind
        assert not n_unavailable, kind
    ((n_users,),) = demo.rows("select count(*) from users")
    ((n_ranked,),) = demo.rows(f"select count(*) from lists where list_version_id = {int(manifest['ranked'])}")
    assert n_ranked > 0.5 * n_users


def test_known_light_and_unknown_users_get_ten_available_items(demo: Demo, said: str) -> None:
    known, light = (
        demo.rows(f"select visitorid from raw.events group by 1 order by count(*) {order}, 1 limit 1")[0][0]
        for order in ("desc", "asc")
    )
    available = {str(item_id) for (item_id,) in demo.rows("select item_id from items where available")}
    for user_id in (int(known), int(light), 987_654_321):
        answer = demo.recommend({"user_id": user_id, "top_k": 10})
        items = [str(entry["item_id"]) for entry in answer["recommendations"]]
        assert len(set(items)) == len(items) == 10
        assert set(items) <= available
        assert answer["provenance"]["degraded"] == []
    assert demo.recommend({"user_id": int(known)})["provenance"]["tier"] == "ranked"


def test_printed_requests_work_as_printed(demo: Demo, said: str) -> None:
    lines = [line.strip() for line in said.splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 3
    for line in lines:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout), line
    for url in re.findall(r"http://127\.0\.0\.1:\d+(?:/docs)?(?=\s)", said):
        assert httpx.get(url, follow_redirects=True, timeout=30).is_success, url


def test_a_crash_and_a_second_run(demo: Demo, said: str) -> None:
    before = demo.rows("select publication_id from publication_pointer")
    for service in ("airflow-scheduler", "mlflow"):
        demo.leader(service).send_signal(signal.SIGKILL)
    api_server = demo.leader("airflow-api-server").pid
    demo.run("start")
    assert demo.leader("airflow-api-server").pid != api_server, "Airflow is one: it starts anew as a whole"
    assert demo.rows("select publication_id from publication_pointer") >= before
    assert len(demo.recommend({"user_id": 987_654_321})["recommendations"]) == 10


def test_stop_leaves_no_process(demo: Demo, said: str) -> None:
    assert demo.processes()
    told = demo.run("stop")
    for name in ("airflow-scheduler", "airflow-api-server", "airflow-dag-processor", "mlflow", "fast-api-service"):
        assert name in told
    assert "Postgres" in told
    assert demo.processes() == []
    for port in demo.ports.values():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    assert "Nothing was running" in demo.run("stop")
