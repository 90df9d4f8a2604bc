"""A demo with a state folder and ports of its own, and what the tests ask of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg2

ROOT = Path(__file__).resolve().parents[2]
DAG = "nightly"
PORTS = ("API_PORT", "AIRFLOW_PORT", "MLFLOW_PORT", "PG_PORT")
KINDS = {"default", "personal", "ranked", "i2i", "similar", "history"}
# What a user of this checkout may have set must not reach the test, nor the test the user's database.
NOT_THEIRS = ("DATABASE_URL", "ARTIFACT_ROOT", "MLFLOW_TRACKING_URI", "SOURCE", "INPUT", "OPTIONS", "REPLACE")


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

    def __init__(self, state: Path, **variables: str) -> None:
        self.state = state
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.environment = (
            os.environ
            | dict.fromkeys(NOT_THEIRS, "")
            | {name: str(port) for name, port in self.ports.items()}
            | {"RECSYS_LOCAL_DIR": str(state), "APPRISE_URL": "", "TELEGRAM_BOT_TOKEN": "", "NO_COLOR": "1"}
            | variables
        )

    def run(self, action: str, **variables: str) -> str:
        """What `make demo` (start) or `make stop` (stop) prints; fails the test with it when it fails."""
        call = [sys.executable, "-m", "airflow_service.demo", action]
        environment = self.environment | variables
        done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def database_url(self) -> str:
        password = (self.state / "secrets" / "postgres").read_text()
        return f"postgresql://postgres:{password}@127.0.0.1:{self.ports['PG_PORT']}/recsys"

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def recommend(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.url('API_PORT')}/recommend", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.database_url)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def check_lists(self) -> None:
        """Every kind of list that readers see is there, without an empty list or, but in histories, an unavailable
        item."""
        ((manifest,),) = self.rows("select manifest from publication_pointer join publications using (publication_id)")
        for kind, version in manifest.items():
            ((n_rows, shortest, n_unavailable),) = self.rows(
                f"""
                select count(*), min(cardinality(item_keys)),
                       count(*) filter (where item_keys && (select array_agg(item_key) from items where not available))
                from lists where list_version_id = {int(version)}
                """
            )
            assert n_rows > 0, kind
            assert shortest > 0, kind
            assert kind == "history" or not n_unavailable, kind

    def n_lists(self, kind: str) -> int:
        """How many owners have a list of this kind in the publication that readers see."""
        ((n,),) = self.rows(
            "select count(*) from publication_pointer join publications b using (publication_id)"
            f" join lists l on l.list_version_id = (b.manifest ->> '{kind}')::bigint"
        )
        return int(n)

    def check_answers(self) -> dict[str, dict[str, Any]]:
        """The busiest, the lightest and an unknown user each get ten distinct available items: their answers."""
        known, light = (
            self.rows(f"select visitorid from raw.events group by 1 order by count(*) {order}, 1 limit 1")[0][0]
            for order in ("desc", "asc")
        )
        available = {str(item_id) for (item_id,) in self.rows("select item_id from items where available")}
        answers = {}
        for who, user_id in (("known", known), ("light", light), ("unknown", 987_654_321)):
            answers[who] = answer = self.recommend({"user_id": user_id, "top_k": 10})
            items = [str(entry["item_id"]) for entry in answer["recommendations"]]
            assert len(set(items)) == len(items) == 10, who
            assert set(items) <= available, who
            assert answer["provenance"]["degraded"] == [], who
        return answers

    def check_bought(self) -> None:
        """Those who bought most are not shown it again, however much they ask for."""
        bought = self.rows(
            """
            select visitorid, array_agg(distinct itemid) from raw.events, raw.imports
            where status = 'complete' and event = any(bought_event_types) group by 1 order by count(*) desc, 1 limit 20
            """
        )
        assert bought
        for user_id, items in bought:
            shown = self.recommend({"user_id": user_id, "top_k": 1000})["recommendations"]
            assert shown, user_id
            assert not {str(entry["item_id"]) for entry in shown} & set(items), user_id

    def airflow(self, path: str, **parameters: Any) -> dict[str, Any]:
        password = json.loads((self.state / "secrets" / "airflow_passwords.json").read_text())["admin"]
        with httpx.Client(base_url=self.url("AIRFLOW_PORT"), timeout=30) as client:
            token = client.post("/auth/token", json={"username": "admin", "password": password})
            headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
            answer = client.get(f"/api/v2{path}", params=parameters, headers=headers)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found

    def check_run(self) -> None:
        """The newest night and its tasks are green."""
        run = self.airflow(f"/dags/{DAG}/dagRuns", limit=1, order_by="-run_after")["dag_runs"][0]
        assert run["state"] == "success"
        path = f"/dags/{DAG}/dagRuns/{run['dag_run_id']}/taskInstances"
        states = {task["task_id"]: task["state"] for task in self.airflow(path)["task_instances"]}
        assert states.pop("report_refusal") in ("skipped", "success")
        assert states.pop("watcher") == "skipped"
        assert set(states.values()) == {"success"}, states

    def leader(self, service: str) -> psutil.Process:
        led = ["airflow_service.demo.supervise", str(self.state), service]
        (leader,) = (p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[2:5] == led)
        return leader

    def processes(self) -> list[int]:
        """Processes of this demo by two marks: its state folder in the environment, or in the command line."""
        found = []
        for process in psutil.process_iter():
            try:
                texts = [*process.environ().values(), *process.cmdline()]
                alive = process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
            except psutil.Error:
                continue
            if alive and any(str(self.state) in text for text in texts):
                found.append(process.pid)
        return found


@contextmanager
def running_demo(**variables: str) -> Iterator[Demo]:
    """A demo that is stopped and removed at the end, whatever happened."""
    state = Path(tempfile.mkdtemp(prefix="recsys-day-"))
    state.chmod(0o755)  # the embedded Postgres does not run as root
    demo = Demo(state.resolve(), **variables)
    try:
        yield demo
    finally:
        call = [sys.executable, "-m", "airflow_service.demo", "stop"]
        subprocess.run(call, cwd=ROOT, env=demo.environment, check=True)
        shutil.rmtree(state, ignore_errors=True)
