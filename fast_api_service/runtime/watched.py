"""What Postgres knows of the processes around it, for the metrics of each worker."""

from __future__ import annotations

import datetime as dt
from typing import Final, NamedTuple

import asyncpg

_COUNTED: Final = 100_000  # of the quarantine; more is told as one more
_SQL: Final = f"""
select heartbeat_at, wanted = 'running', state = 'failed',
       (select count(*) from (select from event_quarantine limit {_COUNTED + 1}) kept),
       (select count(*) from pg_stat_activity where backend_type = 'client backend'),
       current_setting('max_connections')::integer
from training_state
"""  # noqa: S608 - a number of ours


class Watched(NamedTuple):
    """One look."""

    heartbeat_at: dt.datetime | None  # when the updater last gave a sign of life, by Postgres' clock; None: never
    is_wanted: bool  # the updater is asked to learn
    has_given_up: bool  # … and nobody starts it again
    n_quarantined: int
    n_connections: int  # of everybody, to all databases of the server
    max_connections: int


async def look(connection: asyncpg.Connection) -> Watched:
    """What it is now; asyncpg's errors pass through."""
    return Watched(*await connection.fetchrow(_SQL))
