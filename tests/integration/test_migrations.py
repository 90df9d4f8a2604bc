"""The migrations make exactly the tables that the code names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from recsys.storage import raw_tables, tables
from recsys.storage.engine import migrate


def test_the_migrated_schema_is_the_one_in_the_code(database: sa.Engine) -> None:
    declared = sa.MetaData()
    for metadata in (tables.metadata, raw_tables.metadata):
        for table in metadata.tables.values():
            table.to_metadata(declared)
    with database.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_schemas": True, "compare_type": True, "compare_server_default": False}
        )
        assert [diff for diff in compare_metadata(context, declared) if "alembic_version" not in str(diff)] == []


def test_migrating_again_changes_nothing(database: sa.Engine) -> None:
    migrate(database)
    with database.connect() as connection:
        pointers = connection.execute(sa.select(tables.publication_pointer)).all()
    assert [(row.publication_id, row.fence) for row in pointers] == [(None, 0)]
