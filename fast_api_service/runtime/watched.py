"""The state of other processes in Postgres, for the metrics of each worker."""

from __future__ import annotations

import datetime as dt
from typing import Final, NamedTuple

import asyncpg

_COUNTED: Final = 100_000  # of the quarantine; more is reported as one more
_SQL: Final = f"""
select heartbeat_at, wanted = 'running', state = 'failed',
       (select count(*) from (select from event_quarantine limit {_COUNTED + 1}) kept),
       (select count(*) from pg_stat_activity where backend_type = 'client backend'),
       current_setting('max_connections')::integer
from training_state
"""  # noqa: S608 - a constant


class Watched(NamedTuple):
    """One sample."""

    heartbeat_at: dt.datetime | None  # last heartbeat of the updater, by the clock of Postgres; None: never
    is_wanted: bool  # the updater should run
    has_given_up: bool  # it failed too often and is not restarted
    n_quarantined: int
    n_connections: int  # of all clients to all databases of the server
    max_connections: int


async def look(connection: asyncpg.Connection) -> Watched:
    """The current sample. Raises asyncpg's errors."""
    return Watched(*await connection.fetchrow(_SQL))
