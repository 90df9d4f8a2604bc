"""What the tests of imports share."""

from __future__ import annotations

import sqlalchemy as sa


def rows(engine: sa.Engine, table: sa.Table) -> list[tuple[object, ...]]:
    """All rows of a table."""
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(table))]
