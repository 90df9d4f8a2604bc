"""An index of all events but views, by user and type: what somebody bought is found however much he looked at."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        "CREATE INDEX ix_events_user_id_event_type ON events (user_id, event_type) WHERE event_type <> 'view'"
    )


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP INDEX ix_events_user_id_event_type")
