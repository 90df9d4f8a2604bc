"""What the demo shows of the runs: over real HTTP, from a server that answers as Airflow does, or cannot."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rich.console import Console

from airflow_service.demo import watch
from airflow_service.demo.airflow_api import AirflowApi
from recsys.errors import RecsysError

RUN = {"dag_id": watch.DAG, "dag_run_id": "r", "state": "queued"}


@contextmanager
def airflow(*, n_failures: int, failing_after: int = 0, status: int = 500) -> Iterator[AirflowApi]:
    """The night has succeeded; but after so many requests so many are answered with `status`."""
    n_asked = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal n_asked
            n_asked += 1
            fails = failing_after < n_asked <= failing_after + n_failures
            self._answer(status if fails else 200, {"detail": "Database error"} if fails else self._found())

        def _found(self) -> Any:
            if "taskInstances" in self.path:
                task = {"dag_id": watch.DAG, "dag_run_id": "r", "task_id": "publish", "state": "success"}
                return {"task_instances": [task]}
            return RUN | {"state": "success"}

        def _answer(self, code: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield AirflowApi(f"http://127.0.0.1:{server.server_port}", "admin", "none")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("failing_after", range(2))
def test_it_waits_while_airflow_cannot_answer(failing_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of its questions is the first to fail."""
    monkeypatch.setattr(watch, "POLL_S", 0.01)
    console = Console(record=True)
    with airflow(n_failures=5, failing_after=failing_after) as api:
        night = watch.follow(api, RUN, console, lambda: None)
    assert night.is_done
    assert night.states == {"nightly": "success", "publish": "success"}
    assert console.export_text().count("Airflow cannot answer now; waiting") == 1


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_S", 0.01)
    monkeypatch.setattr(watch, "AWAY_S", 0.1)
    with airflow(n_failures=10**9) as api, pytest.raises(RecsysError, match=r"away for 0 s: .*Database error"):
        watch.follow(api, RUN, Console(), lambda: None)


def test_a_refusal_is_no_reason_to_wait() -> None:
    with airflow(n_failures=10**9, status=404) as api, pytest.raises(RecsysError, match="Airflow refused GET"):
        watch.follow(api, RUN, Console(), lambda: None)


def test_a_dead_service_ends_it_while_airflow_is_away() -> None:
    looks = iter([None, None])

    def check() -> None:
        if next(looks, "dead") == "dead":
            raise RecsysError("the scheduler has ended")

    with airflow(n_failures=10**9) as api, pytest.raises(RecsysError, match="the scheduler has ended"):
        watch.follow(api, RUN, Console(), check)
