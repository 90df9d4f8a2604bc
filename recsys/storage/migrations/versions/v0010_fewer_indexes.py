"""Events lose an index that every insert paid for, and that only rows computed anew read."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql("DROP INDEX ix_events_user_id_event_type")


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "CREATE INDEX ix_events_user_id_event_type ON events (user_id, event_type) WHERE event_type <> 'view'"
    )
