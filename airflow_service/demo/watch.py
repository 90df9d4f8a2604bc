"""Follow a run of the night until it has succeeded or failed."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from airflow_service.demo.airflow_api import AirflowApi, AirflowAwayError
from airflow_service.demo.services import SAY_S
from recsys.errors import RecsysError

DAG = "nightly"
WATCHER = "watcher"  # fails because another task has
POLL_S = 1.5
LOOK_S = 5.0  # so often a terminal's table is told what the steps say
STALLED_S = 240.0
AWAY_S = 120.0  # Postgres, which Airflow needs for every answer, may have been killed and replay its log
_COLOURS = {"success": "green", "failed": "red", "running": "yellow", "up_for_retry": "magenta", "skipped": "dim"}


@dataclass
class Night:
    """What is known of the run so far, and of its tasks in the order in which Airflow names them."""

    run: dict[str, Any]
    tasks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def states(self) -> dict[str, str]:
        """The run's and each task's name → state."""
        return {DAG: self.run["state"]} | {task["task_id"]: task["state"] or "waiting" for task in self.tasks}

    def tasks_in(self, state: str) -> list[dict[str, Any]]:
        """The task instances in a state."""
        return [task for task in self.tasks if task["state"] == state]

    @property
    def is_done(self) -> bool:
        return bool(self.run["state"] == "success")


class _Screen:
    """Shows how a night goes: as a table on a terminal, else as a line for each change, and one for each step that
    runs every SAY_S."""

    def __init__(self, api: AirflowApi, console: Console) -> None:
        self._api, self._console = api, console
        self._started = self._logged_at = time.monotonic()
        self._messages: dict[str, str] = {}
        self._live = Live(console=console, refresh_per_second=2, transient=False) if console.is_terminal else None

    def __enter__(self) -> _Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False)

    def show(self, night: Night, changes: list[str]) -> None:
        """How it goes now, and what has changed."""
        is_due = time.monotonic() - self._logged_at >= (LOOK_S if self._live else SAY_S)
        if is_due:
            self._logged_at = time.monotonic()
            self._messages = {task["task_id"]: self._says(task) for task in night.tasks_in("running")}
        if self._live:
            self._live.update(_table(night, self._messages, self._elapsed_s))
            return
        lines = changes
        if is_due:
            lines = lines + [f"{_running(task)}{self._of(task)}" for task in night.tasks_in("running")]
        for line in lines:
            self.say(f"[{self._elapsed_s:5.0f} s] {line}")

    def _of(self, task: dict[str, Any]) -> str:
        message = self._messages.get(task["task_id"], "")
        return f": {message}" if message else ""

    def _says(self, task: dict[str, Any]) -> str:
        try:
            return self._api.says(task)
        except RecsysError:  # its log is not there yet, or Airflow is away, which the next look finds
            return ""

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started


def follow(api: AirflowApi, run: dict[str, Any], console: Console, check: Callable[[], None]) -> Night:
    """Show progress until `run` is done.

    `check` is called at every look and raises when a service has died. RecsysError with the failing task's log
    when the run fails, when nothing moves for STALLED_S, and when Airflow's API is away for AWAY_S.
    """
    night, moved_at = Night(run), time.monotonic()
    away_since: float | None = None
    with _Screen(api, console) as screen:
        while not night.is_done:
            check()
            before = night.states if night.tasks else {}
            try:
                now = Night(api.run(run), api.tasks(run))
            except AirflowAwayError as error:
                if away_since is None:
                    away_since = time.monotonic()
                    screen.say("Airflow cannot answer now; waiting")
                if time.monotonic() - away_since > AWAY_S:
                    raise RecsysError(f"Airflow has been away for {AWAY_S:.0f} s: {error}") from error
                time.sleep(POLL_S)
                continue
            night = now
            if away_since is not None:
                away_since, moved_at = None, time.monotonic()
            changes = [f"{name}: {state}" for name, state in night.states.items() if before.get(name) != state]
            if changes or night.tasks_in("running") or night.tasks_in("up_for_retry"):
                moved_at = time.monotonic()
            screen.show(night, changes)
            for task in night.tasks_in("up_for_retry"):
                if before.get(task["task_id"]) != "up_for_retry":
                    screen.say(f"{task['task_id']} will be tried again:\n{api.log(task, n_lines=3)}")
            if night.run["state"] == "failed":
                raise RecsysError(_what_failed(api, night))
            if time.monotonic() - moved_at > STALLED_S:
                raise RecsysError(f"nothing has moved for {STALLED_S:.0f} s: {night.states}; see the scheduler's log")
            time.sleep(POLL_S)
    return night


def _table(night: Night, messages: dict[str, str], elapsed_s: float) -> Table:
    table = Table(title=f"{elapsed_s:.0f} s", title_justify="right", box=None, pad_edge=False)
    table.add_column("step")
    table.add_column("state", no_wrap=True)
    table.add_column("what it says", no_wrap=True, overflow="ellipsis")
    for task in night.tasks:
        is_running = task["state"] == "running"
        text = "" if not is_running else escape(messages.get(task["task_id"], ""))
        table.add_row(task["task_id"], _coloured(_seconds(task), task["state"]), text)
    return table


def _coloured(text: str, state: str | None) -> str:
    colour = _COLOURS.get(state or "", "dim")
    return f"[{colour}]{text}[/{colour}]"


def _seconds(task: dict[str, Any]) -> str:
    tries = f" (try {task['try_number']})" if (task["try_number"] or 0) > 1 else ""
    if task["state"] == "running":
        return _since(task) + tries
    return (f"{task['duration']:.0f} s" if task["duration"] else task["state"] or "") + tries


def _running(task: dict[str, Any]) -> str:
    return f"{task['task_id']} runs {_since(task)}"


def _since(task: dict[str, Any]) -> str:
    """Since when a task runs, by this machine's clock."""
    if not task.get("start_date"):
        return "since now"
    at = dt.datetime.fromisoformat(task["start_date"])
    return f"since {at.astimezone():%H:%M:%S}, {(dt.datetime.now(dt.UTC) - at).total_seconds():.0f} s"


def _what_failed(api: AirflowApi, night: Night) -> str:
    where = f"{api.url}/dags/{DAG}/runs/{night.run['dag_run_id']}"
    failed = [task for task in night.tasks_in("failed") if task["task_id"] != WATCHER]
    if not failed:
        return f"the run failed: {where}"
    return f"{failed[0]['task_id']} failed: {where}\n{api.log(failed[0])}"
