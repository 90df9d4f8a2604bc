"""All tables outside schema `raw`: keys, lists, publications, runs. The migrations create them; these name them."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import UserDefinedType

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# What an owner of a list is, by kind of list.
LIST_KINDS: Final = {
    "default": "category_key, or 0 for the list of all items",
    "personal": "user_key",
    "ranked": "user_key",
    "i2i": "item_key",
    "similar": "item_key",
    "history": "user_key",
}
ALL_ITEMS_OWNER: Final = 0  # the owner of the default list over all categories

_now = sa.text("now()")
_empty_object = sa.text("'{}'::jsonb")


def _created_at() -> sa.Column[object]:
    return sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_now)


class XID8(UserDefinedType[object]):
    """Postgres' number of a transaction, which is never used twice."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "XID8"


def _told_at() -> sa.Column[object]:
    """When the row was last written through the API; from then on the nightly preparation leaves it alone."""
    return sa.Column("told_at", sa.DateTime(timezone=True))


def _deleted_at() -> sa.Column[object]:
    """When the thing was deleted, for ever: its key and its id are not used again."""
    return sa.Column("deleted_at", sa.DateTime(timezone=True))


def _changed_xid() -> sa.Column[object]:
    """The transaction that changed the row last (a trigger keeps it): what a service has not seen yet is read by it."""
    return sa.Column("changed_xid", XID8, nullable=False, server_default=sa.text("pg_current_xact_id()"), index=True)


# --- keys: external ids ↔ the integers that everything inside speaks in

id_types = sa.Table(
    "id_types",
    metadata,
    sa.Column("entity", sa.Text, primary_key=True),  # user, item or category
    sa.Column("json_type", sa.Text, nullable=False),  # the JSON type of its external ids
    sa.CheckConstraint("entity in ('user', 'item', 'category')", name="entity"),
    sa.CheckConstraint("json_type in ('integer', 'string')", name="json_type"),
)

