"""The demo's own look into the database that it runs on."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from recsys.storage.engine import engine_of


def one_row(database_url: str, query: sa.TextClause) -> sa.Row[Any] | None:
    """The only row that a query finds; None where it finds none."""
    engine = engine_of(database_url)
    try:
        with engine.connect() as connection:
            return connection.execute(query).one_or_none()
    finally:
        engine.dispose()
