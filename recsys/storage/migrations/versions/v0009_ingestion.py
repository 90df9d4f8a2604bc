"""Imports say how far they are complete; rows of recent events say what they were made with."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE raw.imports ADD COLUMN complete_until TIMESTAMP WITH TIME ZONE",
    # Rows of before count as made with other types, so that they are computed anew once.
    """
    ALTER TABLE user_recent
        ADD COLUMN bought_types TEXT[] DEFAULT '{}' NOT NULL,
        ADD COLUMN has_unknown BOOLEAN DEFAULT true NOT NULL
    """,
    "ALTER TABLE user_recent ALTER COLUMN has_unknown SET DEFAULT false",
    # Room for the next version of a row beside it: then the index stays as it is.
    "ALTER TABLE user_recent SET (fillfactor = 70)",
    "DROP INDEX ix_events_session_id_occurred_at",
    "CREATE INDEX ix_events_session_id_occurred_at ON events (session_id, occurred_at) WHERE session_id IS NOT NULL",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for statement in (
        "ALTER TABLE raw.imports DROP COLUMN complete_until",
        "DROP INDEX ix_events_session_id_occurred_at",
        "CREATE INDEX ix_events_session_id_occurred_at ON events (session_id, occurred_at)",
        "ALTER TABLE user_recent RESET (fillfactor)",
        "ALTER TABLE user_recent DROP COLUMN bought_types, DROP COLUMN has_unknown",
    ):
        op.get_bind().exec_driver_sql(statement)
