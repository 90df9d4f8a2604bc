"""Lists of what users did, and an index of all events but views, so that what somebody bought is found at once."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KINDS = "'default', 'personal', 'ranked', 'i2i', 'similar'"


def upgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql("ALTER TABLE list_versions DROP CONSTRAINT ck_list_versions_kind")
    connection.exec_driver_sql(
        f"ALTER TABLE list_versions ADD CONSTRAINT ck_list_versions_kind CHECK (kind in ({_KINDS}, 'history'))"
    )
    connection.exec_driver_sql(
        "CREATE INDEX ix_events_user_id_event_type ON events (user_id, event_type) WHERE event_type <> 'view'"
    )


def downgrade() -> None:
    """Histories that are there stay; there will be no new ones."""
    connection = op.get_bind()
    connection.exec_driver_sql("DROP INDEX ix_events_user_id_event_type")
    connection.exec_driver_sql("ALTER TABLE list_versions DROP CONSTRAINT ck_list_versions_kind")
    connection.exec_driver_sql(
        f"ALTER TABLE list_versions ADD CONSTRAINT ck_list_versions_kind CHECK (kind in ({_KINDS})) NOT VALID"
    )
