"""Online: what clients post, and what the service reads of it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from recsys.storage.tables.base import empty_object, metadata, now

# On which server the tables are. Numbers of transactions are a server's own: after a move (a restored dump, a logical
# copy) the next epoch begins with the first event, or with `recsys migrate`. The functions of the first migration:
# server_moved() says that one is due, adopt_server() begins it, log_number() is the number of an event.
server_identity = sa.Table(
    "server_identity",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("identity", sa.Text, nullable=False),  # this_server(): system identifier and timeline; 'unknown'
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=now),
    sa.CheckConstraint("singleton", name="singleton"),
    sa.CheckConstraint("epoch >= 0 and epoch < 524288", name="epoch"),
)

# The log: rows are added and their content never changes. `position` grows as rows are inserted, not as they are
# committed; readers follow (epoch_xid, position) up to the oldest transaction that still adds
# (recsys.events.postgres_log).
events = sa.Table(
    "events",
    metadata,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, sa.Identity(always=True), nullable=False),
    sa.Column("user_id", sa.Text),  # external ids: an event may come before its user or item is in the catalogue
    sa.Column("session_id", sa.Text),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
    sa.Column("label", sa.REAL),
    sa.Column("parameters", JSONB, nullable=False, server_default=empty_object),
    sa.Column("features", JSONB, nullable=False, server_default=empty_object),
    sa.Column("version", sa.Text),  # the client's own word for what made it send this
    sa.Column(
        "digest", sa.LargeBinary, nullable=False
    ),  # SHA-256 of the payload: the same id with another is a conflict
    # epoch · 2^44 + number of the transaction that added the row
    sa.Column("epoch_xid", sa.BigInteger, nullable=False, server_default=sa.text("log_number()")),
    sa.Column("kafka_partition", sa.Integer),  # where Kafka has it, if it is the log; null: not there yet
    sa.Column("kafka_offset", sa.BigInteger),
    sa.Index("ix_events_epoch_xid_position", "epoch_xid", "position", unique=True),
    sa.Index("ix_events_received_at", "received_at"),
    sa.Index("ix_events_user_id_occurred_at", "user_id", "occurred_at"),
    sa.Index(
        "ix_events_session_id_occurred_at",
        "session_id",
        "occurred_at",
        postgresql_where=sa.text("session_id is not null"),
    ),
    sa.CheckConstraint("user_id is not null or session_id is not null", name="owner"),
)

event_quarantine = sa.Table(
    "event_quarantine",
    metadata,
    sa.Column("quarantine_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("event_id", sa.Text),
    sa.Column("user_id", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("payload", JSONB, nullable=False),
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
    sa.Column("digest", sa.LargeBinary),  # SHA-256 of the payload: the same conflict is kept once
    sa.Index("ix_event_quarantine_event_id_digest", "event_id", "digest", unique=True),
)

# How far those readers of the log are that keep nothing else in Postgres.
log_offsets = sa.Table(
    "log_offsets",
    metadata,
    sa.Column("reader", sa.Text, primary_key=True),
    sa.Column("after", sa.Text, nullable=False),  # recsys.events.log.Offset
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
)

# The newest events of a user (owner user:ID) or of a guest's session (session:ID), newest first, of known items; then
# what was bought before those, an item once by type of event.
user_recent = sa.Table(
    "user_recent",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("item_keys", ARRAY(sa.Integer), nullable=False),
    sa.Column("event_types", ARRAY(sa.Text), nullable=False),
    sa.Column("occurred_ms", ARRAY(sa.BigInteger), nullable=False),  # milliseconds since the epoch
    # what the row was made with: types that counted as bought; whether some of the events were of unknown items
    sa.Column("bought_types", ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
    sa.Column("has_unknown", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
)

# What was shown, one row an answer: the exposure log. Rows are added and never changed, and go after some days, by
# months (see `recsys.storage.months`).
predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("prediction_id", sa.BigInteger, sa.Identity(always=True), nullable=False),
    sa.Column("shown_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),  # the X-Request-ID of the answer; a batch has one for all
    sa.Column("user_id", sa.Text),  # external ids, as in `events`; neither: shown to nobody in particular
    sa.Column("session_id", sa.Text),
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("surface", sa.Text, nullable=False),
    sa.Column("tier", sa.Text, nullable=False),  # the source of the first item
    sa.Column("publication_id", sa.BigInteger, nullable=False),  # its row names the models; 0: the catalogue alone
    sa.Column("list_version", sa.Text),  # of the list that answered; null: none did
    sa.Column("rescored_by", sa.Text),  # artifact of the model that ordered the items anew; null: none did
    sa.Column("config_id", sa.BigInteger),  # null: the route has no configuration
    sa.Column("item_keys", ARRAY(sa.Integer), nullable=False),  # best first
    sa.Column("sources", ARRAY(sa.Text), nullable=False),  # of each item
    sa.Column("duration_ms", sa.REAL, nullable=False),
    sa.Column("degraded", ARRAY(sa.Text), nullable=False),  # parts that were missing
    sa.PrimaryKeyConstraint("shown_at", "prediction_id"),
    sa.Index("ix_predictions_user_id_shown_at", "user_id", "shown_at"),
    sa.Index("ix_predictions_session_id_shown_at", "session_id", "shown_at"),
    postgresql_partition_by="RANGE (shown_at)",
)
sa.event.listen(predictions, "after_create", sa.DDL("CREATE TABLE predictions_rest PARTITION OF predictions DEFAULT"))

# What the settings of the newest night say of events, null where they leave it to the source; `event_meaning` is what
# holds: theirs over the source's.
event_settings = sa.Table(
    "event_settings",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("event_weights", JSONB(none_as_null=True)),  # those that the settings name
    sa.Column("bought_event_types", ARRAY(sa.Text)),
    sa.Column("hides_bought", sa.Boolean, nullable=False, server_default=sa.true()),  # the task is discovery
    sa.CheckConstraint("singleton", name="singleton"),
)
EVENT_MEANING = """
CREATE VIEW event_meaning AS
    SELECT i.event_weights || coalesce(s.event_weights, '{}') AS event_weights,
           coalesce(s.bought_event_types, i.bought_event_types) AS bought_event_types,
           coalesce(s.hides_bought, true) AS hides_bought
    FROM (
        SELECT event_weights, bought_event_types FROM raw.imports
        WHERE status = 'complete' ORDER BY import_id DESC LIMIT 1
    ) i LEFT JOIN event_settings s ON true
"""
sa.event.listen(event_settings, "after_create", sa.DDL(EVENT_MEANING))
