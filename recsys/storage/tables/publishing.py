"""Lists (a row for each owner, a partition for each version), publications, and the record of runs."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from recsys.storage.tables.base import created_at, empty_object, metadata

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
    sa.Column("checks", JSONB, nullable=False, server_default=empty_object),  # what the writer counted
    sa.Column("meta", JSONB, nullable=False, server_default=empty_object),
    created_at(),
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
    created_at(),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("manifest", JSONB, nullable=False),  # kind → list_version_id
    sa.Column("models", JSONB, nullable=False, server_default=empty_object),  # name → artifact reference
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("checks", JSONB, nullable=False, server_default=empty_object),
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
    sa.Column("metrics", JSONB, nullable=False, server_default=empty_object),
    sa.Column("mlflow_run_id", sa.Text),
    created_at(),
    sa.Index("ix_training_runs_step_dataset", "step", "dataset"),
    sa.CheckConstraint("status in ('succeeded', 'refused', 'failed')", name="status"),
)
