"""The catalogue by API: what was told and deleted, which rows changed since when, who has been erased."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE items
        ADD COLUMN told_at TIMESTAMP WITH TIME ZONE,
        ADD COLUMN deleted_at TIMESTAMP WITH TIME ZONE,
        ADD COLUMN changed_xid XID8 DEFAULT pg_current_xact_id() NOT NULL
    """,
    """
    ALTER TABLE categories
        ADD COLUMN told_at TIMESTAMP WITH TIME ZONE,
        ADD COLUMN deleted_at TIMESTAMP WITH TIME ZONE,
        ADD COLUMN changed_xid XID8 DEFAULT pg_current_xact_id() NOT NULL
    """,
    "ALTER TABLE users ADD COLUMN told_at TIMESTAMP WITH TIME ZONE, ALTER COLUMN user_id DROP NOT NULL",
    "CREATE INDEX ix_items_changed_xid ON items (changed_xid)",
    "CREATE INDEX ix_categories_changed_xid ON categories (changed_xid)",
    """
    CREATE TABLE erased_users (
        digest BYTEA NOT NULL,
        erased_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_erased_users PRIMARY KEY (digest),
        CONSTRAINT ck_erased_users_digest CHECK (length(digest) = 32)
    )
    """,
    # Whoever changes a row, by API, by the nightly preparation or by hand: it is stamped with the transaction, and
    # the services hear of it when the transaction is committed.
    """
    CREATE FUNCTION stamp_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.changed_xid := pg_current_xact_id();
        RETURN NEW;
    END $$
    """,
    """
    CREATE FUNCTION tell_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('recsys_catalogue', '');
        RETURN NULL;
    END $$
    """,
    *(
        statement
        for table in ("items", "categories")
        for statement in (
            f"""
            CREATE TRIGGER {table}_stamp BEFORE UPDATE ON {table}
            FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION stamp_change()
            """,
            f"""
            CREATE TRIGGER {table}_tell AFTER INSERT OR UPDATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION tell_change()
            """,
        )
    ),
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    raise NotImplementedError("erased users cannot be given their ids back, and deleted items would come back")