categories = sa.Table(
    "categories",
    metadata,
    sa.Column("category_key", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("category_id", sa.Text, nullable=False, unique=True),
    sa.Column("parent_category_key", sa.Integer),
    _told_at(),
    _deleted_at(),
    _changed_xid(),
)

items = sa.Table(
    "items",
    metadata,
    sa.Column("item_key", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("item_id", sa.Text, nullable=False, unique=True),
    sa.Column("category_key", sa.Integer),
    sa.Column("available", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("title", sa.Text),
    sa.Column("properties", JSONB, nullable=False, server_default=_empty_object),
    sa.Column("first_seen_at", sa.DateTime(timezone=True)),
    _told_at(),
    _deleted_at(),
    _changed_xid(),
    sa.CheckConstraint("item_key >= 0", name="item_key"),  # the service's arrays are indexed by it
    sa.CheckConstraint("jsonb_typeof(properties) = 'object'", name="properties"),
)

# What rows that are gone cannot say themselves: counted by triggers, and read with every look at the catalogue.
catalogue_epoch = sa.Table(
    "catalogue_epoch",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column(
        "emptied", sa.BigInteger, nullable=False, server_default=sa.text("0")
    ),  # TRUNCATE: keys are given anew after it
    sa.Column(
        "deleted", sa.BigInteger, nullable=False, server_default=sa.text("0")
    ),  # DELETE: other keys stay what they are
    sa.CheckConstraint("singleton", name="singleton"),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_key", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Text, unique=True),  # null: erased
    sa.Column("first_seen_at", sa.DateTime(timezone=True)),
    sa.Column("properties", JSONB, nullable=False, server_default=_empty_object),
    _told_at(),
    sa.CheckConstraint("jsonb_typeof(properties) = 'object'", name="properties"),
)

# Who has been erased and must not come back with the next import. Not tied to the key that the user had.
erased_users = sa.Table(
    "erased_users",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),  # SHA-256 of the id
    sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.CheckConstraint("length(digest) = 32", name="digest"),
)

# Sessions that they had: what a guest was shown there, and is still in some worker's memory, is not written any more.
erased_sessions = sa.Table(
    "erased_sessions",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),  # SHA-256 of the id
    sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.CheckConstraint("length(digest) = 32", name="digest"),
)

# --- lists: one row per owner, one partition per version

list_versions = sa.Table(
    "list_versions",
    metadata,
    sa.Column("list_version_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),  # artifact reference
    sa.Column("made_by", sa.Text, nullable=False),  # the step
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("n_rows", sa.BigInteger),
    sa.Column("n_items", sa.BigInteger),  # distinct items in all its lists
    sa.Column("item_keys", ARRAY(sa.Integer)),  # those items, ascending
    sa.Column("sources", ARRAY(sa.Text), nullable=False),  # names that `lists.sources` indexes
    sa.Column("checks", JSONB, nullable=False, server_default=_empty_object),  # what the writer counted
    sa.Column("meta", JSONB, nullable=False, server_default=_empty_object),
    _created_at(),
    sa.UniqueConstraint("kind", "version"),
    sa.CheckConstraint("status in ('writing', 'complete')", name="status"),
    sa.CheckConstraint("kind in ('default', 'personal', 'ranked', 'i2i', 'similar', 'history')", name="kind"),
)

lists = sa.Table(
    "lists",
    metadata,
    sa.Column("list_version_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("owner_key", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("item_keys", ARRAY(sa.Integer), nullable=False),  # best first
    sa.Column("scores", ARRAY(sa.REAL), nullable=False),  # descending
    sa.Column("sources", ARRAY(sa.SmallInteger), nullable=False),  # positions in list_versions.sources
    postgresql_partition_by="LIST (list_version_id)",
)

# --- publications: what readers see is what the one pointer points to

publications = sa.Table(
    "publications",
    metadata,
    sa.Column("publication_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _created_at(),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("manifest", JSONB, nullable=False),  # kind → list_version_id
    sa.Column("models", JSONB, nullable=False, server_default=_empty_object),  # name → artifact reference
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("checks", JSONB, nullable=False, server_default=_empty_object),
    # published: may serve; withdrawn: rolled back from; pruned: its lists are gone
    sa.CheckConstraint("status in ('published', 'withdrawn', 'pruned')", name="status"),
)

publication_pointer = sa.Table(
    "publication_pointer",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("publication_id", sa.BigInteger, sa.ForeignKey("publications.publication_id")),  # null: none yet
    sa.Column("fence", sa.BigInteger, nullable=False),  # the newest fence taken
    sa.Column("moved_at", sa.DateTime(timezone=True)),
    sa.CheckConstraint("singleton", name="singleton"),
)

# --- how steps find each other's results: the newest succeeded row of a step for a data set

training_runs = sa.Table(
    "training_runs",
    metadata,
    sa.Column("run_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("artifact", sa.Text),
    sa.Column("purpose", sa.Text, nullable=False, server_default="serving"),
    sa.Column("as_of", sa.DateTime(timezone=True)),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("metrics", JSONB, nullable=False, server_default=_empty_object),
    sa.Column("mlflow_run_id", sa.Text),
    _created_at(),
    sa.Index("ix_training_runs_step_dataset", "step", "dataset"),
    sa.CheckConstraint("status in ('succeeded', 'refused', 'failed')", name="status"),
)

# --- online: what clients post, and what the service reads of it

# On which server the tables are. Numbers of transactions are a server's own: after a move (a restored dump, a logical
# copy) the next epoch begins with the first event, or with `recsys migrate`. The functions of the first migration:
# server_moved() says that one is due, adopt_server() begins it, log_number() is the number of an event.
server_identity = sa.Table(
    "server_identity",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("identity", sa.Text, nullable=False),  # this_server(): system identifier and timeline; 'unknown'
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.CheckConstraint("singleton", name="singleton"),
    sa.CheckConstraint("epoch >= 0 and epoch < 524288", name="epoch"),
)

# The log: rows are added and their content never changes. `position` grows as rows are inserted, not as they are
# committed; readers follow (epoch_xid, position) up to the oldest transaction that still adds
# (recsys.online.postgres_log).
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
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("label", sa.REAL),
    sa.Column("parameters", JSONB, nullable=False, server_default=_empty_object),
    sa.Column("features", JSONB, nullable=False, server_default=_empty_object),
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
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("digest", sa.LargeBinary),  # SHA-256 of the payload: the same conflict is kept once
    sa.Index("ix_event_quarantine_event_id_digest", "event_id", "digest", unique=True),
)

# How far those readers of the log are that keep nothing else in Postgres.
log_offsets = sa.Table(
    "log_offsets",
    metadata,
    sa.Column("reader", sa.Text, primary_key=True),
    sa.Column("after", sa.Text, nullable=False),  # recsys.online.log.Offset
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
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
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
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
    sa.Column("metrics", JSONB, nullable=False, server_default=_empty_object),
    _created_at(),
    sa.Index("ix_model_updates_base_number", "base", "number", postgresql_where=sa.text("is_base")),
    sa.CheckConstraint("is_base or parent is not null", name="parent"),
)

training_logs = sa.Table(
    "training_logs",
    metadata,
    sa.Column("log_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("stream", sa.Text, nullable=False),  # updater, supervisor
    sa.Column("line", sa.Text, nullable=False),
    sa.Column("logged_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
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
    _created_at(),
    sa.Column("revoked_at", sa.DateTime(timezone=True)),
    sa.Column("expires_at", sa.DateTime(timezone=True)),  # null: never
    sa.CheckConstraint(
        "scopes <@ array['recommend', 'events', 'catalogue', 'users', 'metrics', 'admin'] and cardinality(scopes) > 0",
        name="scopes",
    ),
    sa.CheckConstraint("rate_per_s > 0", name="rate_per_s"),
)

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

# --- how the service answers: rows are added and never changed, the newest one holds

config_versions = sa.Table(
    "config_versions",
    metadata,
    sa.Column("config_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("config", JSONB, nullable=False),  # recsys.serving.config.ServingConfig, without its defaults
    sa.Column("comment", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("author", sa.Text, nullable=False, server_default=sa.text("''")),  # the key_id that put it
    _created_at(),
)
