"""The event log and recent events in real Postgres: durable, once each, the same in any order."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fast_api_service.postgres.write_pool import Writable
from recsys.dsn import postgres_url
from recsys.events import postgres_log
from recsys.events import recent as recent_rows
from recsys.events.event import Event, parse
from recsys.events.log import Appended
from recsys.events.postgres_log import PostgresLog
from recsys.serving.ids import digest_of
from tests.integration import serving_shop as shop

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
TABLES = (
    """
    select event_id, user_id, session_id, item_id, event_type, occurred_at, label, parameters::text, features::text,
           version, digest, kafka_offset
    from events order by 1
""",
    """
    select owner, item_keys, event_types, occurred_ms from user_recent where item_keys <> '{}' order by 1
""",
)

samples = st.lists(
    st.builds(
        lambda number, user, item, kind, session: {
            "event_id": f"e{number}",
            "user_id": f"{500 + user}",
            "item_id": f"{1000 + item}",
            "event_type": kind,
            "timestamp": NOW - dt.timedelta(seconds=number * 7 % 5),
            **({"session_id": f"s{session}", "label": number / 4, "version": "v"} if session else {}),
            "parameters": {"stars": session, "n": number},
            "features": {"x": kind},
        },
        st.integers(0, 60),
        st.integers(1, 3),
        st.integers(1, 70),  # 61 and more are in no catalogue
        st.sampled_from(["view", "transaction"]),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda sample: sample["event_id"],
)


def append(url: str, *batches: Sequence[Event], at_once: bool = False) -> list[Appended]:
    async def one(batch: Sequence[Event]) -> Appended:
        connection = await asyncpg.connect(postgres_url(url))
        try:
            async with connection.transaction():
                return await postgres_log.append(connection, batch)
        finally:
            await connection.close()

    async def all_of_them() -> list[Appended]:
        if at_once:
            return list(await asyncio.gather(*map(one, batches)))
        return [await one(batch) for batch in batches]

    return asyncio.run(all_of_them())


def events_of(raw: Iterable[dict[str, Any]]) -> list[Event]:
    events, rejected = parse(list(raw), NOW)
    assert not rejected
    return [event for _, event in events]


def tables(engine: sa.Engine) -> list[list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return [[tuple(row) for row in connection.execute(sa.text(query))] for query in TABLES]


@pytest.fixture(scope="module")
def stocked(database: sa.Engine) -> sa.Engine:
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST)
    return database


@given(samples, st.randoms(use_true_random=False), st.integers(1, 5), st.booleans())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_repetition_and_split_gives_the_same_tables(
    stocked: sa.Engine, database_url: str, raw: list[dict[str, Any]], chance: random.Random, n: int, at_once: bool
) -> None:
    events = events_of(raw)
    found = []
    for again in (False, True):
        with stocked.begin() as connection:
            connection.execute(sa.text("truncate events, user_recent, event_quarantine"))
        if not again:
            [appended] = append(database_url, events)
            assert len(appended.accepted) == len(events)
        else:
            shuffled = events + chance.sample(events, len(events) // 2)
            chance.shuffle(shuffled)
            batches = [shuffled[start::n] for start in range(n) if shuffled[start::n]]
            results = append(database_url, *batches, at_once=at_once)
            assert sum(len(result.accepted) for result in results) == len(events)
            assert sum(len(result.duplicates) for result in results) == len(shuffled) - len(events)
            assert not any(result.conflicts for result in results)
        found.append(tables(stocked))
    assert found[0] == found[1]


def test_recent_holds_the_newest_events_of_known_items(stocked: sa.Engine, database_url: str) -> None:
    with stocked.begin() as connection:
        connection.execute(sa.text("truncate events, user_recent"))
    raw = [
        {"user_id": "501", "item_id": str(1001 + i % 60), "timestamp": NOW - dt.timedelta(minutes=i)} for i in range(80)
    ]
    append(database_url, events_of([*raw, {"user_id": "501", "item_id": "no such item", "timestamp": NOW}]))
    [(owner, keys, types, at_ms)] = tables(stocked)[1]
    assert owner == "user:501"
    assert keys == [1 + i % 60 for i in range(recent_rows.N_RECENT)]
    assert set(types) == {"view"}
    assert at_ms == sorted(at_ms, reverse=True)


def test_recent_keeps_what_the_configuration_in_force_calls_bought_under_newer_ones_that_cannot_be_read(
    stocked: sa.Engine, database_url: str
) -> None:
    with stocked.begin() as connection:
        connection.execute(sa.text("truncate events, user_recent"))
        for config in (
            '{"bought": [{"event_type": "rental"}]}',
            '{"of_the_future": 1, "bought": {"rental": {}}}',
            "[]",
        ):
            connection.execute(sa.text("insert into config_versions (config) values (:config)"), {"config": config})
    raw = [{"user_id": "501", "item_id": "1041", "event_type": "rental", "timestamp": NOW - dt.timedelta(days=1)}]
    raw += [{"user_id": "501", "item_id": "1001", "timestamp": NOW - dt.timedelta(minutes=i)} for i in range(80)]
    append(database_url, events_of(raw))
    [(_, keys, types, _)] = tables(stocked)[1]
    assert (41, "rental") in list(zip(keys, types, strict=True))
    with stocked.begin() as connection:
        connection.execute(sa.text("truncate config_versions"))


def test_recent_keeps_what_was_bought_before_the_newest_events(stocked: sa.Engine, database_url: str) -> None:
    def at(minutes: int, item: int, kind: str = "view") -> dict[str, Any]:
        """The same of the user and of a session."""
        time = NOW - dt.timedelta(minutes=minutes)
        return {"user_id": "501", "session_id": "s", "item_id": str(1000 + item), "event_type": kind, "timestamp": time}

    views = [at(i, 1 + i % 30) for i in range(1, 81)]
    older = [
        at(100, 41, "transaction"),
        at(200, 42, "transaction"),
        at(150, 42, "transaction"),
        at(99, 43, "addtocart"),
    ]
    events = events_of([*views, *older, at(5, 44, "transaction"), at(300, 44, "transaction"), at(98, 45, "gift")])
    found = []
    for batches in ([events], [[event] for event in events[::-1]], [events[:85], events[85:]]):
        with stocked.begin() as connection:
            connection.execute(sa.text("truncate events, user_recent"))
        append(database_url, *batches)
        found.append(tables(stocked)[1])
    assert found[0] == found[1] == found[2]
    for owner, keys, types, at_ms in found[0]:
        assert owner in ("user:501", "session:s")
        assert at_ms == sorted(at_ms, reverse=True)
        n = recent_rows.N_RECENT
        assert list(zip(keys, types, strict=True))[n:] == [(41, "transaction"), (42, "transaction")]
        assert keys[:n].count(44) == 1
    with stocked.begin() as connection:
        connection.execute(
            sa.text("""insert into config_versions (config) values
                       ('{"bought": [{"event_type": "gift"}, {"event_type": "addtocart", "days": 7}]}')""")
        )
    try:
        append(database_url, events_of([at(1000, 46, "transaction")]))
        [*_, (_, keys, types, _)] = tables(stocked)[1]
    finally:
        with stocked.begin() as connection:
            connection.execute(sa.text("truncate config_versions"))
    assert keys[recent_rows.N_RECENT :] == [45, 43, 41, 42, 46]
    assert types[recent_rows.N_RECENT :] == ["gift", "addtocart", *["transaction"] * 3]


def kept(events: Sequence[Event]) -> list[tuple[int, str, int]]:
    """What a row of user_recent holds of events of one owner, newest first."""
    seen = sorted(
        ((int(e.item_id) - 1000, e.event_type, round(e.occurred_at.timestamp() * 1000)) for e in events),
        key=lambda one: (-one[2], one[0], one[1]),
    )
    newest, older = seen[: recent_rows.N_RECENT], seen[recent_rows.N_RECENT :]
    there = {one[:2] for one in newest}
    for one in older:
        if one[1] == "transaction" and one[:2] not in there:
            there.add(one[:2])
            newest.append(one)
    return newest


@given(
    st.lists(
        st.tuples(
            st.integers(1, 12), st.sampled_from(["view", "view", "addtocart", "transaction"]), st.integers(0, 90)
        ),
        min_size=30,
        max_size=150,
    ),
    st.randoms(use_true_random=False),
    st.integers(1, 40),
    st.booleans(),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_many_events_come_in_whatever_batches_the_row_holds_what_the_log_says(
    stocked: sa.Engine,
    database_url: str,
    made: list[tuple[int, str, int]],
    chance: random.Random,
    size: int,
    in_order: bool,
) -> None:
    with stocked.begin() as connection:
        connection.execute(sa.text("truncate events, user_recent, event_quarantine"))
    events = events_of(
        {
            "event_id": f"e{number}",
            "user_id": "501",
            "session_id": "s",
            "item_id": str(1000 + item),
            "event_type": kind,
            "timestamp": NOW - dt.timedelta(milliseconds=ms),
        }
        for number, (item, kind, ms) in enumerate(made)
    )
    shuffled = list(events)
    chance.shuffle(shuffled)
    if in_order:
        shuffled.sort(key=lambda event: event.occurred_at)
    append(database_url, *(shuffled[start : start + size] for start in range(0, len(shuffled), size)))
    for _, keys, types, at_ms in tables(stocked)[1]:
        assert list(zip(keys, types, at_ms, strict=True)) == kept(events)


def test_events_of_an_item_are_known_once_the_catalogue_has_it(stocked: sa.Engine, database_url: str) -> None:
    with stocked.begin() as connection:
        connection.execute(sa.text("truncate events, user_recent"))
    early, late = (
        {"user_id": "501", "item_id": item, "timestamp": NOW - dt.timedelta(seconds=age)}
        for item, age in (("of tomorrow", 9), ("1001", 5))
    )
    append(database_url, events_of([early]), events_of([late]))
    assert tables(stocked)[1][0][1] == [1]
    with stocked.begin() as connection:
        connection.execute(sa.text("insert into items (item_key, item_id) values (4000, 'of tomorrow')"))
    try:
        append(database_url, events_of([late | {"item_id": "1002", "timestamp": NOW}]))
        assert tables(stocked)[1][0][1] == [2, 1, 4000]
    finally:
        with stocked.begin() as connection:
            connection.execute(sa.text("delete from items where item_key = 4000"))


def test_the_same_id_with_another_payload_is_a_conflict_and_the_first_stays(
    stocked: sa.Engine, database_url: str
) -> None:
    with stocked.begin() as connection:
        connection.execute(sa.text("truncate events, user_recent, event_quarantine"))
    one = {"event_id": "x", "user_id": "501", "item_id": "1001"}
    first, second = append(database_url, events_of([one, one | {"item_id": "1002"}]), events_of([one]))
    assert (first.accepted, first.duplicates, first.conflicts) == ([0], [], [1])
    assert (second.accepted, second.duplicates, second.conflicts) == ([], [0], [])
    with stocked.connect() as connection:
        assert connection.execute(sa.text("select item_id from events")).scalars().all() == ["1001"]
        [(event_id, reason, payload)] = connection.execute(
            sa.text("select event_id, reason, payload from event_quarantine")
        )
    assert (event_id, payload["item_id"]) == ("x", "1002")
    assert "conflict" in reason


def test_who_sends_the_same_ids_at_the_same_moment_waits_and_all_are_counted_once(
    stocked: sa.Engine, database_url: str
) -> None:
    """As the service writes: what is thought to be new first, owners and ids in whatever order they come."""
    with stocked.begin() as connection:
        connection.execute(sa.text("truncate events, user_recent, event_quarantine"))
    chance = random.Random(4)  # noqa: S311
    events = events_of(
        [{"event_id": f"same{n}", "user_id": str(501 + n % 3), "item_id": str(1001 + n % 60)} for n in range(60)]
    )

    async def work() -> list[Appended]:
        writes = Writable(postgres_url(database_url))
        await writes.open()
        try:
            logs = [PostgresLog(writes) for _ in range(4)]  # as many workers
            return await asyncio.gather(*(log.append(chance.sample(events, 40)) for log in logs * 6))
        finally:
            await writes.close()

    results = asyncio.run(work())
    stored = {row[0] for row in tables(stocked)[0]}
    assert sum(len(result.accepted) for result in results) == len(stored)
    assert sum(len(result.duplicates) for result in results) == 24 * 40 - len(stored)
    assert not any(result.conflicts or result.erased for result in results)


def test_of_an_erased_user_not_even_an_empty_row_is_left(stocked: sa.Engine, database_url: str) -> None:
    """Whether clients give ids or they are derived."""
    with stocked.begin() as connection:
        connection.execute(sa.text("truncate events, user_recent, event_quarantine"))
        connection.execute(sa.text("insert into erased_users (digest) values (:d)"), {"d": digest_of("777")})
    try:
        for are_given in (False, True):
            events = events_of(
                [
                    {"user_id": user, "item_id": "1001"} | ({"event_id": f"of {user}"} if are_given else {})
                    for user in ("777", "501")
                ]
            )
            [appended] = append(database_url, events)
            assert (appended.accepted, appended.erased) == ([1], [0])
        stored, recent = tables(stocked)[:2]
        assert {row[1] for row in stored} == {"501"}
        assert [row[0] for row in recent] == ["user:501"]
        with stocked.connect() as connection:
            assert connection.scalar(sa.text("select count(*) from user_recent")) == 1
    finally:
        with stocked.begin() as connection:
            connection.execute(sa.text("delete from erased_users where digest = :d"), {"d": digest_of("777")})
