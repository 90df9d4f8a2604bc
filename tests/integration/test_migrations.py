"""The migrations make exactly the tables that the code names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from recsys.storage import raw_tables, tables
from recsys.storage.engine import engine_of, migrate
from tests.conftest import execute, sibling

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
            [tuple(row) for row in connection.execute(sa.text(query))]
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
