"""The updater: its state, what it has made of the models, its log."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE training_state (
        singleton BOOLEAN DEFAULT true NOT NULL,
        wanted TEXT DEFAULT 'running' NOT NULL,
        state TEXT DEFAULT 'stopped' NOT NULL,
        reason TEXT DEFAULT '' NOT NULL,
        fence BIGINT DEFAULT 0 NOT NULL,
        holder TEXT,
        heartbeat_at TIMESTAMP WITH TIME ZONE,
        supervisor TEXT,
        supervisor_at TIMESTAMP WITH TIME ZONE,
        restarts INTEGER DEFAULT 0 NOT NULL,
        max_restarts INTEGER DEFAULT 10 NOT NULL,
        backoff_s REAL DEFAULT 1 NOT NULL,
        watchdog_s REAL DEFAULT 60 NOT NULL,
        n_rollbacks INTEGER DEFAULT 0 NOT NULL,
        rolled_back_at TIMESTAMP WITH TIME ZONE,
        rollback_reason TEXT,
        CONSTRAINT pk_training_state PRIMARY KEY (singleton),
        CONSTRAINT ck_training_state_singleton CHECK (singleton),
        CONSTRAINT ck_training_state_wanted CHECK (wanted in ('running', 'stopped')),
        CONSTRAINT ck_training_state_state
            CHECK (state in ('stopped', 'starting', 'waiting', 'running', 'failed')),
        CONSTRAINT ck_training_state_policy
            CHECK (max_restarts >= 0 and backoff_s >= 0 and watchdog_s > 0)
    )
    """,
    "INSERT INTO training_state DEFAULT VALUES",
    """
    CREATE TABLE model_updates (
        number BIGINT NOT NULL,
        base TEXT NOT NULL,
        is_base BOOLEAN NOT NULL,
        artifact TEXT NOT NULL,
        parent TEXT,
        chain TEXT NOT NULL,
        log TEXT NOT NULL,
        "after" TEXT NOT NULL,
        n_events INTEGER NOT NULL,
        newest_at TIMESTAMP WITH TIME ZONE,
        fence BIGINT NOT NULL,
        reason TEXT DEFAULT '' NOT NULL,
        metrics JSONB DEFAULT '{}'::jsonb NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_model_updates PRIMARY KEY (number),
        CONSTRAINT ck_model_updates_parent CHECK (is_base or parent is not null)
    )
    """,
    "CREATE INDEX ix_model_updates_base_number ON model_updates (base, number) WHERE is_base",
    """
    CREATE TABLE training_logs (
        log_id BIGINT GENERATED ALWAYS AS IDENTITY,
        stream TEXT NOT NULL,
        line TEXT NOT NULL,
        logged_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_training_logs PRIMARY KEY (log_id)
    )
    """,
    "CREATE INDEX ix_training_logs_stream_log_id ON training_logs (stream, log_id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for table in ("training_logs", "model_updates", "training_state"):
        op.get_bind().exec_driver_sql(f"DROP TABLE {table}")
