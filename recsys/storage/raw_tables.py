"""Raw tables as the sources give them (schema `raw`), and the record of what has been loaded into them.

Column names are RetailRocket's; every source is brought to them (see `recsys.data.sources`). The data tables
carry no index but the events' key: they are filled by COPY and read in whole by the preparation.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = sa.MetaData(schema="raw")

imports = sa.Table(
    "imports",
    metadata,
    sa.Column("import_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("options", JSONB, nullable=False),
    # what the source declares about its data
    sa.Column("user_id_type", sa.Text, nullable=False),
    sa.Column("item_id_type", sa.Text, nullable=False),
    sa.Column("category_id_type", sa.Text, nullable=False),
    sa.Column("event_weights", JSONB, nullable=False),  # event type → weight
    sa.Column("label_event_types", ARRAY(sa.Text), nullable=False),
    sa.Column("bought_event_types", ARRAY(sa.Text), nullable=False),
    # before it the imports hold all events of the types that occur in them: posted ones of that time do not count
    sa.Column("complete_until", sa.DateTime(timezone=True)),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("completed_at", sa.DateTime(timezone=True)),
    sa.CheckConstraint("status IN ('loading', 'complete')", name="imports_status"),
    sa.CheckConstraint("user_id_type IN ('integer', 'string')", name="imports_user_id_type"),
    sa.CheckConstraint("item_id_type IN ('integer', 'string')", name="imports_item_id_type"),
    sa.CheckConstraint("category_id_type IN ('integer', 'string')", name="imports_category_id_type"),
)

import_files = sa.Table(
    "import_files",
    metadata,
    sa.Column("import_id", sa.BigInteger, sa.ForeignKey(imports.c.import_id, ondelete="CASCADE"), primary_key=True),
    sa.Column("stream", sa.Text, primary_key=True),  # events, item_properties, user_properties, category_tree
    sa.Column("file", sa.Text, primary_key=True),  # name relative to the imported path
    sa.Column("sha256", sa.Text, nullable=False),  # of its content, unpacked
    sa.Column("position", sa.BigInteger, nullable=False, server_default="0"),  # records of the file that are dealt with
    sa.Column("n_loaded", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("n_rejected", sa.BigInteger, nullable=False, server_default="0"),  # in the quarantine file
    sa.Column("reasons", JSONB, nullable=False, server_default="{}"),  # reason → count of rejected rows
    sa.Column("left_out", JSONB, nullable=False, server_default="{}"),  # reason → count of rows left out on purpose
    sa.Column("complete", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("file_id", sa.BigInteger, sa.Identity(always=True), nullable=False),  # ascending as files were begun
)


def _file() -> sa.Column[int]:
    """The file in `import_files` that a row is from; null for rows that no import brought."""
    return sa.Column("file_id", sa.BigInteger)


events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.BigInteger, sa.Identity(always=False), primary_key=True),  # ascending in the source's order
    sa.Column("timestamp", sa.BigInteger, nullable=False),  # milliseconds since the epoch, UTC
    sa.Column("visitorid", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("itemid", sa.Text, nullable=False),
    sa.Column("transactionid", sa.Text),
    sa.Column("value", sa.Double),  # price paid, rating given
    _file(),
)

item_properties = sa.Table(
    "item_properties",
    metadata,
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("itemid", sa.Text, nullable=False),
    sa.Column("property", sa.Text, nullable=False),
    sa.Column("value", sa.Text),
    _file(),
)

user_properties = sa.Table(
    "user_properties",
    metadata,
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("visitorid", sa.Text, nullable=False),
    sa.Column("property", sa.Text, nullable=False),
    sa.Column("value", sa.Text),
    _file(),
)

category_tree = sa.Table(
    "category_tree",
    metadata,
    sa.Column("categoryid", sa.Text, nullable=False),
    sa.Column("parentid", sa.Text),  # null: a root
    _file(),
)
