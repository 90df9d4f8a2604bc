"""The migrations make exactly the tables that the code names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from recsys.storage import raw_tables, tables
from recsys.storage.engine import engine_of, migrate
from tests.conftest import execute, sibling
from tests.integration.serving_shop import wait_until

COLUMNS = """
    select table_schema, table_name, column_name, data_type, udt_name, is_nullable, column_default, identity_generation
    from information_schema.columns
    where table_schema in ('public', 'raw') and table_name <> 'alembic_version' order by 1, 2, 3
"""
CONSTRAINTS = """
    select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
    where connamespace in ('public'::regnamespace, 'raw'::regnamespace)
      and conrelid::regclass::text <> 'alembic_version' order by 1, 2
"""
INDEXES = """
    select indexdef from pg_indexes
    where schemaname in ('public', 'raw') and tablename <> 'alembic_version' order by 1
"""
PARTITIONED = "select partrelid::regclass::text, pg_get_partkeydef(partrelid) from pg_partitioned_table"


def schema(engine: sa.Engine) -> list[list[tuple[object, ...]]]:
    with engine.connect() as connection:
        return [
            sorted((tuple(row) for row in connection.execute(sa.text(query))), key=str)
            for query in (COLUMNS, CONSTRAINTS, INDEXES, PARTITIONED)
        ]


@contextmanager
def declared(server: str) -> Iterator[sa.Engine]:
    """A database made from the code's tables, without migrations."""
    name = "declared_by_the_code"
    execute(server, f"drop database if exists {name} with (force)", f"create database {name}")
    engine = engine_of(sibling(server, name))
    try:
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema("raw"))
            connection.execute(sa.text("create function log_number() returns bigint language sql return 0"))
            raw_tables.metadata.create_all(connection)
            tables.metadata.create_all(connection)
        yield engine
    finally:
        engine.dispose()
        execute(server, f"drop database {name} with (force)")


def test_the_migrated_schema_is_the_one_in_the_code(postgres_server: str, database: sa.Engine) -> None:
    with declared(postgres_server) as expected:
        for found, wanted in zip(schema(database), schema(expected), strict=True):
            assert found == wanted
            assert found


def test_migrating_again_changes_nothing(database: sa.Engine) -> None:
    before = schema(database)
    migrate(database)
    assert schema(database) == before
    with database.connect() as connection:
        pointers = connection.execute(sa.select(tables.publication_pointer)).all()
    assert [(row.publication_id, row.fence) for row in pointers] == [(None, 0)]


@contextmanager
def empty(server: str) -> Iterator[str]:
    """URL of a database without tables."""
    name = "without_tables"
    execute(server, f"drop database if exists {name} with (force)", f"create database {name}")
    try:
        yield sibling(server, name)
    finally:
        execute(server, f"drop database {name} with (force)")


def run(url: str, *arguments: str) -> tuple[int, str]:
    """Exit status and words of a command."""
    call = [sys.executable, "-m", "recsys.cli", *arguments]
    done = subprocess.run(call, env=os.environ | {"DATABASE_URL": url}, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("publications", "list"),
        ("keys", "list"),
        ("updater",),
        ("relay", "--once"),
        ("archive", "nowhere"),
        ("prepare-dataset",),
        ("publish",),
    ],
    ids=" ".join,
)
def test_no_command_but_one_makes_tables(postgres_server: str, arguments: tuple[str, ...]) -> None:
    with empty(postgres_server) as url:
        status, words = run(url, *arguments)
        assert (status, "run `recsys migrate`" in words, "Traceback" in words) == (2, True, False)
        engine = engine_of(url)
        assert sa.inspect(engine).get_table_names() == []
        engine.dispose()


def test_an_import_says_so_too_and_the_one_command_makes_them(postgres_server: str, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,at\n1,2,2026-01-01\n")
    options = [f"-o{name}={column}" for name, column in (("user", "user"), ("item", "item"), ("timestamp", "at"))]
    with empty(postgres_server) as url:
        status, words = run(url, "import", "table", str(tmp_path / "events.csv"), *options)
        assert (status, "run `recsys migrate`" in words) == (2, True)
        assert run(url, "migrate")[0] == 0
        assert run(url, "publications", "list")[0] == 0


@pytest.mark.parametrize("revision", ["0010", "0001", "9999_of_the_future"])
def test_tables_of_another_time_are_refused_in_words(clean_database_url: str, revision: str) -> None:
    execute(clean_database_url, f"update alembic_version set version_num = '{revision}'")
    for command in (("migrate",), ("publications", "list")):
        status, words = run(clean_database_url, *command)
        assert (status, "Traceback" in words) == (2, False)
        assert f"revision {revision}" in words
        assert "newer release" in words


def test_who_waits_for_a_lock_holds_nobody_up(clean_database_url: str, clean_database: sa.Engine) -> None:
    """A migration that cannot have a lock gives way to readers and writers that came after it."""
    execute(clean_database_url, "update server_identity set identity = 'another server'")
    with ThreadPoolExecutor(1) as pool, clean_database.connect() as other, clean_database.connect() as third:
        with other.begin():
            other.execute(sa.text("lock table events in row exclusive mode"))  # as a long append has it
            migrated = pool.submit(migrate, clean_database)
            waits = "select count(*) from pg_locks where not granted and relation = 'events'::regclass"
            for _ in range(2):  # it waits, gives up, waits again
                wait_until(lambda: _scalar(third, waits) == 1, 20)
                with clean_database.begin() as writer:
                    writer.execute(sa.text("lock table events in row exclusive mode"))
                assert not migrated.done()
        migrated.result(timeout=60)
        assert _scalar(third, "select epoch from server_identity") == 1


def _scalar(connection: sa.Connection, query: str) -> object:
    with connection.begin():
        return connection.execute(sa.text(query)).scalar_one()
