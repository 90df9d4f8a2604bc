"""What the service keeps: posted events, what users did of late, what was shown, configuration, API keys."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE events (
        event_id TEXT NOT NULL,
        position BIGINT GENERATED ALWAYS AS IDENTITY,
        user_id TEXT,
        session_id TEXT,
        item_id TEXT NOT NULL,
        event_type TEXT NOT NULL,
        occurred_at TIMESTAMP WITH TIME ZONE NOT NULL,
        received_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        label REAL,
        parameters JSONB DEFAULT '{}'::jsonb NOT NULL,
        features JSONB DEFAULT '{}'::jsonb NOT NULL,
        version TEXT,
        digest BYTEA NOT NULL,
        CONSTRAINT pk_events PRIMARY KEY (event_id),
        CONSTRAINT uq_events_position UNIQUE (position),
        CONSTRAINT ck_events_owner CHECK (user_id is not null or session_id is not null)
    )
    """,
    "CREATE INDEX ix_events_user_id_occurred_at ON events (user_id, occurred_at)",
    "CREATE INDEX ix_events_session_id_occurred_at ON events (session_id, occurred_at)",
    """
    CREATE TABLE event_quarantine (
        quarantine_id BIGINT GENERATED ALWAYS AS IDENTITY,
        event_id TEXT,
        user_id TEXT,
        reason TEXT NOT NULL,
        payload JSONB NOT NULL,
        received_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_event_quarantine PRIMARY KEY (quarantine_id)
    )
    """,
    """
    CREATE TABLE user_recent (
        owner TEXT NOT NULL,
        item_keys INTEGER[] NOT NULL,
        event_types TEXT[] NOT NULL,
        occurred_ms BIGINT[] NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_user_recent PRIMARY KEY (owner)
    )
    """,
    """
    CREATE TABLE api_keys (
        key_id TEXT NOT NULL,
        name TEXT NOT NULL,
        digest BYTEA NOT NULL,
        scopes TEXT[] NOT NULL,
        rate_per_s REAL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        revoked_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_api_keys PRIMARY KEY (key_id),
        CONSTRAINT ck_api_keys_scopes CHECK (scopes <@ array['read', 'write', 'admin'] and cardinality(scopes) > 0),
        CONSTRAINT ck_api_keys_rate_per_s CHECK (rate_per_s > 0)
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for table in ("api_keys", "user_recent", "event_quarantine", "events"):
        op.get_bind().exec_driver_sql(f"DROP TABLE {table}")
