"""Alembic's entry: runs the migrations on the connection that `recsys.storage.engine.migrate` hands over."""

from __future__ import annotations

from alembic import context

from recsys.storage import raw_tables
from recsys.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=[metadata, raw_tables.metadata] if raw_tables.metadata is not metadata else metadata,
    transactional_ddl=True,
    transaction_per_migration=True,  # what is done stays done where the next one has to wait for a lock
)
with context.begin_transaction():
    context.run_migrations()
