"""Where every feature begins: the events strictly before a cut, each with its age.

`con` is an Ibis backend that holds the tables of a data set (`Dataset.connect`); instants are microseconds
since the epoch, ages and windows are days.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import ibis
from ibis import Table
from ibis.expr.types import FloatingScalar, IntegerScalar, NumericValue

from recsys import columns as col
from recsys.data.dataset import instant
from recsys.data.engine_functions import epoch_us
from recsys.types import MICROSECONDS_PER_DAY

WINDOWS_DAYS = (1, 7, 14, 28, 90)
FAST_HALF_LIFE_DAYS = 7.0  # what is in fashion
SLOW_HALF_LIFE_DAYS = 60.0  # what somebody likes
AGE_DAYS = "age_days"


def events_before(con: ibis.BaseBackend, at: int) -> Table:
    """Columns of events and `age_days` > 0 at the cut; no event at or after `at`, nor one against its item."""
    events = con.table("events").filter(lambda t: t.occurred_at < ibis.timestamp(instant(at)))
    label = events[col.ACTION_LABEL].fill_null(1.0)
    events = events.mutate(weight=events[col.WEIGHT] * label).filter(label > 0)
    return events.mutate(age_days=days_before(events.occurred_at, at))


def days_before(column: ibis.Value, at: int) -> NumericValue:
    """Days from an instant in a column to the cut."""
    return (at - epoch_us(column)) / MICROSECONDS_PER_DAY


def count_within(events: Table, days: float) -> IntegerScalar:
    """How many events are at most `days` old."""
    return events.count(where=events[AGE_DAYS] <= days)


def decayed_weight(events: Table, half_life_days: float) -> FloatingScalar:
    """Σ weight · 2^(-age / half life)."""
    return (events[col.WEIGHT] * decay(events, half_life_days)).sum()


def decay(events: Table, half_life_days: float) -> NumericValue:
    """2^(-age / half life)."""
    return ibis.literal(2.0).pow(-events[AGE_DAYS] / half_life_days)


def former(events: Table, column: str, group_by: str, *order_by: str) -> ibis.Value:
    """`column` of the event before, in this order within the group; null for the first.

    Where equal values stand together, counting the changes counts the distinct: one sort serves several such counts,
    and it is cheaper than the sets that `nunique` keeps for each group.
    """
    return events[column].lag().over(group_by=group_by, order_by=order_by)


def counts_by_type(events: Table, event_types: Sequence[str], prefix: str) -> dict[str, ibis.Value]:
    """Column name → count of each event type; nothing where there is one type only."""
    if len(event_types) < 2:
        return {}
    return {
        prefix + re.sub(r"\W+", "_", kind.lower()): events.count(where=events[col.EVENT_TYPE] == kind)
        for kind in event_types
    }
