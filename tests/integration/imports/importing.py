"""What the tests of imports share."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from recsys.storage import raw_tables as raw

MAP = {"user": "user_id", "item": "item_id", "timestamp": "ts"}
TYPED = MAP | {"event": "event"}
FOUR = "view:1,wishlist:2,addtocart:3,transaction:5"


def rows(engine: sa.Engine, table: sa.Table) -> list[tuple[object, ...]]:
    """All rows of a table."""
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(table))]


def write(path: Path, *lines: str, header: str = "user_id,item_id,ts") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines, ""]))
    return path


def events(engine: sa.Engine) -> list[tuple[object, ...]]:
    """User and item of each, in the order of loading."""
    return [(row[2], row[4]) for row in sorted(rows(engine, raw.events))]


def properties(engine: sa.Engine) -> list[tuple[object, ...]]:
    return [row[:4] for row in rows(engine, raw.item_properties)]


def dump(engine: sa.Engine) -> dict[str, list[tuple[object, ...]]]:
    """All raw tables and the record of imports."""
    return {table.name: sorted(rows(engine, table), key=repr) for table in raw.metadata.sorted_tables}
