"""The exposure log: what was shown to whom, one row an answer."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE predictions (
        prediction_id BIGINT GENERATED ALWAYS AS IDENTITY,
        shown_at TIMESTAMP WITH TIME ZONE NOT NULL,
        request_id TEXT NOT NULL,
        user_id TEXT,
        session_id TEXT,
        route TEXT NOT NULL,
        surface TEXT NOT NULL,
        tier TEXT NOT NULL,
        publication_id BIGINT NOT NULL,
        list_version TEXT,
        rescored_by TEXT,
        config_id BIGINT,
        item_keys INTEGER[] NOT NULL,
        sources TEXT[] NOT NULL,
        duration_ms REAL NOT NULL,
        degraded TEXT[] NOT NULL,
        CONSTRAINT pk_predictions PRIMARY KEY (prediction_id)
    )
    """,
    "CREATE INDEX ix_predictions_shown_at ON predictions (shown_at)",
    "CREATE INDEX ix_predictions_user_id_shown_at ON predictions (user_id, shown_at)",
    "CREATE INDEX ix_predictions_session_id_shown_at ON predictions (session_id, shown_at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP TABLE predictions")
