"""Keys: external ids ↔ the integers that everything inside speaks in."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import UserDefinedType

from recsys.storage.tables.base import empty_object, metadata, now


class XID8(UserDefinedType[object]):
    """Postgres' number of a transaction, which is never used twice."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "XID8"


def _posted_at() -> sa.Column[object]:
    """When the row was last written through the API; from then on the nightly preparation leaves it alone."""
    return sa.Column("told_at", sa.DateTime(timezone=True))


def _deleted_at() -> sa.Column[object]:
    """When the thing was deleted, for ever: its key and its id are not used again."""
    return sa.Column("deleted_at", sa.DateTime(timezone=True))


def _changed_xid() -> sa.Column[object]:
    """The transaction that changed the row last (a trigger keeps it): what a service has not seen yet is read by it."""
    return sa.Column("changed_xid", XID8, nullable=False, server_default=sa.text("pg_current_xact_id()"), index=True)


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
    _posted_at(),
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
    sa.Column("properties", JSONB, nullable=False, server_default=empty_object),
    sa.Column("first_seen_at", sa.DateTime(timezone=True)),
    _posted_at(),
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
    # the greatest key that a removed row had: it is not given again
    *(
        sa.Column(f"last_{key}", sa.Integer, nullable=False, server_default=sa.text("0"))
        for key in ("item_key", "category_key", "user_key")
    ),
    sa.CheckConstraint("singleton", name="singleton"),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_key", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Text, unique=True),  # null: erased
    sa.Column("first_seen_at", sa.DateTime(timezone=True)),
    sa.Column("properties", JSONB, nullable=False, server_default=empty_object),
    _posted_at(),
    sa.CheckConstraint("jsonb_typeof(properties) = 'object'", name="properties"),
)


def _erased(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("digest", sa.LargeBinary, primary_key=True),  # SHA-256 of the id
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.CheckConstraint("length(digest) = 32", name="digest"),
    )


# Who has been erased and must not come back with the next import. Not tied to the key that the user had.
erased_users = _erased("erased_users")

# Sessions that they had: what a guest was shown there, and is still in some worker's memory, is not written any more.
erased_sessions = _erased("erased_sessions")
