"""`python -m airflow_service.demo.supervise STATE NAME TRIAL_S COMMAND …`: run a service, and again when it ends.

It is started again after growing pauses, however often: Airflow's scheduler and DAG processor end when Postgres was
away. Only what never ran for TRIAL_S is given up after a few restarts: then something is wrong with it. Before each
start, what is left of its descendants is ended.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from airflow_service.demo.services import Services
from recsys.errors import RecsysError
from recsys.processes import keep_up

log = logging.getLogger(__name__)


class Supervised:
    """A service whose process is started where it does not run."""

    def __init__(self, services: Services, name: str, command: list[str]) -> None:
        self._services = services
        self._name = name
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None

    def look(self) -> None:
        """Start the service if it does not run; RecsysError when it has just ended."""
        if self._child is None:
            self._services.kill([self._name])  # orphans may hold its port, or work on
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)  # noqa: S603 - of the demo
        elif (status := self._child.poll()) is not None:
            self._child = None
            raise RecsysError(f"{self._name} has ended with status {status}")

    def end(self) -> None:
        """Ask the service to end, and wait for it."""
        if self._child is not None:
            self._child.terminate()
            self._child.wait()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    state, name, trial_s, *command = sys.argv[1:]
    services = Services(Path(state))
    supervised = Supervised(services, name, command)
    try:
        keep_up(supervised.look, [services.log_file(name)], float(trial_s))
    except RecsysError as error:
        log.error("%s; its last lines above say why. Once that is fixed: make demo", error)
        sys.exit(1)
    supervised.end()


if __name__ == "__main__":
    main()
