"""What came of the answers that were shown: figures from the exposure log and the events, by Postgres alone.

An answer is *followed* when it was shown to somebody, a user or a session, and holds an item; whether anything came of
an answer to nobody cannot be known, so rates are over followed answers. An event belongs to an answer when it is of the
same user or session, on an item of the answer, and at most 24 hours after it was shown. With that, for k items:

- hit rate@k: share of followed answers one of whose first k items had an event within 30 minutes;
- future hit rate@k: share of followed answers one of whose first k items had an event within 24 hours;
- click-through: of all items in followed answers, the share that had an event within 30 minutes;
- conversion: share of followed answers one of whose items was bought within 24 hours;
- coverage: of the items that are available now, the share that was shown in any answer.

An answer counts once, and each of its items once, however many events follow. An event counts for every answer that
showed its item before it. The day of an answer is that of UTC on which it was shown.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from recsys.events.connections import ENDS_WITH_CLIENT, ended_after

HIT: Final = dt.timedelta(minutes=30)
FUTURE: Final = dt.timedelta(hours=24)
STATEMENT_S: Final = 60.0
_MORE_S: Final = 5.0  # then Postgres does not answer at all, or there were many statements

_SESSION: Final = {
    "application_name": "recsys-api-dashboard",
    "statement_timeout": str(int(STATEMENT_S * 1000)),
    "work_mem": "64MB",
    "jit": "off",
    **ENDS_WITH_CLIENT,
}

# Answers from before the catalogue was replaced, whose keys name other items, have no publication any more; 0 stands
# for the catalogue alone, before there is one.
_SHOWN = """
    predictions where shown_at >= $1 and shown_at < $2
    and (publication_id = 0 or publication_id in (select publication_id from publications))
"""
_FOLLOWERS = """
    select a.prediction_id, array_position(a.item_keys, i.item_key) as place, e.occurred_at - a.shown_at as after,
           e.event_type = any($3) as bought
    from answers a
    join events e on e.{owner} = a.{owner} and e.occurred_at >= a.shown_at and e.occurred_at <= a.shown_at + $6
    join items i on i.item_id = e.item_id
    where i.item_key = any(a.item_keys)
"""
# $1, $2: from, to; $3: event types of a purchase; $4: k; $5: HIT; $6: FUTURE
_OUTCOMES = f"""
with answers as materialized (
    select prediction_id, user_id, session_id, shown_at, item_keys, surface, tier, list_version, rescored_by,
           duration_ms, predictions.degraded <> '{{}}' as degraded,
           (user_id is not null or session_id is not null) and item_keys <> '{{}}' as followed
    from {_SHOWN}
),
touched as (
    select prediction_id, place, min(after) as after, bool_or(bought) as bought
    from ({_FOLLOWERS.format(owner="user_id")} union all {_FOLLOWERS.format(owner="session_id")}) f
    group by prediction_id, place
),
outcomes as (
    select prediction_id, bool_or(place <= $4 and after <= $5) as hit, bool_or(place <= $4) as future_hit,
           count(*) filter (where after <= $5) as n_clicked, bool_or(bought) as converted
    from touched group by prediction_id
)
"""  # noqa: S608 - our own words
_COUNTS = """
    count(*) as n_answers, count(*) filter (where followed) as n_followed,
    coalesce(sum(cardinality(item_keys)) filter (where followed), 0) as n_items,
    count(*) filter (where hit) as n_hits, count(*) filter (where future_hit) as n_future_hits,
    coalesce(sum(n_clicked), 0) as n_clicked, count(*) filter (where converted) as n_converted,
    count(*) filter (where degraded) as n_degraded,
    avg(duration_ms) as mean_ms, percentile_cont(0.95) within group (order by duration_ms) as p95_ms,
    max(duration_ms) as max_ms
"""
_FIGURES_SQL = f"""
{_OUTCOMES}
select grouping(surface, tier, list_version, rescored_by, day) as level,
       surface, tier, list_version, rescored_by, day, {_COUNTS}
