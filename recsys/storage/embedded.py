"""The embedded Postgres: a keeper process that starts the server, watches over it and stops it cleanly.

`python -m recsys.storage.embedded` stays in the foreground until SIGTERM; `--detach` starts a keeper in the
background and returns when the server answers; `--stop` ends keeper and server, whatever state they are in.
While a keeper lives it holds a lock on `keeper.lock` (which the kernel releases if it is killed), and
`keeper.json` says where the server listens. A keeper that finds its server running adopts it, and one whose
server died starts it again, however often that takes. It also keeps the logs short.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recsys import settings
from recsys.errors import DatabaseAwayError, InputError, NotFoundError, RecsysError
from recsys.private_files import open_log, rotate
from recsys.storage.embedded_server import (
    STOP_S,
    Home,
    create_databases,
    ends,
    is_alive,
    read_password,
    start_server,
    stop_server,
)

log = logging.getLogger(__name__)

START_S: Final = 90.0  # a first start runs initdb, which is slow on a busy machine
_LOOK_S: Final = 0.3
_LONGEST_PAUSE_S: Final = 10.0  # between two tries to start it again


@dataclass(frozen=True)
class Server:
    """Where an embedded server listens."""

    port: int
    keeper_pid: int
    password: str = field(default="", repr=False)

    def url(self, database: str) -> str:
        """The URL of a database, with the password."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"


def running(folder: Path) -> Server | None:
    """The server that a live keeper of this folder keeps and reports ready; None when there is none."""
    if not _is_locked(folder):
        return None
    try:
        state = json.loads((folder / "keeper.json").read_text())
        server = Server(state["port"], state["keeper_pid"], read_password(folder))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None  # starting, or stopping
    # What a killed keeper left behind says nothing about the one that holds the lock now.
    return server if server.keeper_pid == _keeper_pid(folder) and is_alive(server.keeper_pid) else None


def ensure(folder: Path, port: int) -> Server:
    """The running server of this folder; started by a keeper in the background when none runs.

    A server that already runs keeps its own port. Raises RecsysError with the keeper's last words when no
    server answers within START_S.
    """
    folder = folder.absolute()  # the keeper works elsewhere
    server = running(folder)
    if server is not None:
        return server
    call = [sys.executable, "-m", __name__, "--dir", str(folder), "--port", str(port), "--detach"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd="/")  # noqa: S603 - our own module
    server = running(folder)
    if done.returncode != 0 or server is None:
        raise DatabaseAwayError(done.stderr.strip() or f"the embedded Postgres of {folder} did not start")
    return server


def stop(folder: Path) -> bool:
    """End the keeper and the server of this folder and wait for it; whether anything was running."""
    found = False
    pid = _keeper_pid(folder)
    if pid is not None and is_alive(pid):
        found = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not ends(pid, STOP_S + 10):
            raise RecsysError(f"the keeper of {folder} (process {pid}) does not end; see {folder / 'keeper.log'}")
    home = Home.of(folder)
    if home.postmaster() is not None:  # its keeper was killed
        found = True
        stop_server(home)
    return found


# --- the keeper


def keep(folder: Path, port: int) -> None:
    """Run the server until SIGTERM or SIGINT. Returns at once when another keeper has the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder) as mine:
        if not mine:
            log.info("another keeper keeps %s", folder)
            return
        stop_requested = False

        def ask(*_: Any) -> None:
            nonlocal stop_requested
            stop_requested = True

        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)
        home = Home.of(folder)
        state = folder / "keeper.json"
        state.unlink(missing_ok=True)  # that of a killed keeper
        has_run, pause_s = False, _LOOK_S
        try:
            home.prepare()
            while not stop_requested:
                try:
                    _see_that_it_runs(home, port, state)
                    for log_file in (home.log_file, folder / "keeper.log"):
                        rotate(log_file)
                    has_run, pause_s = True, _LOOK_S
                except RecsysError as error:
                    if not has_run:
                        raise
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    log.error("%s; trying again in %.1f s", error, pause_s)  # clients wait for it to come back
                time.sleep(pause_s)
        finally:
            state.unlink(missing_ok=True)
            stop_server(home)


def _see_that_it_runs(home: Home, port: int, state: Path) -> None:
    if home.postmaster(port) is None:
        state.unlink(missing_ok=True)
        start_server(home, port)
    if not state.exists():
        create_databases(home, port)
        part = state.with_suffix(".part")
        part.write_text(json.dumps({"port": port, "keeper_pid": os.getpid()}))
        part.replace(state)
        log.info("Postgres listens on 127.0.0.1:%d", port)


# --- who keeps what


@contextlib.contextmanager
def _lock(folder: Path, patience_s: float = 3.0) -> Iterator[bool]:
    """Hold the keeper's lock of a folder; False when another keeper has it."""
    with (folder / "keeper.lock").open("a+") as file:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:  # somebody who only looks has it for an instant
                    yield False
                    return
                time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield True


def _is_locked(folder: Path) -> bool:
    try:
        with (folder / "keeper.lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _keeper_pid(folder: Path) -> int | None:
    if not _is_locked(folder):
        return None
    with contextlib.suppress(OSError, ValueError):
        return int((folder / "keeper.lock").read_text())
    return None


def _detach(folder: Path, port: int) -> None:
    """Start a keeper in the background and wait for its server; RecsysError with the keeper's last words."""
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / "keeper.log"
    offset = log_file.stat().st_size if log_file.exists() else 0
    pid = os.fork()
    if pid == 0:
        os.setsid()
        null, output = os.open(os.devnull, os.O_RDONLY), open_log(log_file)
        for target, descriptor in ((0, null), (1, output.fileno()), (2, output.fileno())):
            os.dup2(descriptor, target)
        os.execv(  # noqa: S606 - our own module
            sys.executable, [sys.executable, "-m", "recsys.storage.embedded", "--dir", str(folder), "--port", str(port)]
        )
    deadline = time.monotonic() + START_S + 10
    ended = False
    while running(folder) is None:
        ended = ended or os.waitpid(pid, os.WNOHANG)[0] == pid
        if time.monotonic() > deadline or (ended and not _is_locked(folder)):
            tail = log_file.read_bytes()[offset:].decode(errors="replace").strip()
            raise RecsysError(tail or f"no keeper of {folder} got ready in {START_S:.0f} s; see {log_file}")
        time.sleep(0.1)
    server = running(folder)
    if server is not None and server.keeper_pid != pid and not ended:
        # Somebody else's keeper was faster. Ours is still on its way: after a stop it would start the server again.
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recsys.storage.embedded", description=__doc__)
    parser.add_argument(
        "--dir", type=Path, help="where data and state are; postgres/ under RECSYS_LOCAL_DIR if not given"
    )
    parser.add_argument("--port", type=int, help="PG_PORT if not given")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--detach", action="store_true", help="start in the background and return when it answers")
    what.add_argument("--stop", action="store_true", help="end keeper and server")
    what.add_argument("--url", metavar="DATABASE", help="print the URL of a database of the running server")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        folder = (arguments.dir or settings.load().local_dir / "postgres").absolute()
        port = arguments.port or settings.load().pg_port
        if arguments.stop:
            print(f"Stopped: Postgres of {folder}." if stop(folder) else f"Nothing was running in {folder}.")
        elif arguments.detach:
            _detach(folder, port)
        elif arguments.url:
            server = running(folder)
            if server is None:
                raise NotFoundError(f"no embedded Postgres runs in {folder}; start one with --detach")
            print(server.url(arguments.url))
        else:
            keep(folder, port)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RecsysError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
