"""The event log: an order that readers can follow, where Kafka has an event, how far relay and archive are."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE events
        ADD COLUMN xid XID8 DEFAULT pg_current_xact_id() NOT NULL,
        ADD COLUMN kafka_partition INTEGER,
        ADD COLUMN kafka_offset BIGINT,
        DROP CONSTRAINT uq_events_position
    """,
    "CREATE UNIQUE INDEX ix_events_xid_position ON events (xid, position)",
    # A conflict that is posted again is the same conflict.
    "ALTER TABLE event_quarantine ADD COLUMN digest BYTEA",
    "CREATE UNIQUE INDEX ix_event_quarantine_event_id_digest ON event_quarantine (event_id, digest)",
    """
    CREATE TABLE log_offsets (
        reader TEXT NOT NULL,
        "after" TEXT NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_log_offsets PRIMARY KEY (reader)
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for statement in (
        "DROP TABLE log_offsets",
        "DROP INDEX ix_event_quarantine_event_id_digest",
        "ALTER TABLE event_quarantine DROP COLUMN digest",
        """
        ALTER TABLE events
            DROP COLUMN xid, DROP COLUMN kafka_partition, DROP COLUMN kafka_offset,
            ADD CONSTRAINT uq_events_position UNIQUE (position)
        """,
    ):
        op.get_bind().exec_driver_sql(statement)
