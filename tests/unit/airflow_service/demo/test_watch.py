"""What the demo shows of the runs: over real HTTP, from a server that answers as Airflow does, or cannot."""

from __future__ import annotations

import datetime as dt
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
TASK = {
    "dag_id": watch.DAG,
    "dag_run_id": "r",
    "task_id": "train_deepfm",
    "try_number": 1,
    "duration": None,
    "start_date": "2026-03-01T02:00:00Z",
}
LOG = [
    {"event": "::group::Log message source details"},
    {"event": "train_deepfm: start {}", "level": "info", "logger": "recsys.steps.context"},
    {"event": "deepfm: epoch 3 of at most 10: loss 2.1000", "level": "info", "logger": "recsys.candidates.deepfm"},
    {"event": "Created device", "level": "info", "logger": "tensorflow"},
    "a line that is none of the step's",
]


@contextmanager
def airflow(
    *, n_failures: int = 0, failing_after: int = 0, status: int = 500, log: list[Any] | None = None, n_running: int = 0
) -> Iterator[AirflowApi]:
    """The night has succeeded, after it was seen running `n_running` times; but after so many requests so many are
    answered with `status`. `log`: what the log of the running task holds; there is none yet where it is None."""
    n_requests = n_runs = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal n_requests
            n_requests += 1
            if "/logs/" in self.path and log is None:
                self._answer(404, {"detail": "no such log"})
                return
            fails = failing_after < n_requests <= failing_after + n_failures
            self._answer(status if fails else 200, {"detail": "Database error"} if fails else self._found())

        def _found(self) -> Any:
            nonlocal n_runs
            if "/logs/" in self.path:
                return {"content": log}
            if "taskInstances" in self.path:
                state = "running" if n_runs <= n_running else "success"
                return {"task_instances": [TASK | {"state": state}]}
            n_runs += 1
            return RUN | {"state": "running" if n_runs <= n_running else "success"}

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
    assert night.states == {"nightly": "success", "train_deepfm": "success"}
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


def shown(monkeypatch: pytest.MonkeyPatch, console: Console, *, say_s: float, log: list[Any] | None) -> list[str]:
    """What a console shows of a night in which a step is seen running four times."""
    monkeypatch.setattr(watch, "POLL_S", 0.01)
    monkeypatch.setattr(watch, "SAY_S", say_s)
    monkeypatch.setattr(watch, "LOOK_S", say_s)
    with airflow(n_running=4, log=log) as api:
        assert watch.follow(api, RUN, console, lambda: None).is_done
    return console.export_text().splitlines()


def running(lines: list[str]) -> list[str]:
    return [line for line in lines if "train_deepfm runs since" in line]


def test_it_says_what_runs_since_when_and_what_the_step_says(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = running(shown(monkeypatch, Console(record=True, width=200), say_s=0, log=LOG))
    assert len(lines) == 4
    since = dt.datetime(2026, 3, 1, 2, tzinfo=dt.UTC).astimezone()
    assert f"train_deepfm runs since {since:%H:%M:%S}, " in lines[0]
    assert lines[0].endswith(" s: deepfm: epoch 3 of at most 10: loss 2.1000")


def test_a_step_that_has_said_nothing_yet_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for log in (None, [], LOG[:1]):
        lines = running(shown(monkeypatch, Console(record=True, width=200), say_s=0, log=log))
        assert len(lines) == 4
        assert lines[0].endswith(" s")


def test_a_line_now_and_then_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, Console(record=True, width=200), say_s=3600, log=LOG)
    assert running(lines) == []
    assert [line.partition("] ")[2] for line in lines] == [
        "nightly: running",
        "train_deepfm: running",
        "nightly: success",
        "train_deepfm: success",
    ]


def test_on_a_terminal_one_table_is_brought_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = watch._table

    def table(*arguments: Any) -> Any:
        made = real(*arguments)
        plain = Console(record=True, width=200)
        plain.print(made)
        seen.append(plain.export_text())
        return made

    monkeypatch.setattr(watch, "_table", table)
    console = Console(record=True, width=200, force_terminal=True)
    assert running(shown(monkeypatch, console, say_s=0, log=LOG)) == []
    assert len(seen) == 5
    assert "since" in seen[0]
    assert "epoch 3 of at most 10" in seen[0]
    assert "epoch 3" not in seen[-1], "it has ended"
