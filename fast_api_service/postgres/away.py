"""The errors that mean that Postgres is unavailable, and their messages."""

from __future__ import annotations

import asyncpg

from recsys.events.connections import LOST

NO_TABLES = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
AWAY = (*LOST, asyncpg.PostgresError)


class DatabaseAwayError(Exception):
    """Postgres did not answer, or not in time."""


def in_words(error: Exception) -> str:
    """The error as text, with a hint where the tables are of another version."""
    hint = "; the database is older than this service: run `recsys migrate`" if isinstance(error, NO_TABLES) else ""
    return f"{type(error).__name__}: {error}{hint}"
