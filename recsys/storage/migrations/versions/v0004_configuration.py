"""Versions of the serving configuration: rows are added and never changed, the newest one holds."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE config_versions (
        config_id BIGINT GENERATED ALWAYS AS IDENTITY,
        config JSONB NOT NULL,
        comment TEXT DEFAULT '' NOT NULL,
        author TEXT DEFAULT '' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_config_versions PRIMARY KEY (config_id)
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP TABLE config_versions")