from (
    select *, (shown_at at time zone 'UTC')::date as day from answers left join outcomes using (prediction_id)
) a
group by grouping sets ((), (surface), (tier, list_version, rescored_by), (day))
order by level, n_answers desc, surface, tier, list_version, rescored_by
"""  # noqa: S608 - our own words
_TIERS_SQL = f"""
select (shown_at at time zone 'UTC')::date as day, tier, count(*) as n_answers from {_SHOWN} group by 1, 2
"""  # noqa: S608 - our own words
_COVERED = """
select {group}, {count} as n_covered
from (select {group}, unnest(item_keys) as item_key from {shown} group by {group}, item_key) s
join items using (item_key) where items.available group by {sets}
"""
_COVERED_SQL = {
    "surface": _COVERED.format(
        group="surface", count="count(distinct item_key)", sets="grouping sets ((), (surface))", shown=_SHOWN
    ),
    "model": _COVERED.format(
        group="tier, list_version, rescored_by", count="count(*)", sets="tier, list_version, rescored_by", shown=_SHOWN
    ),
}
_AVAILABLE_SQL = "select count(*) from items where available"
_LEVELS = {
    0b11111: "overall",
    0b01111: "surface",
    0b10001: "model",
    0b11110: "day",
}  # bits: what a row is not grouped by


@dataclass(frozen=True)
class Figures:
    """Rows of figures: of all, by surface, by tier with list version and rescoring model, by day. Days hold answers by
    tier."""

    overall: dict[str, Any]
    by_surface: list[dict[str, Any]]
    by_model: list[dict[str, Any]]
    by_day: list[dict[str, Any]]
    n_available: int


async def compute(dsn: str, since: dt.datetime, until: dt.datetime, bought: Sequence[str], k: int = 10) -> Figures:
    """The figures of the answers shown from `since` until before `until`. `bought`: event types of a purchase.

    Takes some twenty seconds for a million answers, on a connection of its own. Raises asyncpg.QueryCanceledError
    when a query takes longer than STATEMENT_S, and what asyncpg raises while Postgres is away, some seconds after that
    time at the latest.
    """
    connection = await asyncpg.connect(dsn, timeout=5, server_settings=_SESSION)
    try:
        # one snapshot for all: no figure knows of an answer that another does not
        with ended_after(connection, STATEMENT_S + _MORE_S):
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                rows = await connection.fetch(_FIGURES_SQL, since, until, list(bought), k, HIT, FUTURE)
                tiers = await connection.fetch(_TIERS_SQL, since, until)
                covered, n_available = await _covered(connection, since, until)
    finally:
        connection.terminate()
    by_level: dict[str, list[dict[str, Any]]] = {level: [] for level in _LEVELS.values()}
    for row in rows:
        level = _LEVELS[row["level"]]
        n_covered = covered.get((level, *(row[name] for name in _NAMES[level])), 0)
        names = {name: row[name] for name in _NAMES[level]}
        figures = names | _figures(row, None if level == "day" else n_covered, n_available)
        if level == "day":
            figures["tiers"] = {tier["tier"]: tier["n_answers"] for tier in tiers if tier["day"] == row["day"]}
        by_level[level].append(figures)
    by_level["day"].sort(key=lambda row: row["day"])
    return Figures(by_level["overall"][0], by_level["surface"], by_level["model"], by_level["day"], n_available)


_NAMES: Final[Mapping[str, Sequence[str]]] = {
    "overall": (),
    "surface": ("surface",),
    "model": ("tier", "list_version", "rescored_by"),
    "day": ("day",),
}


async def _covered(
    connection: asyncpg.Connection, since: dt.datetime, until: dt.datetime
) -> tuple[dict[tuple[str | None, ...], int], int]:
    """Available items that were shown, by (level, its names); and how many are available."""
    surfaces = await connection.fetch(_COVERED_SQL["surface"], since, until)
    models = await connection.fetch(_COVERED_SQL["model"], since, until)
    n_available = await connection.fetchval(_AVAILABLE_SQL)
    covered: dict[tuple[str | None, ...], int] = {
        ("overall",) if surface is None else ("surface", surface): n for surface, n in surfaces
    }
    covered |= {("model", *names): n for *names, n in models}
    return covered, n_available


def _figures(row: Mapping[str, Any], n_covered: int | None, n_available: int) -> dict[str, Any]:
    n_answers, n_followed = row["n_answers"], row["n_followed"]
    figures = {
        "n_answers": n_answers,
        "n_followed": n_followed,
        "hit_rate": _share(row["n_hits"], n_followed),
        "future_hit_rate": _share(row["n_future_hits"], n_followed),
        "click_through": _share(row["n_clicked"], row["n_items"]),
        "conversion": _share(row["n_converted"], n_followed),
        "degraded_share": _share(row["n_degraded"], n_answers),
        "mean_ms": row["mean_ms"],
        "p95_ms": row["p95_ms"],
        "max_ms": row["max_ms"],
    }
    return figures if n_covered is None else figures | {"coverage": _share(n_covered, n_available)}


def _share(part: int, whole: int) -> float | None:
    return int(part) / int(whole) if whole else None
