"""Real Postgres for every test that asks: one server a worker, one migrated database a module or a test.

RECSYS_TEST_DATABASE_URL names a server to use instead of the embedded one; its user must be allowed to create
databases. Databases are copies of a migrated template, named after what asked for them, and dropped at the end.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg2
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.kafka_broker import Broker

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")

# No test asserts absolute times, and the machine may be busy; all else as it is by default, or by default in CI.
settings.register_profile("recsys", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("recsys")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_FOLDERS = "recsys-test-"


def open_temporary_folder() -> Path:
    """A new temporary folder that other users may enter (the embedded server does not run as root).

    Whoever asks for it removes it; what is left of it, and a server there, ends with the tests.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDERS}{os.getpid()}-"))
    folder.chmod(0o755)
    return folder


def pytest_configure() -> None:
    """SIGTERM, as `timeout` sends it, ends the tests as Ctrl-C does: what they have started ends with them."""
    with suppress(ValueError):  # not the main thread of a worker
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_sessionstart() -> None:
    """Remove what tests have left that were killed."""
    remove_folders(of_this_process=False)


@pytest.hookimpl(trylast=True)  # after the fixtures have ended what they began
def pytest_sessionfinish() -> None:
    remove_folders(of_this_process=True)


def remove_folders(*, of_this_process: bool) -> None:
    """End the servers in temporary folders of this process, or of those that are no more, and remove the folders."""
    from recsys.storage import embedded

    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*-*"):
        pid = int(found[1]) if (found := re.match(rf"{_FOLDERS}([0-9]+)-", folder.name)) else None
        if pid is not None and (pid == os.getpid() if of_this_process else not psutil.pid_exists(pid)):
            embedded.stop(folder)
            shutil.rmtree(folder, ignore_errors=True)


def execute(url: str, *statements: str) -> None:
    """Run statements outside of a transaction."""
    with closing(psycopg2.connect(url, connect_timeout=10)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@pytest.fixture(autouse=True)
def settings_anew() -> Iterator[None]:
    """Settings are read once a process: each test has those of its own environment."""
    from recsys.settings import load

    load.cache_clear()
    yield
    load.cache_clear()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of the maintenance database of a server that lives as long as the tests."""
    if url := os.environ.get("RECSYS_TEST_DATABASE_URL"):
        yield url
        return
    with new_server() as url:
        execute(url, "alter system set fsync = off", "alter system set synchronous_commit = off")
        execute(url, "select pg_reload_conf()")
        yield url


@contextmanager
def new_server() -> Iterator[str]:
    """URL of the maintenance database of an embedded server in a folder of its own, which is gone on leaving."""
    from recsys.storage import embedded
    from recsys.storage.embedded_server import STOP_S

    folder = open_temporary_folder()
    call = [sys.executable, "-m", "recsys.storage.embedded", "--dir", str(folder), "--port", str(free_port())]
    with (folder / "keeper.log").open("ab") as output:
        keeper = subprocess.Popen(call, stderr=output)
    try:
        deadline = time.monotonic() + embedded.START_S
        while (server := embedded.running(folder)) is None:
            assert keeper.poll() is None, (folder / "keeper.log").read_text()
            assert time.monotonic() < deadline, "the embedded Postgres was not ready in time"
            time.sleep(0.1)
        yield server.url("postgres")
    finally:
        keeper.terminate()
        keeper.wait(STOP_S)
        shutil.rmtree(folder, ignore_errors=True)


def sibling(url: str, database: str) -> str:
    """The URL of another database of the same server."""
    return sa.make_url(url).set(database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> Iterator[str]:
    """Name of a migrated database that others are copied from."""
    from recsys.storage.engine import engine_of, migrate

    name = f"recsys_template_{WORKER}_{os.getpid()}"
    execute(postgres_server, f'create database "{name}"')
    engine = engine_of(sibling(postgres_server, name))
    migrate(engine)
    engine.dispose()
    yield name
    execute(postgres_server, f'drop database if exists "{name}" with (force)')


@contextmanager
def database_named(server: str, template: str, owner: str) -> Iterator[str]:
    """URL of a new copy of the template, named after who asked for it; dropped on leaving."""
    name = re.sub(r"[^a-z0-9]+", "_", owner.lower()).strip("_")[-40:] + f"_{WORKER}_{os.getpid()}"
    execute(server, f'drop database if exists "{name}" with (force)', f'create database "{name}" template "{template}"')
    try:
        yield sibling(server, name)
    finally:
        execute(server, f'drop database if exists "{name}" with (force)')


@contextmanager
def _engine(url: str) -> Iterator[sa.Engine]:
    from recsys.storage.engine import engine_of

    engine = engine_of(url)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def database_url(postgres_server: str, template_database: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a fresh migrated database that the tests of one module share."""
    with database_named(postgres_server, template_database, request.node.name.removesuffix(".py")) as url:
        yield url


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[sa.Engine]:
    """Engine on a fresh migrated database that the tests of one module share."""
    with _engine(database_url) as engine:
        yield engine


@pytest.fixture
def clean_database_url(postgres_server: str, template_database: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a fresh migrated database for one test alone."""
    with database_named(postgres_server, template_database, request.node.name) as url:
        yield url


@pytest.fixture
def clean_database(clean_database_url: str) -> Iterator[sa.Engine]:
    """Engine on a fresh migrated database for one test alone."""
    with _engine(clean_database_url) as engine:
        yield engine


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A real Kafka broker that lives as long as the tests; each test makes a topic of its own."""
    from tests.kafka_broker import Broker

    made = Broker()
    try:
        made.start()
        yield made
    finally:
        made.close()
