"""Tables that are partitioned by month: partitions made ahead, and let go of when all in them is old.

The default partition takes rows that no month holds yet, so that none is ever refused; they move when their month is
made.
"""

from __future__ import annotations

import datetime as dt
from typing import Final, NamedTuple

import sqlalchemy as sa

MONTHS_AHEAD: Final = 2
_LOCK_MS: Final = 300  # readers and writers wait behind a lock that waits, so it gives up early
_BOUNDS = sa.text(
    """
    select c.relname as name,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''([^'']+)''\\)'))[1]::timestamptz as since,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \\(''([^'']+)''\\)'))[1]::timestamptz as until,
           pg_total_relation_size(c.oid) as n_bytes, greatest(c.reltuples, 0)::bigint as n_rows
    from pg_inherits join pg_class c on c.oid = inhrelid
    where inhparent = cast(:table as regclass) order by 2
    """
)


class Month(NamedTuple):
    """A partition; `n_rows` is Postgres' estimate."""

    name: str
    since: dt.datetime
    until: dt.datetime
    n_bytes: int
    n_rows: int


def months_of(connection: sa.Connection, table: sa.Table) -> list[Month]:
    """The months that a table has partitions for, oldest first."""
    found = connection.execute(_BOUNDS, {"table": table.name})
    return [Month(**row) for row in found.mappings() if row["until"] is not None]


def make_ahead(connection: sa.Connection, table: sa.Table, column: str, now: dt.datetime) -> list[str]:
    """Make the partitions of this month and of `MONTHS_AHEAD` after it that are missing; their names.

    Rows of such a month that stand in the default partition move into it.
    """
    there = {month.name for month in months_of(connection, table)}
    first = now.astimezone(dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    made = []
    for _ in range(MONTHS_AHEAD + 1):
        until = (first + dt.timedelta(days=32)).replace(day=1)
        name = f"{table.name}_{first:%Y_%m}"
        if name not in there:
            _make(connection, table.name, name, column, first, until)
            made.append(name)
        first = until
    return made


def _make(
    connection: sa.Connection, table: str, name: str, column: str, since: dt.datetime, until: dt.datetime
) -> None:
    """All names are the code's own."""
    say = connection.exec_driver_sql
    say(f"set local lock_timeout = '{_LOCK_MS}ms'")
    say(f"create table {name} (like {table} including defaults including constraints including storage)")
    say(f"lock table {table}_rest in share row exclusive mode")
    span = {"since": since, "until": until}
    moved = f"delete from {table}_rest where {column} >= :since and {column} < :until returning *"  # noqa: S608 - ours
    connection.execute(sa.text(f"with moved as ({moved}) insert into {name} select * from moved"), span)  # noqa: S608
    say(f"alter table {table} attach partition {name} for values from ('{since:%Y-%m-%d %H:%M:%SZ}') "
        f"to ('{until:%Y-%m-%d %H:%M:%SZ}')")  # fmt: skip


def drop(connection: sa.Connection, month: Month) -> None:
    """Let go of a month and all in it, at once; an OperationalError where somebody holds the table too long."""
    connection.exec_driver_sql(f"set local lock_timeout = '{_LOCK_MS}ms'")
    connection.exec_driver_sql(f"drop table {month.name}")
