"""The processes of a demo: Postgres, MLflow, Airflow and the API, started side by side where they can be."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import httpx

from airflow_service import commands
from airflow_service.demo.airflow_api import AirflowApi
from airflow_service.demo.place import USER, Place
from airflow_service.demo.services import Service, Services
from airflow_service.demo.watch import DAG
from recsys.errors import RecsysError
from recsys.storage import embedded

START_S = 300.0  # how long a service may take until it answers; a cold disk and two slow cores need a while


class Stack:
    """What runs for one demo. `say(text)` tells the user what has happened."""

    def __init__(self, place: Place, say: Callable[[str], None]) -> None:
        self.place = place
        self.services = Services(place.state)
        self.api = AirflowApi(place.url("AIRFLOW_PORT"), USER, place.airflow_password)
        self._say = say
        self._chosen: dict[str, str] = {}

    def up(self, load: Callable[[], None]) -> None:
        """Start everything but the API of recommendations, and meanwhile `load()` the data."""
        place = self.place
        place.prepare()
        self._chosen = place.chosen(None)
        for service in [*self._airflow(), *([self._mlflow()] if place.own_mlflow else []), self._recommender()]:
            self.services.check_port(service)
        with ThreadPoolExecutor(3) as pool:
            jobs: list[Future[Any]] = [pool.submit(self._mlflow_up)] if place.own_mlflow else []
            self._postgres_up()
            self._migrate("recsys-migrate")
            jobs += [pool.submit(self._airflow_up), pool.submit(load)]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()  # raises what it raised

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process of this demo."""
        return self.place.environment(self._chosen)

    def check(self) -> None:
        """RecsysError when a service of the batch half has died."""
        self.services.check_alive([*commands.AIRFLOW, *(commands.MLFLOW if self.place.own_mlflow else {})])

    def recommender_up(self) -> None:
        """Start the API of recommendations anew and wait until it is ready to answer."""
        service = self._recommender()
        self.services.start(service, self.environment)
        self.services.wait([service], START_S)

    def updater_up(self) -> None:
        """Start what learns from events, unless it runs already; it begins by itself once the model is published."""
        service = self._updater()
        if not self.services.is_running(service):
            self.services.start(service, self.environment)

    def down(self) -> list[str]:
        """End everything; what was ended, in words."""
        services = self.services
        order = ["updater", "fast-api-service", "airflow-scheduler", "airflow-dag-processor", "airflow-api-server"]
        names = sorted(services.names(), key=lambda name: order.index(name) if name in order else len(order))
        ended = services.stop(names)
        lines = [f"{name} ({n} process{'es' if n > 1 else ''})" for name, n in ended.items()]
        if embedded.stop(self.place.state / "postgres"):
            lines.append("Postgres")
        if left := services.processes():
            raise RecsysError(f"these processes are left: {[process.pid for process in left]}")
        return lines

    def _postgres_up(self) -> None:
        if not self.place.needs_postgres:
            return
        started = time.monotonic()
        server = embedded.ensure(self.place.state / "postgres", self.place.port("PG_PORT"))
        self._chosen = self.place.chosen(server.url("").rstrip("/"))
        self._say(f"Postgres answers on port {server.port} ({time.monotonic() - started:.0f} s)")

    def _mlflow_up(self) -> None:
        service = self._mlflow()
        started = time.monotonic()
        if not self.services.is_running(service):
            self.services.start(service, self.place.environment(service.chosen))
        self.services.wait([service], START_S)
        self._say(f"MLflow answers on {self.place.url('MLFLOW_PORT')} ({time.monotonic() - started:.0f} s)")

    def _airflow_up(self) -> None:
        services, started = self._airflow(), time.monotonic()
        if not all(self.services.is_running(service) for service in services):
            self.services.stop([service.name for service in services])
            self._migrate("airflow-migrate")
            for service in services:
                self.services.start(service, self.environment)
            self.services.wait(services, START_S)
            self._fail_orphans()
        self._wait_for_dag()
        self.api.unpause(DAG)
        self._say(f"Airflow is healthy on {self.api.url} ({time.monotonic() - started:.0f} s)")

    def _migrate(self, name: str) -> None:
        """Bring a database's tables up to this version."""
        self.services.run_job(name, commands.MIGRATE[name], self.environment)

    def _fail_orphans(self) -> None:
        """End the runs of an Airflow that was killed: their tasks are dead, and new runs would wait for them."""
        for state in ("running", "queued"):
            for run in self.api.runs(state=state):
                self.api.fail(run)

    def _wait_for_dag(self) -> None:
        deadline = time.monotonic() + START_S
        while DAG not in self.api.dag_ids():
            if errors := self.api.import_errors():
                raise RecsysError("\n".join(f"{e['filename']}: {e['stack_trace']}" for e in errors))
            self.check()
            if time.monotonic() > deadline:
                raise RecsysError(f"Airflow has not found the DAG {DAG} after {START_S:.0f} s")
            time.sleep(1)

    def _airflow(self) -> list[Service]:
        ready: Mapping[str, Callable[[], bool]] = {
            "airflow-api-server": self.api.is_up,
            "airflow-scheduler": lambda: self.api.component_is_healthy("scheduler"),
            "airflow-dag-processor": lambda: self.api.component_is_healthy("dag_processor"),
        }
        ports = {"airflow-api-server": self.place.port("AIRFLOW_PORT")}
        return [
            Service(name, command, self._chosen, ready[name], ports.get(name), "AIRFLOW_PORT")
            for name, command in commands.AIRFLOW.items()
        ]

    def _mlflow(self) -> Service:
        ((name, command),) = commands.MLFLOW.items()
        url = f"{self.place.url('MLFLOW_PORT')}/health"
        chosen = commands.settings() | self.place.mlflow_variables()
        port = self.place.port("MLFLOW_PORT")
        return Service(name, command, chosen, lambda: _answers(url), port, "MLFLOW_PORT")

    def _recommender(self) -> Service:
        command = (sys.executable, "-m", "fast_api_service")
        url = f"{self.place.url('API_PORT')}/ready"
        chosen = self._chosen | {"API_PORT": str(self.place.port("API_PORT"))}
        port = self.place.port("API_PORT")
        return Service("fast-api-service", command, chosen, lambda: _answers(url), port, "API_PORT")

    def _updater(self) -> Service:
        command = (sys.executable, "-m", "recsys.cli", "updater")
        return Service("updater", command, self._chosen, lambda: True)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=3).is_success
    except httpx.HTTPError:
        return False
