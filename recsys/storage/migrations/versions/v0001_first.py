"""The first schema: raw tables, keys, lists, publications, runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from recsys.storage import raw_tables
from recsys.storage.tables import metadata, publication_pointer

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    connection.execute(sa.schema.CreateSchema("raw", if_not_exists=True))
    raw_tables.metadata.create_all(connection)
    metadata.create_all(connection)
    connection.execute(sa.insert(publication_pointer).values(fence=0))


def downgrade() -> None:
    connection = op.get_bind()
    metadata.drop_all(connection)
    connection.execute(sa.schema.DropSchema("raw", cascade=True))
