"""Airflow's REST API, as far as the demo needs it."""

from __future__ import annotations

from typing import Any

import httpx

from recsys.errors import RecsysError

STEPS = "recsys"  # the logger of all steps
COMPONENTS = ("metadatabase", "scheduler", "dag_processor")


class AirflowAwayError(RecsysError):
    """Airflow's API does not answer, or only that it cannot, as while its database is away."""


class AirflowApi:
    """A client that logs in when it is first used, and again when its token has run out."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._http = httpx.Client(base_url=url, timeout=30, transport=httpx.HTTPTransport(retries=3))

    def is_up(self) -> bool:
        """Whether the API server answers."""
        return self._health() is not None

    def component_is_healthy(self, component: str) -> bool:
        """Whether the scheduler or the DAG processor has a recent heartbeat."""
        health = self._health()
        return health is not None and health.get(component, {}).get("status") == "healthy"

    def dag_ids(self) -> set[str]:
        """The DAGs that Airflow has parsed."""
        return {dag["dag_id"] for dag in self._call("GET", "/dags", params={"limit": 100})["dags"]}

    def import_errors(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "/importErrors")["import_errors"])

    def unpause(self, dag_id: str) -> None:
        """Switch a DAG on: it is from the start, but somebody may have switched it off."""
        self._call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> dict[str, Any]:
        """Start a run; gives it."""
        run: dict[str, Any] = self._call("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
        return run

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        """Runs of all DAGs, newest first, at most 100; `filters` as in the API, e.g. `run_after_gte`."""
        found = self._call("GET", "/dags/~/dagRuns", params={"order_by": "-run_after", "limit": 100} | filters)
        return list(found["dag_runs"])

    def run(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run as it is now."""
        return dict(self._call("GET", _path(run)))

    def fail(self, run: dict[str, Any]) -> None:
        """Mark a run as failed, with all its tasks that have not ended."""
        self._call("PATCH", _path(run), json={"state": "failed"})

    def tasks(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """The task instances of a run."""
        return list(self._call("GET", f"{_path(run)}/taskInstances", params={"limit": 100})["task_instances"])

    def log(self, task: dict[str, Any], n_lines: int = 25) -> str:
        """The last lines of a task's log, its last try."""
        return "\n".join([line for entry in self._log(task) for line in _lines(entry)][-n_lines:])

    def says(self, task: dict[str, Any]) -> str:
        """What the step of a task that runs has last said of its work; nothing where it has said nothing yet."""
        messages = [
            e["event"] for e in self._log(task) if isinstance(e, dict) and e.get("logger", "").startswith(STEPS)
        ]
        return str(messages[-1]) if messages else ""

    def _log(self, task: dict[str, Any]) -> list[dict[str, Any] | str]:
        path = f"/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/logs"
        found = self._call("GET", f"{path}/{task['try_number']}", params={"full_content": True})
        return list(found["content"])

    def _health(self) -> dict[str, Any] | None:
        try:
            answer = self._http.get("/api/v2/monitor/health", timeout=5)
            return dict(answer.json()) if answer.is_success else None
        except (httpx.HTTPError, ValueError):
            return None

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = self._http.request(method, f"/api/v2{path}", **arguments)
            if answer.status_code == 401:
                token = self._http.post("/auth/token", json=self._login)
                token.raise_for_status()
                self._http.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
                answer = self._http.request(method, f"/api/v2{path}", **arguments)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            kind = AirflowAwayError if error.response.is_server_error else RecsysError
            raise kind(f"Airflow refused {method} {path}: {error.response.text[:500]}") from error
        except httpx.HTTPError as error:
            raise AirflowAwayError(f"Airflow's API at {self.url} does not answer {method} {path}: {error!r}") from error
        return answer.json()


def _path(run: dict[str, Any]) -> str:
    return f"/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}"


def _lines(entry: dict[str, Any] | str) -> list[str]:
    """A log entry as lines of text, with the error that it may carry."""
    if isinstance(entry, str):
        return entry.splitlines()
    lines = [f"{entry.get('level', '')}: {entry['event']}".removeprefix(": ")]
    for error in entry.get("error_detail") or []:
        frames = error.get("frames") or []
        lines += [f"  {frame['filename']}:{frame['lineno']} in {frame['name']}" for frame in frames[-6:]]
        lines.append(f"  {error['exc_type']}: {error['exc_value']}")
    return lines
