"""The embedded server's keeper: starts, is found, survives kills, stops, with real processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest

from recsys.errors import RecsysError
from recsys.storage import embedded
from recsys.storage.embedded_server import DATABASES
from tests.conftest import free_port, open_temporary_folder

pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = open_temporary_folder()
    yield folder
    embedded.stop(folder)
    shutil.rmtree(folder)


def ask(server: embedded.Server, statement: str, database: str = "recsys") -> object:
    with closing(psycopg2.connect(server.url(database))) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def postmaster(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "data" / "postmaster.pid").read_text().splitlines()[0]))


def alive(process: psutil.Process) -> bool:
    """Whether it runs: what has ended may stay as a zombie where nobody waits for it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: object, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_start_find_stop_and_start_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "recsys")
    assert embedded.running(folder) is None
    assert embedded.stop(folder) is False
    port = free_port()
    server = embedded.ensure(folder, port)
    assert server.port == port
    assert embedded.running(folder) == server == embedded.ensure(folder, free_port())
    assert caplog.text.count(f"starting Postgres in {folder}") == 1, "said when it is started, not when it runs"
    assert {ask(server, "select current_database()", name) for name in DATABASES} == set(DATABASES)
    ask(server, "create table kept as select 7 as n")
    keeper, server_process = psutil.Process(server.keeper_pid), postmaster(folder)
    assert os.getpgid(keeper.pid) != os.getpgid(0)  # it outlives whoever started it
    assert {c.laddr.ip for c in server_process.net_connections() if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert embedded.stop(folder) is True
    assert not alive(keeper)
    assert not alive(server_process)
    assert embedded.running(folder) is None
    assert ask(embedded.ensure(folder, port), "select n from kept") == 7


def refused(server: embedded.Server, password: str) -> bool:
    try:
        ask(embedded.Server(server.port, server.keeper_pid, password), "select 1")
    except psycopg2.OperationalError as error:
        return "password" in str(error)
    return False


def test_nobody_gets_in_without_the_password(folder: Path) -> None:
    server = embedded.ensure(folder, free_port())
    path = folder / "secrets" / "postgres"
    assert (server.password, path.stat().st_mode & 0o777) == (path.read_text(), 0o600)
    assert refused(server, "")
    assert refused(server, "postgres")
    assert server.password not in repr(server)
    assert {file.stat().st_mode & 0o077 for file in (folder / "server.log", folder / "keeper.log")} == {0}


def test_a_server_that_trusted_everybody_gets_a_password_and_keeps_its_data(folder: Path) -> None:
    server = embedded.ensure(folder, free_port())
    ask(server, "create table kept as select 7 as n")
    rules = folder / "data" / "pg_hba.conf"
    rules.write_text("host all all 127.0.0.1/32 trust\n")
    ask(server, "alter role postgres password null")
    os.kill(server.keeper_pid, signal.SIGKILL)  # the server goes on, as one of an earlier version does
    wait_until(lambda: embedded.running(folder) is None)
    (folder / "secrets" / "postgres").unlink()
    again = embedded.ensure(folder, server.port)
    assert again.password not in ("", server.password)
    assert refused(again, "")
    assert refused(again, server.password)
    assert ask(again, "select n from kept") == 7


def test_a_refused_row_costs_one_line_of_the_log_without_its_values(folder: Path) -> None:
    server = embedded.ensure(folder, free_port())
    ask(server, "create table once (id text primary key)")
    insert = "insert into once values ('somebody@example.org')"
    ask(server, insert)
    for _ in range(3):
        with pytest.raises(psycopg2.errors.UniqueViolation):
            ask(server, insert)
    logged = (folder / "server.log").read_text()
    assert logged.count("duplicate key") == 3
    assert "somebody" not in logged


def test_many_who_need_it_at_once_get_one_server(folder: Path) -> None:
    port = free_port()
    with ThreadPoolExecutor(4) as pool:
        servers = list(pool.map(lambda _: embedded.ensure(folder, port), range(4)))
    assert len(set(servers)) == 1
    keepers = [p.pid for p in psutil.process_iter() if str(folder) in _command(p)]
    assert keepers == [servers[0].keeper_pid], "a keeper that came late would start the server again after a stop"


def test_a_killed_keepers_server_goes_on_and_is_adopted(folder: Path) -> None:
    port = free_port()
    first = embedded.ensure(folder, port)
    process = postmaster(folder)
    with closing(psycopg2.connect(first.url("recsys"))) as connection, connection.cursor() as cursor:
        os.kill(first.keeper_pid, signal.SIGKILL)
        wait_until(lambda: embedded.running(folder) is None)
        second = embedded.ensure(folder, port)
        assert second.keeper_pid != first.keeper_pid
        assert postmaster(folder) == process
        cursor.execute("select 1")  # nobody noticed
    assert embedded.stop(folder)
    assert not alive(process)


def test_stop_ends_the_server_of_a_killed_keeper(folder: Path) -> None:
    server = embedded.ensure(folder, free_port())
    process = postmaster(folder)
    os.kill(server.keeper_pid, signal.SIGKILL)
    wait_until(lambda: embedded.running(folder) is None)
    assert embedded.stop(folder) is True
    assert not alive(process)


def test_keeper_and_server_killed_together_come_back(folder: Path) -> None:
    port = free_port()
    server = embedded.ensure(folder, port)
    ask(server, "create table kept as select 7 as n")
    os.kill(server.keeper_pid, signal.SIGKILL)
    postmaster(folder).kill()
    wait_until(lambda: embedded.running(folder) is None)
    assert ask(embedded.ensure(folder, port), "select n from kept") == 7


def test_a_killed_server_is_started_again_by_its_keeper(folder: Path) -> None:
    server = embedded.ensure(folder, free_port())
    process = postmaster(folder)
    process.kill()
    wait_until(lambda: not alive(process))
    wait_until(lambda: embedded.running(folder) is not None and postmaster(folder) != process)
    assert ask(embedded.ensure(folder, server.port), "select 1") == 1


def test_a_keeper_whose_port_was_taken_meanwhile_gets_its_server_back_when_it_is_free(folder: Path) -> None:
    server = embedded.ensure(folder, free_port())
    keeper, log_file = psutil.Process(server.keeper_pid), folder / "server.log"
    process = postmaster(folder)
    keeper.suspend()
    try:
        process.kill()
        wait_until(lambda: not alive(process))
        stranger = socket.socket()
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", server.port))
        stranger.listen()
    finally:
        keeper.resume()
    with stranger:
        wait_until(lambda: log_file.read_text().count("Address already in use") > 1)
        assert embedded.running(folder) is None
    wait_until(lambda: embedded.running(folder) == server)
    assert ask(server, "select 1") == 1


def test_a_server_starts_only_once_what_a_killed_one_left_has_ended(folder: Path) -> None:
    server = embedded.ensure(folder, free_port())
    with closing(psycopg2.connect(server.url("recsys"))) as connection:
        left = psutil.Process(connection.info.backend_pid)
        left.suspend()
        try:
            postmaster(folder).kill()
            wait_until(lambda: "still in use" in (folder / "server.log").read_text())
            assert embedded.running(folder) is None
        finally:
            left.resume()
    wait_until(lambda: embedded.running(folder) == server)
    assert ask(server, "select 1") == 1


def test_a_postmaster_pid_that_now_names_another_process_is_no_server(folder: Path) -> None:
    port = free_port()
    server = embedded.ensure(folder, port)
    os.kill(server.keeper_pid, signal.SIGKILL)
    process = postmaster(folder)
    process.kill()
    wait_until(lambda: not alive(process))
    pid_file = folder / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        assert ask(embedded.ensure(folder, port), "select 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_taken_port_is_an_error_that_names_it(folder: Path) -> None:
    other = open_temporary_folder()
    try:
        port = embedded.ensure(other, free_port()).port
        with pytest.raises(RecsysError, match=f"port {port} is taken, set PG_PORT"):
            embedded.ensure(folder, port)
        assert embedded.running(folder) is None
    finally:
        embedded.stop(other)
        shutil.rmtree(other)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that the server's user cannot enter")
def test_a_folder_that_only_root_can_enter(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    inside = closed / "postgres"
    try:
        server = embedded.ensure(inside, free_port())
        data = Path(str(ask(server, "show data_directory")))
        assert not data.is_relative_to(folder)
        assert embedded.ensure(inside, free_port()) == server
        assert closed.stat().st_mode & 0o077 == 0
    finally:
        assert embedded.stop(inside)
    shutil.rmtree(data.parent)


def test_the_command_line(folder: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "recsys.storage.embedded", "--dir", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    none = call("--url", "airflow")
    assert none.returncode == 1
    assert "no embedded Postgres runs" in none.stderr
    port = str(free_port())
    assert call("--port", port, "--detach").returncode == 0
    assert (
        call("--url", "airflow").stdout
        == embedded.Server(int(port), 0, (folder / "secrets" / "postgres").read_text()).url("airflow") + "\n"
    )
    assert call("--stop").returncode == 0
    assert embedded.running(folder) is None
