"""The figures of the exposure log are what plain Python counts, on random small worlds in real Postgres."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fast_api_service.dashboard import queries
from recsys.dsn import postgres_url
from recsys.storage import expiry, pruning, tables

FIRST_DAY = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
N_DAYS = 3
N_ITEMS = 6
BOUGHT = ("transaction", "order")


class Answer(NamedTuple):
    minute: int
    user_id: str | None
    session_id: str | None
    item_keys: tuple[int, ...]
    surface: str
    tier: str
    list_version: str | None
    rescored_by: str | None
    duration_ms: float
    degraded: bool


class Event(NamedTuple):
    minute: int
    user_id: str | None
    session_id: str | None
    item_key: int  # beyond N_ITEMS: not in the catalogue
    event_type: str


class World(NamedTuple):
    answers: tuple[Answer, ...]
    events: tuple[Event, ...]
    available: frozenset[int]


# just outside of the range, too; and coarse, so that things happen at the same time and exactly at the bounds
minutes = st.integers(-4, N_DAYS * 48 + 52).map(lambda half_hours: half_hours * 30)
users = st.sampled_from([None, "u1", "u2"])
sessions = st.sampled_from([None, "s1", "s2"])
answers = st.builds(
    Answer,
    minutes,
    users,
    sessions,
    st.lists(st.integers(1, N_ITEMS), unique=True, max_size=4).map(tuple),
    st.sampled_from(["homepage", "cart"]),
    st.sampled_from(["ranked", "popular"]),
    st.sampled_from([None, "v1", "v2"]),
    st.sampled_from([None, "deepfm/1"]),
    st.integers(1, 400).map(lambda quarters: quarters / 4),
    st.booleans(),
)
events = st.builds(
    Event, minutes, users, sessions, st.integers(1, N_ITEMS + 1), st.sampled_from(["view", *BOUGHT])
).filter(lambda event: event.user_id is not None or event.session_id is not None)
worlds = st.builds(
    World,
    st.lists(answers, max_size=12).map(tuple),
    st.lists(events, max_size=20).map(tuple),
    st.sets(st.integers(1, N_ITEMS)).map(frozenset),
)


def at(minute: int) -> dt.datetime:
    return FIRST_DAY + dt.timedelta(minutes=minute)


def store(engine: sa.Engine, world: World) -> None:
    with engine.begin() as connection:
        for table in (tables.predictions, tables.events, tables.items, tables.publications):
            connection.execute(sa.delete(table))
        connection.execute(
            sa.insert(tables.items),
            [{"item_key": k, "item_id": f"i{k}", "available": k in world.available} for k in range(1, N_ITEMS + 1)],
        )
        publication_id = connection.execute(
            sa.insert(tables.publications)
            .values(status="published", dataset="dataset/v1", manifest={}, models={}, fence=1)
            .returning(tables.publications.c.publication_id)
        ).scalar_one()
        for answer in world.answers:
            row = answer._asdict() | {
                "shown_at": at(answer.minute), "request_id": "r", "route": "/recommend", "config_id": 0,
                "publication_id": publication_id, "item_keys": list(answer.item_keys),
                "sources": [answer.tier] * len(answer.item_keys),
                "degraded": ["personal_lists"] if answer.degraded else [],
            }  # fmt: skip
            del row["minute"]
            connection.execute(sa.insert(tables.predictions).values(row))
        for number, event in enumerate(world.events):
            row = event._asdict() | {"event_id": str(number), "occurred_at": at(event.minute), "digest": b""}
            row["item_id"] = f"i{event.item_key}"
            del row["minute"], row["item_key"]
            connection.execute(sa.insert(tables.events).values(row))


def counted(world: World, shown: Sequence[Answer], k: int) -> dict[str, Any]:
    """The figures of some answers, by going through everything."""
    followed = [a for a in shown if a.item_keys and (a.user_id is not None or a.session_id is not None)]
    n = Counter[str]()
    for answer in followed:
        after = {
            (event.item_key, event.minute - answer.minute, event.event_type)
            for event in world.events
            if (event.user_id is not None and event.user_id == answer.user_id)
            or (event.session_id is not None and event.session_id == answer.session_id)
        }
        of_it = {one for one in after if one[0] in answer.item_keys and 0 <= one[1] <= 24 * 60}
        clicked = {key for key, later, _ in of_it if later <= 30}
        n["clicked"] += len(clicked)
        n["items"] += len(answer.item_keys)
        n["hits"] += bool(clicked & set(answer.item_keys[:k]))
        n["future"] += any(key in answer.item_keys[:k] for key, _, _ in of_it)
        n["bought"] += any(event_type in BOUGHT for _, _, event_type in of_it)
    times = [answer.duration_ms for answer in shown]
    covered = {key for answer in shown for key in answer.item_keys} & world.available
    return {
        "n_answers": len(shown),
        "n_followed": len(followed),
        "hit_rate": n["hits"] / len(followed) if followed else None,
        "future_hit_rate": n["future"] / len(followed) if followed else None,
        "click_through": n["clicked"] / n["items"] if followed else None,
        "conversion": n["bought"] / len(followed) if followed else None,
        "degraded_share": sum(a.degraded for a in shown) / len(shown) if shown else None,
        "mean_ms": float(np.mean(times)) if times else None,
        "p95_ms": float(np.percentile(times, 95)) if times else None,
        "max_ms": max(times, default=None),
        "coverage": len(covered) / len(world.available) if world.available else None,
    }


def computed(url: str, k: int) -> queries.Figures:
    until = FIRST_DAY + dt.timedelta(days=N_DAYS)
    return asyncio.run(queries.compute(postgres_url(url), FIRST_DAY, until, BOUGHT, k))


def agrees(row: dict[str, Any], world: World, shown: Sequence[Answer], k: int) -> None:
    expected = counted(world, shown, k)
    if "coverage" not in row:
        del expected["coverage"]
    found = {name: row[name] for name in expected}
    assert found == pytest.approx(expected, nan_ok=False)


def on_day(answer: Answer) -> dt.date:
    return at(answer.minute).date()


CLICKED_AND_BOUGHT = World(
    (
        Answer(0, "u1", "s1", (1, 2, 3), "homepage", "ranked", "v1", None, 2.5, False),
        Answer(0, "u1", None, (4,), "homepage", "ranked", "v1", None, 2.5, False),
        Answer(60, None, None, (1, 5), "cart", "popular", None, None, 3.5, True),
    ),
    # of user and session at once: one event; the last minute counts, the one after it does not
    (
        Event(30, "u1", "s1", 2, "view"),
        Event(24 * 60, "u1", None, 2, "order"),
        Event(24 * 60 + 30, "u1", None, 4, "view"),
    ),
    frozenset({1, 2, 3, 4}),
)


@example(CLICKED_AND_BOUGHT, 2)
@given(worlds, st.integers(1, 4))
@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_figures_are_what_plain_python_counts(database_url: str, database: sa.Engine, world: World, k: int) -> None:
    store(database, world)
    found = computed(database_url, k)
    shown = [answer for answer in world.answers if 0 <= answer.minute < N_DAYS * 24 * 60]
    assert found.n_available == len(world.available)
    agrees(found.overall, world, shown, k)
    assert {row["surface"] for row in found.by_surface} == {answer.surface for answer in shown}
    for row in found.by_surface:
        agrees(row, world, [a for a in shown if a.surface == row["surface"]], k)
    model_of = attrgetter("tier", "list_version", "rescored_by")
    in_row = itemgetter("tier", "list_version", "rescored_by")
    assert {in_row(row) for row in found.by_model} == {model_of(answer) for answer in shown}
    for row in found.by_model:
        agrees(row, world, [a for a in shown if model_of(a) == in_row(row)], k)
    assert [row["day"] for row in found.by_day] == sorted({on_day(answer) for answer in shown})
    for row in found.by_day:
        of_day = [a for a in shown if on_day(a) == row["day"]]
        agrees(row, world, of_day, k)
        assert row["tiers"] == Counter(answer.tier for answer in of_day)


def test_an_example_by_hand(database_url: str, database: sa.Engine) -> None:
    store(database, CLICKED_AND_BOUGHT)
    overall = computed(database_url, 2).overall
    assert (overall["n_answers"], overall["n_followed"]) == (3, 2)
    assert (overall["hit_rate"], overall["future_hit_rate"], overall["conversion"]) == (0.5, 0.5, 0.5)
    assert overall["click_through"] == 1 / 4
    assert overall["coverage"] == 1
    assert computed(database_url, 1).overall["hit_rate"] == 0


def test_what_is_long_in_quarantine_is_pruned(database: sa.Engine) -> None:
    with database.begin() as connection:
        for event_id, age in (("old", 100), ("new", 80)):
            at = dt.datetime.now(dt.UTC) - dt.timedelta(days=age)
            values = {"event_id": event_id, "reason": "conflict", "payload": {}, "received_at": at}
            connection.execute(sa.insert(tables.event_quarantine).values(values))
    now = dt.datetime.now(dt.UTC)
    assert expiry.quarantine(database, now, 101).n_rows == 0
    assert expiry.quarantine(database, now, 90, dry_run=True).n_rows == 1
    assert expiry.quarantine(database, now, 90).n_rows == 1
    with database.begin() as connection:
        assert connection.scalars(sa.select(tables.event_quarantine.c.event_id)).all() == ["new"]
        connection.execute(sa.delete(tables.event_quarantine))


def test_what_was_shown_long_ago_is_pruned_and_of_another_catalogue_is_not_counted(
    database_url: str, database: sa.Engine
) -> None:
    store(database, CLICKED_AND_BOUGHT)
    now = dt.datetime.now(dt.UTC)
    age_days = (now - FIRST_DAY) / dt.timedelta(days=1)
    assert expiry.exposures(database, now, age_days + 1).n_rows == 0
    assert expiry.exposures(database, now, age_days - 1 / 48).n_rows == 2  # the third came an hour later
    assert computed(database_url, 2).overall["n_answers"] == 1
    with database.begin() as connection:
        connection.execute(sa.delete(tables.publications))  # as a replaced import leaves it for a service that runs on
    assert computed(database_url, 2).overall["n_answers"] == 0
    with database.begin() as connection:
        connection.execute(sa.update(tables.predictions).values(publication_id=0))  # from the catalogue alone
    assert computed(database_url, 2).overall["n_answers"] == 1
    with database.begin() as connection:
        pruning.erase(connection)
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.predictions)) == 0
