"""The updater, who may call the service, and how it answers."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from recsys.storage.tables.base import created_at, empty_object, metadata, now

# --- the updater: one works, and says here how it goes

training_state = sa.Table(
    "training_state",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("wanted", sa.Text, nullable=False, server_default="running"),  # what people ask for
    sa.Column("state", sa.Text, nullable=False, server_default="stopped"),  # what is
    sa.Column("reason", sa.Text, nullable=False, server_default=sa.text("''")),  # why it is so
    # the lease: who holds it raised the fence, and whoever writes with an older one is refused
    sa.Column("fence", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("holder", sa.Text),  # null: nobody
    sa.Column("heartbeat_at", sa.DateTime(timezone=True)),
    sa.Column("supervisor", sa.Text),  # the process that starts updaters and watches over them
    sa.Column("supervisor_at", sa.DateTime(timezone=True)),
    sa.Column("restarts", sa.Integer, nullable=False, server_default=sa.text("0")),  # after failures, in a row
    sa.Column("max_restarts", sa.Integer, nullable=False, server_default=sa.text("10")),
    sa.Column("backoff_s", sa.REAL, nullable=False, server_default=sa.text("1")),  # doubles with each restart
    sa.Column(
        "watchdog_s", sa.REAL, nullable=False, server_default=sa.text("60")
    ),  # an older heartbeat is a hung one's
    sa.Column("n_rollbacks", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("rolled_back_at", sa.DateTime(timezone=True)),
    sa.Column("rollback_reason", sa.Text),
    sa.CheckConstraint("singleton", name="singleton"),
    sa.CheckConstraint("wanted in ('running', 'stopped')", name="wanted"),
    sa.CheckConstraint("state in ('stopped', 'starting', 'waiting', 'running', 'failed')", name="state"),
    sa.CheckConstraint("max_restarts >= 0 and backoff_s >= 0 and watchdog_s > 0", name="policy"),
)

# Weights, state of the optimizer (both in the artifact) and the offset in the log are committed by one row.
model_updates = sa.Table(
    "model_updates",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),  # without gaps
    sa.Column("base", sa.Text, nullable=False),  # the nightly model that it changes
    sa.Column("is_base", sa.Boolean, nullable=False),  # holds all changes since the nightly model
    sa.Column("artifact", sa.Text, nullable=False),
    sa.Column("parent", sa.Text),  # chain of the update before; null: begins anew
    sa.Column("chain", sa.Text, nullable=False),  # recsys.serving.update.chained
    sa.Column("log", sa.Text, nullable=False),  # EventLog.name
    sa.Column("after", sa.Text, nullable=False),  # events up to this offset are in
    sa.Column("n_events", sa.Integer, nullable=False),  # read since the update before
    sa.Column("newest_at", sa.DateTime(timezone=True)),  # no event up to `after` occurred later
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, server_default=sa.text("''")),  # why a base was made
    sa.Column("metrics", JSONB, nullable=False, server_default=empty_object),
    created_at(),
    sa.Index("ix_model_updates_base_number", "base", "number", postgresql_where=sa.text("is_base")),
    sa.CheckConstraint("is_base or parent is not null", name="parent"),
)

training_logs = sa.Table(
    "training_logs",
    metadata,
    sa.Column("log_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("stream", sa.Text, nullable=False),  # updater, supervisor
    sa.Column("line", sa.Text, nullable=False),
    sa.Column("logged_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
    sa.Index("ix_training_logs_stream_log_id", "stream", "log_id"),
)

# --- who may call the service

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),  # the public part of the key
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),  # SHA-256 of the secret part, 32 random bytes
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    sa.Column("rate_per_s", sa.REAL),  # requests; null: the service's default
    created_at(),
    sa.Column("revoked_at", sa.DateTime(timezone=True)),
    sa.Column("expires_at", sa.DateTime(timezone=True)),  # null: never
    sa.CheckConstraint(
        "scopes <@ array['recommend', 'events', 'catalogue', 'users', 'metrics', 'admin'] and cardinality(scopes) > 0",
        name="scopes",
    ),
    sa.CheckConstraint("rate_per_s > 0", name="rate_per_s"),
)

# --- how the service answers: rows are added and never changed, the newest one holds

config_versions = sa.Table(
    "config_versions",
    metadata,
    sa.Column("config_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("config", JSONB, nullable=False),  # recsys.serving.config.ServingConfig, without its defaults
    sa.Column("comment", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("author", sa.Text, nullable=False, server_default=sa.text("''")),  # the key_id that put it
    created_at(),
)
