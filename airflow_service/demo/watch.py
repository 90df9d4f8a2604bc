"""Follow the runs that one data set causes in all DAGs, until all have succeeded or one has failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from airflow_service.demo.airflow_api import AirflowApi, AirflowAwayError
from recsys.errors import RecsysError

# In the order in which people think of them.
DAGS = (
    "prepare_dataset",
    "train_als",
    "train_deepfm",
    "default_recommendations",
    "i2i_recommendations",
    "personal_recommendations",
    "similar_items",
    "train_ranker",
    "rank_and_publish",
)
FIRST = "prepare_dataset"
POLL_S = 1.5
STALLED_S = 240.0
AWAY_S = 120.0  # Postgres, which Airflow needs for every answer, may have been killed and replay its log
_COLOURS = {"success": "green", "failed": "red", "running": "yellow", "up_for_retry": "magenta", "skipped": "dim"}


@dataclass
class Day:
    """What is known of the runs so far: DAG → its run, DAG → its tasks."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def states(self) -> dict[str, str]:
        """`dag` and `dag/task` → state."""
        of_runs = {dag_id: run["state"] for dag_id, run in self.runs.items()}
        of_tasks = {
            f"{dag_id}/{task['task_id']}": task["state"] or "waiting"
            for dag_id, tasks in self.tasks.items()
            for task in tasks
        }
        return of_runs | of_tasks

    def tasks_in(self, state: str) -> list[dict[str, Any]]:
        """The task instances in a state."""
        return [task for tasks in self.tasks.values() for task in tasks if task["state"] == state]

    @property
    def is_done(self) -> bool:
        return all(self.runs.get(dag_id, {}).get("state") == "success" for dag_id in DAGS)

    @property
    def failed_run(self) -> dict[str, Any] | None:
        return next((run for run in self.runs.values() if run["state"] == "failed"), None)


def follow(api: AirflowApi, first: dict[str, Any], console: Console, check: Callable[[], None]) -> Day:
    """Show progress until the runs that follow from `first`, a run of prepare_dataset, are done.

    `check` is called at every look and raises when a service has died. RecsysError with the failing task's log
    when a run fails, when nothing moves for STALLED_S, and when Airflow's API is away for AWAY_S.
    """
    day, started, moved_at = Day(), time.monotonic(), time.monotonic()
    away_since: float | None = None
    dataset: str | None = None
    live = Live(console=console, refresh_per_second=2, transient=False) if console.is_terminal else None
    if live:
        live.start()
    try:
        while not day.is_done:
            check()
            before = day.states
            try:
                dataset = dataset or _dataset(api, first)
                _look(api, day, first, dataset)
            except AirflowAwayError as error:
                if away_since is None:
                    away_since = time.monotonic()
                    console.print("Airflow cannot answer now; waiting", markup=False, highlight=False)
                if time.monotonic() - away_since > AWAY_S:
                    raise RecsysError(f"Airflow has been away for {AWAY_S:.0f} s: {error}") from error
                time.sleep(POLL_S)
                continue
            if away_since is not None:
                away_since, moved_at = None, time.monotonic()
            changes = [f"{name}: {state}" for name, state in day.states.items() if before.get(name) != state]
            if changes or "running" in day.states.values():
                moved_at = time.monotonic()
            if live:
                live.update(_table(day, time.monotonic() - started))
            for change in changes if not live else []:
                console.print(f"[{time.monotonic() - started:5.0f} s] {change}", markup=False, highlight=False)
            for task in day.tasks_in("up_for_retry"):
                if before.get(f"{task['dag_id']}/{task['task_id']}") != "up_for_retry":
                    why = api.log(task, n_lines=3)
                    console.print(f"{task['task_id']} will be tried again:\n{why}", markup=False, highlight=False)
            if day.failed_run:
                raise RecsysError(_what_failed(api, day.failed_run, day.tasks[day.failed_run["dag_id"]]))
            if time.monotonic() - moved_at > STALLED_S:
                raise RecsysError(f"nothing has moved for {STALLED_S:.0f} s: {day.states}; see the scheduler's log")
            time.sleep(POLL_S)
    finally:
        if live:
            live.stop()
    return day


def _dataset(api: AirflowApi, first: dict[str, Any]) -> str | None:
    """The data set that the first run has made; None while it has not."""
    run = next((r for r in api.runs(run_after_gte=first["run_after"]) if _is(r, first)), first)
    return str(api.result(run, FIRST)["dataset"]) if run["state"] == "success" else None


def _look(api: AirflowApi, day: Day, first: dict[str, Any], dataset: str | None) -> None:
    """Bring `day` up to date: the first run itself, and of every other DAG the newest run for its data set."""
    newest: dict[str, dict[str, Any]] = {}
    for run in api.runs(run_after_gte=first["run_after"]):
        if _is(run, first) or (dataset and run["partition_key"] == dataset and run["dag_id"] != FIRST):
            newest.setdefault(run["dag_id"], run)
    for dag_id, run in newest.items():
        if day.runs.get(dag_id) != run or run["state"] == "running":
            day.tasks[dag_id] = api.tasks(run)  # first: Airflow may be away before it has told them
            day.runs[dag_id] = run


def _is(run: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(run["dag_id"] == other["dag_id"] and run["dag_run_id"] == other["dag_run_id"])


def _table(day: Day, elapsed_s: float) -> Table:
    table = Table(title=f"{elapsed_s:.0f} s", title_justify="right", box=None, pad_edge=False)
    for heading in ("DAG", "run", "steps"):
        table.add_column(heading)
    for dag_id in DAGS:
        state = day.runs.get(dag_id, {}).get("state", "waiting")
        steps = [_coloured(f"{t['task_id']} {_seconds(t)}", t["state"]) for t in day.tasks.get(dag_id, [])]
        table.add_row(dag_id, _coloured(state, state), "  ".join(steps))
    return table


def _coloured(text: str, state: str | None) -> str:
    colour = _COLOURS.get(state or "", "dim")
    return f"[{colour}]{text}[/{colour}]"


def _seconds(task: dict[str, Any]) -> str:
    tries = f" (try {task['try_number']})" if (task["try_number"] or 0) > 1 else ""
    return (f"{task['duration']:.0f} s" if task["duration"] else task["state"] or "") + tries


def _what_failed(api: AirflowApi, run: dict[str, Any], tasks: Sequence[dict[str, Any]]) -> str:
    where = f"{api.url}/dags/{run['dag_id']}/runs/{run['dag_run_id']}"
    failed = next((task for task in tasks if task["state"] == "failed"), None)
    if failed is None:
        return f"the run of {run['dag_id']} failed: {where}"
    return f"{run['dag_id']}/{failed['task_id']} failed: {where}\n{api.log(failed)}"
