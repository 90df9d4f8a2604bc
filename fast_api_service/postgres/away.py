"""How it shows that Postgres is away, and what its users are told then."""

from __future__ import annotations

import asyncpg

from recsys.events.connections import LOST

NO_TABLES = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
AWAY = (*LOST, asyncpg.PostgresError)


class DatabaseAwayError(Exception):
    """Postgres did not answer, or not in time."""


def in_words(error: Exception) -> str:
    """What went wrong, and for tables of another version what to do."""
    hint = "; the database is older than this service: run `recsys migrate`" if isinstance(error, NO_TABLES) else ""
    return f"{type(error).__name__}: {error}{hint}"
