"""`python -m airflow_service.demo start|stop`, which `make demo` and `make stop` call.

What to recommend from, and where to listen, comes from the environment: SOURCE, INPUT, OPTIONS, REPLACE, USERS,
ITEMS, EVENTS; API_PORT, AIRFLOW_PORT, MLFLOW_PORT, PG_PORT; DATABASE_URL, ARTIFACT_ROOT, MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import signal
import sys
import time

from rich.console import Console

from airflow_service.demo.data import Input, for_make, loaded_source, remarks
from airflow_service.demo.farewell import farewell
from airflow_service.demo.place import Place
from airflow_service.demo.stack import Stack
from airflow_service.demo.watch import DAG, follow
from recsys import processes, settings
from recsys.errors import InputError, RecsysError

console = Console(highlight=False, soft_wrap=True)


def start(place: Place) -> None:
    """The whole demo, from nothing to a service that answers."""
    started = time.monotonic()
    data = Input.of(place.variables, place.state)
    with processes.hold(place.lock) as is_ours:
        if not is_ours:
            other = processes.holder(place.lock)
            raise RecsysError(f"another make demo is at work here (process {other}); wait for it, or make stop")
        stack = Stack(place, lambda text: console.print(text, markup=False))
        stack.up(lambda: load(stack, data))
        console.print(f"All services are up after {time.monotonic() - started:.0f} s; the night runs.", markup=False)
        follow(stack.api, stack.api.trigger(DAG, {}), console, stack.check)
        stack.recommender_up()
        stack.updater_up()
        environment = stack.environment
        console.print(farewell(place, environment["DATABASE_URL"], environment["MLFLOW_TRACKING_URI"]), markup=False)
        console.print(f"Done in {time.monotonic() - started:.0f} s.", markup=False)


def load(stack: Stack, data: Input) -> None:
    """Bring the raw data into Postgres."""
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"  {text}", markup=False)

    there = loaded_source(stack.environment["DATABASE_URL"])
    wanted = data.beside(there)
    if wanted is None and there is not None:
        console.print(
            f"No SOURCE is given: on with what the database holds, {there.source} ({there.path})", markup=False
        )
    if wanted is None:
        return
    data = wanted
    if command := data.command_to_generate():
        stack.services.run_job("generate", command, stack.environment, say)
        data.generated()
    try:
        log = stack.services.run_job("import", data.command_to_load(), stack.environment, say)
    except RecsysError as error:
        raise RecsysError(for_make(str(error))) from None
    data.loaded()
    console.print(f"The data are in Postgres: {data.source} ({time.monotonic() - started:.0f} s)", markup=False)
    for remark in remarks(log):
        console.print(f"  {remark}", markup=False)


def stop(place: Place) -> None:
    """End all that a demo of this folder has started."""
    lines = ["make demo"] if processes.end_holder(place.lock, timeout_s=30) else []
    lines += Stack(place, print).down()
    console.print(f"Stopped: {', '.join(lines)}." if lines else "Nothing was running.", markup=False)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    actions = {"start": start, "stop": stop}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.exit(__doc__)
    try:
        settings.load()  # what cannot be used is said now, not by the first step
        actions[sys.argv[1]](Place.find())
    except RecsysError as error:
        console.print(f"\nerror: {error}", markup=False, style="red")
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        console.print("\nInterrupted. What has been started goes on; `make stop` ends it.", markup=False)
        sys.exit(130)


if __name__ == "__main__":
    main()
