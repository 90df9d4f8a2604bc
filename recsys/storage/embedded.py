"""The embedded Postgres: a keeper process that starts the server, watches over it and stops it cleanly.

`python -m recsys.storage.embedded` stays in the foreground until SIGTERM; `--detach` starts a keeper in the
background and returns when the server answers; `--stop` ends keeper and server, whatever state they are in.
While a keeper lives it holds a lock on `keeper.lock` (which the kernel releases if it is killed), and
`keeper.json` says where the server listens. A keeper that finds its server running adopts it, and one whose
server died starts it again, however often that takes. It also keeps the logs short.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from recsys import processes, settings
from recsys.errors import DatabaseAwayError, InputError, NotFoundError, RecsysError
from recsys.storage.embedded_server import (
    STOP_S,
    Home,
    create_databases,
    read_password,
    start_server,
    stop_server,
)

log = logging.getLogger(__name__)

START_S: Final = 90.0  # a first start runs initdb, which is slow on a busy machine
_LOCK, _STATE, _LOG = "keeper.lock", "keeper.json", "keeper.log"


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
    try:
        state = json.loads((folder / _STATE).read_text())
        server = Server(state["port"], state["keeper_pid"], read_password(folder))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None  # starting, or stopping
    # What a killed keeper left behind says nothing about the one that holds the lock now.
    return server if server.keeper_pid == processes.holder(folder / _LOCK) else None


def ensure(folder: Path, port: int) -> Server:
    """The running server of this folder; started by a keeper in the background when none runs.

    A server that already runs keeps its own port. Raises RecsysError with the keeper's last words when no
    server answers within START_S.
    """
    folder = folder.absolute()  # the keeper works elsewhere
    server = running(folder)
    if server is not None:
        return server
    log.info("starting Postgres in %s; the first start creates the database and takes up to a minute", folder)
    call = [sys.executable, "-m", __name__, "--dir", str(folder), "--port", str(port), "--detach"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd="/")  # noqa: S603 - our own module
    server = running(folder)
    if done.returncode != 0 or server is None:
        raise DatabaseAwayError(done.stderr.strip() or f"the embedded Postgres of {folder} did not start")
    return server


def stop(folder: Path) -> bool:
    """End the keeper and the server of this folder and wait for it; whether anything was running."""
    is_kept = processes.end_holder(folder / _LOCK, STOP_S + 10)
    home = Home.of(folder)
    is_left = home.postmaster() is not None  # its keeper was killed
    stop_server(home)
    return is_kept or is_left


# --- the keeper


def keep(folder: Path, port: int) -> None:
    """Run the server until SIGTERM or SIGINT. Returns at once when another keeper has the folder."""
    home, state = Home.of(folder), folder / _STATE
    with processes.hold(folder / _LOCK) as is_ours:
        if not is_ours:
            log.info("another keeper keeps %s", folder)
            return
        state.unlink(missing_ok=True)  # that of a killed keeper
        try:
            processes.keep_up(lambda: _see_that_it_runs(home, port, state), [home.log_file, folder / _LOG])
        finally:
            state.unlink(missing_ok=True)
            stop_server(home)


def _see_that_it_runs(home: Home, port: int, state: Path) -> None:
    if home.postmaster(port) is None:
        state.unlink(missing_ok=True)
    if state.exists():
        return
    home.prepare()
    if home.postmaster(port) is None:
        start_server(home, port)
    create_databases(home, port)
    part = state.with_suffix(".part")
    part.write_text(json.dumps({"port": port, "keeper_pid": os.getpid()}))
    part.replace(state)
    log.info("Postgres listens on 127.0.0.1:%d", port)


def _detach(folder: Path, port: int) -> None:
    """Start a keeper in the background and wait for its server; RecsysError with the keeper's last words."""
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / _LOG
    offset = log_file.stat().st_size if log_file.exists() else 0
    call = [sys.executable, "-m", "recsys.storage.embedded", "--dir", str(folder), "--port", str(port)]
    keeper, deadline = processes.start(call, log_file), time.monotonic() + START_S + 10
    while (server := running(folder)) is None:
        is_kept = keeper.poll() is None or processes.holder(folder / _LOCK) is not None
        if not is_kept or time.monotonic() > deadline:
            tail = log_file.read_bytes()[offset:].decode(errors="replace").strip()
            raise RecsysError(tail or f"no keeper of {folder} got ready in {START_S:.0f} s; see {log_file}")
        time.sleep(0.1)
    if server.keeper_pid != keeper.pid:
        # Somebody else's keeper was faster. Ours is still on its way: after a stop it would start the server again.
        keeper.terminate()
        keeper.wait()


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
