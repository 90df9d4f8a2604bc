"""Follow a run of the night until it has succeeded or failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from airflow_service.demo.airflow_api import AirflowApi, AirflowAwayError
from recsys.errors import RecsysError

DAG = "nightly"
WATCHER = "watcher"  # fails because another task has
POLL_S = 1.5
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


def follow(api: AirflowApi, run: dict[str, Any], console: Console, check: Callable[[], None]) -> Night:
    """Show progress until `run` is done.

    `check` is called at every look and raises when a service has died. RecsysError with the failing task's log
    when the run fails, when nothing moves for STALLED_S, and when Airflow's API is away for AWAY_S.
    """
    night, started, moved_at = Night(run), time.monotonic(), time.monotonic()
    away_since: float | None = None
    live = Live(console=console, refresh_per_second=2, transient=False) if console.is_terminal else None
    if live:
        live.start()
    try:
        while not night.is_done:
            check()
            before = night.states if night.tasks else {}
            try:
                now = Night(api.run(run), api.tasks(run))
            except AirflowAwayError as error:
                if away_since is None:
                    away_since = time.monotonic()
                    console.print("Airflow cannot answer now; waiting", markup=False, highlight=False)
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
            if live:
                live.update(_table(night, time.monotonic() - started))
            for change in changes if not live else []:
                console.print(f"[{time.monotonic() - started:5.0f} s] {change}", markup=False, highlight=False)
            for task in night.tasks_in("up_for_retry"):
                if before.get(task["task_id"]) != "up_for_retry":
                    why = api.log(task, n_lines=3)
                    console.print(f"{task['task_id']} will be tried again:\n{why}", markup=False, highlight=False)
            if night.run["state"] == "failed":
                raise RecsysError(_what_failed(api, night))
            if time.monotonic() - moved_at > STALLED_S:
                raise RecsysError(f"nothing has moved for {STALLED_S:.0f} s: {night.states}; see the scheduler's log")
            time.sleep(POLL_S)
    finally:
        if live:
            live.stop()
    return night


def _table(night: Night, elapsed_s: float) -> Table:
    table = Table(title=f"{elapsed_s:.0f} s", title_justify="right", box=None, pad_edge=False)
    for heading in ("step", "state"):
        table.add_column(heading)
    for task in night.tasks:
        table.add_row(task["task_id"], _coloured(_seconds(task), task["state"]))
    return table


def _coloured(text: str, state: str | None) -> str:
    colour = _COLOURS.get(state or "", "dim")
    return f"[{colour}]{text}[/{colour}]"


def _seconds(task: dict[str, Any]) -> str:
    tries = f" (try {task['try_number']})" if (task["try_number"] or 0) > 1 else ""
    return (f"{task['duration']:.0f} s" if task["duration"] else task["state"] or "") + tries


def _what_failed(api: AirflowApi, night: Night) -> str:
    where = f"{api.url}/dags/{DAG}/runs/{night.run['dag_run_id']}"
    failed = [task for task in night.tasks_in("failed") if task["task_id"] != WATCHER]
    if not failed:
        return f"the run failed: {where}"
    return f"{failed[0]['task_id']} failed: {where}\n{api.log(failed[0])}"
