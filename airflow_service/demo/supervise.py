"""`python -m airflow_service.demo.supervise STATE NAME COMMAND …`: run a service, and start it again when it ends.

What ends within TRIAL_S of the first start ends this, too, with the same status: then something is wrong with it, and
who started it should hear of it. Later it is started again after growing pauses, however often that takes: Airflow's
scheduler and DAG processor end when Postgres was away, and clients wait for what comes back. Before that, what is left
of its descendants is ended. The service's log is kept short.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import psutil

from airflow_service.demo.services import Services
from recsys.private_files import rotate

log = logging.getLogger(__name__)

TRIAL_S: Final = 30.0
_STEADY_S: Final = 60.0  # after so long, an end is no longer one in a row
_LONGEST_PAUSE_S: Final = 30.0
_LOOK_S: Final = 1.0


class Supervisor:
    """Keeps one command running until it is asked to stop."""

    def __init__(self, services: Services, name: str, command: list[str]) -> None:
        self._services = services
        self._name = name
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def run(self) -> int:
        """The exit status for this process."""
        first, pause_s = time.monotonic(), _LOOK_S
        while True:
            started = time.monotonic()
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)  # noqa: S603 - of the demo
            status = self._wait(self._child)
            if self._is_stopping:
                return 0
            now = time.monotonic()
            if now - first < TRIAL_S:
                return status or 1
            pause_s = _LOOK_S if now - started > _STEADY_S else min(2 * pause_s, _LONGEST_PAUSE_S)
            log.warning("%s has ended with status %d; starting it again in %.0f s", self._name, status, pause_s)
            self._end_orphans()
            self._sleep(pause_s)
            if self._is_stopping:
                return 0

    def stop(self, *_: Any) -> None:
        """Ask the service to end, and this with it."""
        self._is_stopping = True
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.terminate()

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        if self._is_stopping:  # asked while it was started
            child.terminate()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK_S)
            rotate(self._services.log_file(self._name))

    def _sleep(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while not self._is_stopping and time.monotonic() < until:
            time.sleep(0.1)

    def _end_orphans(self) -> None:
        """End descendants that outlived the service: they may hold its port, or work on."""
        while left := [process for process in self._services.processes(self._name) if process.pid != os.getpid()]:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=3)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    state, name, *command = sys.argv[1:]
    supervisor = Supervisor(Services(Path(state)), name, command)
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)
    sys.exit(supervisor.run())


if __name__ == "__main__":
    main()
