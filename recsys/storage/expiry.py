"""Rows that nobody needs any more: answers shown long ago, contradictions of the log, guests who stay away."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import sqlalchemy as sa

from recsys.storage import months
from recsys.storage.engine import with_lock_patience
from recsys.storage.tables import event_quarantine, predictions, user_recent

_ROWS_AT_ONCE: Final = 20_000  # of one transaction: none holds back the vacuum for long
_PATIENCE_S: Final = 5.0  # with locks that others hold
GUEST: Final = "session:%"  # owners of `user_recent` that are sessions


class Expired(NamedTuple):
    """What goes, or would go; `n_bytes` where it is known."""

    n_rows: int
    n_bytes: int = 0


def exposures(engine: sa.Engine, now: dt.datetime, days: float, *, dry_run: bool = False) -> Expired:
    """Let go of the months in which everything was shown more than `days` ago, and make those to come.

    Of answers that stand in no month, as before the first housekeeping, those that are older go row by row.
    """
    before = now - dt.timedelta(days=days)
    with engine.connect() as connection:
        old = [month for month in months.months_of(connection, predictions) if month.until <= before]
    found = Expired(sum(month.n_rows for month in old), sum(month.n_bytes for month in old))
    if not dry_run:
        for month in old:
            _patiently(engine, partial(months.drop, month=month))
        _patiently(engine, lambda connection: months.make_ahead(connection, predictions, "shown_at", now))
    rest = sa.table("predictions_rest", sa.column("shown_at"))
    n_rest = _rows(engine, rest, rest.c.shown_at < before, dry_run=dry_run)
    return found._replace(n_rows=found.n_rows + n_rest)


def quarantine(engine: sa.Engine, now: dt.datetime, days: float, *, dry_run: bool = False) -> Expired:
    """Let go of posted events that contradicted others, received more than `days` ago."""
    old = event_quarantine.c.received_at < now - dt.timedelta(days=days)
    return Expired(_rows(engine, event_quarantine, old, dry_run=dry_run))


def guests(engine: sa.Engine, now: dt.datetime, days: float, *, dry_run: bool = False) -> Expired:
    """Let go of the recent events of sessions in which nothing has happened for `days`."""
    idle = user_recent.c.owner.like(GUEST) & (user_recent.c.updated_at < now - dt.timedelta(days=days))
    return Expired(_rows(engine, user_recent, idle, dry_run=dry_run))


def _rows(engine: sa.Engine, table: sa.FromClause, old: sa.ColumnElement[bool], *, dry_run: bool) -> int:
    """How many rows of a table are old; they are deleted, some at a time, unless `dry_run`."""
    if dry_run:
        with engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(old)).scalar_one())
    ctid: sa.ColumnElement[str] = sa.literal_column("ctid")
    n_deleted = 0
    while True:
        some = sa.select(ctid).select_from(table).where(old).limit(_ROWS_AT_ONCE)
        with engine.begin() as connection:
            n = connection.execute(sa.delete(table).where(ctid.in_(some))).rowcount  # type: ignore[arg-type]
        n_deleted += n
        if n < _ROWS_AT_ONCE:
            return n_deleted


def _patiently(engine: sa.Engine, work: Callable[[sa.Connection], object]) -> None:
    """`work` in a transaction, begun anew while readers or writers hold a table."""

    def once() -> None:
        with engine.begin() as connection:
            work(connection)

    with_lock_patience(once, _PATIENCE_S)
