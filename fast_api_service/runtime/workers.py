"""Several workers on one port, each a process of its own: they are started together, replaced when they die, and
stopped together, also when the parent process is killed.

uvicorn's own supervisor pings each worker in turn and waits for the answer, so that it notices a worker that died at
start-up only after the ping's timeout. Here the kernel reports the exit of a worker at once (`sentinel`).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE

from fast_api_service.app import create_app
from fast_api_service.runtime.siblings import Siblings
from fast_api_service.settings import ApiSettings
from recsys import log, settings

_log = logging.getLogger(__name__)
_LOOK_EVERY_S: Final = 0.5  # for signals; the exit of a worker is noticed at once
_LONGEST_END_S: Final = 30.0


def serve(database_url: str, api: ApiSettings, options: dict[str, Any]) -> int:
    """Serve until SIGTERM or SIGINT with API_WORKERS processes and these options of uvicorn; the exit status.

    A worker that dies is replaced. If one fails at start-up, it would fail again: all are stopped, and the status is
    not 0.
    """
    is_over: list[int] = []
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda number, _: is_over.append(number))
    with (
        tempfile.TemporaryDirectory(prefix="recsys-api-") as folder,
        Config(create_app, **options).bind_socket() as listening,
    ):
        start = partial(_started, database_url, api, options, Path(folder), listening)
        workers = [start(number, is_replacement=False) for number in range(api.workers)]
        has_failed = False
        while not is_over and not has_failed:
            wait([worker.sentinel for worker in workers], _LOOK_EVERY_S)
            for number, worker in enumerate(workers):
                if worker.exitcode == STARTUP_FAILURE:
                    _log.error("worker %d failed at start-up; all workers are stopped", number)
                    has_failed = True
                elif worker.exitcode is not None and not is_over:
                    _log.error("worker %d exited with status %d and is replaced", number, worker.exitcode)
                    workers[number] = start(number, is_replacement=True)
        _end(workers)
    return STARTUP_FAILURE if has_failed else 0


def _started(
    database_url: str, api: ApiSettings, options: dict[str, Any], folder: Path, listening: socket.socket, number: int,
    *, is_replacement: bool,
) -> BaseProcess:  # fmt: skip
    siblings = Siblings(folder, number, api.workers, is_replacement=is_replacement)
    given = (database_url, api, options, folder, listening, siblings)
    worker = multiprocessing.get_context("spawn").Process(target=_work, args=given, name=f"worker {number}")
    worker.start()
    return worker


def _end(workers: list[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()
    until = time.monotonic() + _LONGEST_END_S
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
        worker.kill()
        worker.join()


def _work(
    database_url: str,
    api: ApiSettings,
    options: dict[str, Any],
    folder: Path,
    listening: socket.socket,
    siblings: Siblings,
) -> None:
    """The main function of a worker process."""
    log.setup(settings.load().log_level, settings.load().log_format)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    app = partial(create_app, database_url, api, siblings=siblings)
    server = Server(Config(app, factory=True, **options))
    try:
        with suppress(KeyboardInterrupt):  # uvicorn raises it after its shutdown
            server.run([listening])
    except Exception:
        _log.exception("worker %d failed", siblings.number)
        sys.exit(1 if server.started else STARTUP_FAILURE)


def _end_with_parent(folder: Path) -> None:
    """Shut down as on SIGTERM when the parent process has died, as nothing else would stop this one."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LONGEST_END_S)
    os.kill(os.getpid(), signal.SIGKILL)
