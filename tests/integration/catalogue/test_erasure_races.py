"""An erasure is raced by all that writes of users: after its receipt nothing holds the user, whoever was under way."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count as counting
from typing import Any

import asyncpg
import httpx
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fast_api_service.catalogue import erasure
from fast_api_service.metrics import Metrics
from fast_api_service.postgres.write_pool import Writable
from fast_api_service.recommend.exposures import Exposures
from recsys.dsn import postgres_url
from recsys.errors import PublicationError
from recsys.events import event, postgres_log
from recsys.events.event import Event
from recsys.storage import publications
from tests.integration import serving_shop as shop
from tests.integration.recommend.test_exposures import rows, shown
from tests.integration.serving_shop import count

NOW = dt.datetime.now(dt.UTC)


def events_of(user_id: str | None, n: int, session_id: str | None = None, name: str = "e") -> list[Event]:
    samples: list[dict[str, Any]] = [
        {"event_id": f"{name}{number}", "item_id": "1001", "event_type": "view", "timestamp": NOW}
        for number in range(n)
    ]
    of_whom = {"user_id": user_id, "session_id": session_id}
    parsed, refused = event.parse(
        [one | {field: value for field, value in of_whom.items() if value} for one in samples], NOW
    )
    assert not refused
    return [one for _, one in parsed]


def run(url: str, play: Callable[[Writable], Awaitable[None]]) -> None:
    async def whole() -> None:
        writes = Writable(postgres_url(url))
        await writes.open()
        try:
            await play(writes)
        finally:
            await writes.close()

    asyncio.run(whole())


def left(engine: sa.Engine, user: str, key: int | None = None) -> dict[str, int]:
    """How many rows still hold a user, by place; empty when none does."""
    of_user = {"user": user, "key": -1 if key is None else key}
    queries = {
        "events": "select count(*) from events where user_id = :user",
        "user_recent": "select count(*) from user_recent where owner = 'user:' || :user",
        "predictions": "select count(*) from predictions where user_id = :user",
        "users": "select count(*) from users where user_id = :user",
        "lists": "select count(*) from lists join list_versions v using (list_version_id)"
        " where owner_key = :key and v.kind in ('personal', 'ranked', 'history')",
    }
    with engine.connect() as connection:
        found = {place: connection.execute(sa.text(sql), of_user).scalar_one() for place, sql in queries.items()}
    return {place: n for place, n in found.items() if n}


@pytest.mark.parametrize("are_new", [True, False])
def test_an_append_that_began_before_is_waited_for(
    clean_database_url: str, clean_database: sa.Engine, are_new: bool
) -> None:
    shop.stock(clean_database)

    async def play(writes: Writable) -> None:
        appending = await asyncpg.connect(postgres_url(clean_database_url))
        transaction = appending.transaction()
        await transaction.start()
        await postgres_log.append(appending, events_of("501", 3, "s1"), are_new=are_new)
        erasing = asyncio.create_task(erasure.erase(writes, 501))
        await asyncio.sleep(0.3)
        assert not erasing.done()
        # nobody is held up meanwhile, and what comes now is refused already
        others = await writes.transaction(
            lambda connection: postgres_log.append(connection, events_of("502", 1, name="o") + events_of("501", 1))
        )
        assert (others.accepted, others.erased) == ([0], [1])
        await transaction.commit()
        removed = (await erasing).removed
        assert (removed["events"], removed["user_recent"]) == (3, 2)
        await appending.close()

    run(clean_database_url, play)
    assert left(clean_database, "501", shop.RANKED) == {}
    assert count(clean_database, "events") == 1


def test_an_erasure_that_waits_too_long_says_that_it_is_to_be_sent_again(
    clean_database_url: str, clean_database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fast_api_service.errors import ApiError

    shop.stock(clean_database)
    monkeypatch.setattr(erasure, "_APPENDS_S", 0.2)

    async def play(writes: Writable) -> None:
        appending = await asyncpg.connect(postgres_url(clean_database_url))
        transaction = appending.transaction()
        await transaction.start()
        await postgres_log.append(appending, events_of("501", 3))
        with pytest.raises(ApiError, match="send the same again") as refusal:
            await erasure.erase(writes, 501)
        assert (refusal.value.code, refusal.value.retry_after_s) == (503, 5)
        await transaction.commit()
        assert (await erasure.erase(writes, 501)).removed["events"] == 3
        await appending.close()

    run(clean_database_url, play)
    assert left(clean_database, "501", shop.RANKED) == {}


def test_readers_of_the_log_do_not_wait_while_the_raw_tables_are_searched(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    """Those have no index; another transaction holds one of their rows here, for as long as it likes."""
    shop.stock(clean_database)
    with clean_database.begin() as connection:
        connection.execute(
            sa.text("insert into raw.events (timestamp, visitorid, event, itemid) values (1, '501', 'view', '1')")
        )

    async def play(writes: Writable) -> None:
        log = postgres_log.PostgresLog(writes)
        holder = await asyncpg.connect(postgres_url(clean_database_url))
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("update raw.events set itemid = '2' where visitorid = '501'")
        erasing = asyncio.create_task(erasure.erase(writes, 501))
        await asyncio.sleep(0.3)
        assert not erasing.done()
        await log.append(events_of("502", 5))
        assert len((await log.read("", 100)).events) == 5
        await transaction.commit()
        assert (await erasing).removed["raw_events"] == 1
        await holder.close()

    run(clean_database_url, play)


def test_what_a_guest_was_shown_in_a_session_of_theirs_is_not_written_afterwards(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    shop.stock(clean_database)

    async def play(writes: Writable) -> None:
        await writes.transaction(lambda connection: postgres_log.append(connection, events_of("501", 1, "s0")))
        log = Exposures(postgres_url(clean_database_url), Metrics())
        log.append(shown(0, session_id="s0"))  # waits in memory, as in any worker
        log.append(shown(1, session_id="s1"))
        log.append(shown(2, session_id=None))
        log.append(shown(3, session_id="s0", user_id=502))  # another person at the same machine
        assert (await erasure.erase(writes, 501)).removed["predictions"] == 0
        await log.close()

    run(clean_database_url, play)
    found = [(row["session_id"], row["user_id"]) for row in rows(clean_database)]
    assert found == [("s1", None), (None, None), ("s0", "502")]


@pytest.mark.parametrize("are_new", [True, False])
def test_what_a_guest_did_before_in_a_session_of_theirs_is_not_taken_and_what_a_guest_does_later_is(
    clean_database_url: str, clean_database: sa.Engine, are_new: bool
) -> None:
    """A retry, a tracker that was without network, the sink, an archive that is replayed: it comes again after the
    receipt. A session is a client's word, which may go on."""
    shop.stock(clean_database)
    before = events_of(None, 3, "s0", "g")
    later = [before[0]._replace(event_id="later", occurred_at=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5))]
    others = [before[0]._replace(event_id="other", session_id="s1"), before[0]._replace(event_id="of", user_id="502")]

    async def play(writes: Writable) -> None:
        async def append(events: list[Event]) -> postgres_log.Appended:
            return await writes.transaction(lambda c: postgres_log.append(c, events, are_new=are_new))

        await append(before + events_of("501", 1, "s0"))
        assert (await erasure.erase(writes, 501)).removed["events"] == 4
        again = before + later + others
        judged = await writes.transaction(lambda c: postgres_log.classify(c, again))
        appended = await append(again)
        assert (appended.erased, appended.accepted) == (judged.erased, judged.accepted) == ([0, 1, 2], [3, 4, 5])

    run(clean_database_url, play)
    with clean_database.connect() as connection:
        left_over = connection.scalars(sa.text("select event_id from events order by 1")).all()
        recent = connection.execute(sa.text("select owner, item_keys from user_recent order by 1")).all()
    assert left_over == ["later", "of", "other"]
    assert [tuple(row) for row in recent] == [("session:s0", [1, 1]), ("session:s1", [1]), ("user:502", [1])]


def test_lists_that_are_written_meanwhile_are_without_the_user_and_can_be_checked(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    """They were computed before; an erasure that comes while they are attached waits, and removes the user's."""
    shop.stock(clean_database)
    run(clean_database_url, lambda writes: _erase(writes, 501))
    shop.publish(clean_database, "v1", shop.FIRST | {"ranked": {shop.RANKED: range(1, 6), shop.PERSONAL: range(2, 7)}})
    assert left(clean_database, "501", shop.RANKED) == {}
    assert count(clean_database, "lists where owner_key = 2") == 4  # also of an item and a category
    with pytest.raises(PublicationError, match="not available") as found:
        publications.verify(clean_database)
    assert "differ from what was written" not in str(found.value)
    with clean_database.begin() as attaching:
        attaching.execute(
            sa.text(
                "create table lists_9999 (list_version_id bigint not null check (list_version_id = 9999),"
                " owner_key integer not null, item_keys integer[] not null, scores real[] not null,"
                " sources smallint[] not null, primary key (list_version_id, owner_key))"
            )
        )
        version = {"kind": "personal", "version": "v9", "dataset": "d", "made_by": "tests", "sources": ["a"]}
        attaching.execute(sa.text("set local session_replication_role = replica"))
        attaching.execute(
            sa.text(
                "insert into list_versions (list_version_id, kind, version, dataset, made_by, sources, status, n_rows,"
                " n_items, item_keys, checks, meta) overriding system value values (9999, :kind, :version, :dataset,"
                " :made_by, :sources, 'complete', 1, 1, '{1}', "
                """ '{"n_rows": 1, "n_entries": 1, "checksum": "00"}', '{}')"""
            ),
            version,
        )
        attaching.execute(sa.text("insert into lists_9999 values (9999, 2, '{1}', '{1}', '{0}')"))
        attaching.execute(sa.text("alter table lists attach partition lists_9999 for values in (9999)"))
        with ThreadPoolExecutor(1) as pool:
            erasing = pool.submit(run, clean_database_url, lambda writes: _erase(writes, 502))
            time.sleep(0.3)
            assert not erasing.done()
            attaching.commit()
            erasing.result(20)
    assert left(clean_database, "502", shop.PERSONAL) == {}


async def _erase(writes: Writable, user_id: int) -> None:
    await erasure.erase(writes, user_id)


@pytest.fixture(scope="module")
def services(database_url: str, database: sa.Engine) -> Iterator[list[httpx.Client]]:
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST)
    with shop.running_service(database_url) as one, shop.running_service(database_url) as two:
        for client in (one, two):
            shop.wait_until(lambda client=client: shop.is_ready(client), 20)
        yield [one, two]


_users = counting(10_000)
_steps = st.lists(
    st.sampled_from(["post one", "post many", "recommend", "recommend as guest", "tell"]), min_size=1, max_size=4
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scripts=st.lists(_steps, min_size=2, max_size=4), pause_ms=st.integers(0, 60))
def test_whatever_clients_do_meanwhile_nothing_holds_the_user_after_the_receipt(
    services: list[httpx.Client], database: sa.Engine, scripts: list[list[str]], pause_ms: int
) -> None:
    """Clients of two workers repeat their steps until the receipt is there, and a little beyond."""
    user = next(_users)
    is_over = threading.Event()

    def act(client: httpx.Client, step: str, number: int) -> None:
        session = f"of-{user}"
        one = {"user_id": user, "session_id": session, "item_id": 1001, "event_type": "view"}
        if step == "post one":
            answer = client.post("/online/data/add", json=one)
        elif step == "post many":
            samples = [one | {"event_id": f"{user}-{number}-{place}"} for place in range(100)]
            answer = client.post("/online/data/add", json={"samples": samples})
        elif step == "tell":
            answer = client.put(f"/users/{user}", json={"properties": {"name": "somebody"}})
        else:
            who = {} if step == "recommend as guest" else {"user_id": user}
            answer = client.post("/recommend", json={**who, "session_id": session})
        assert answer.status_code in {200, 207, 422, 503}, answer.text

    def play(place: int, steps: list[str]) -> None:
        base_url = services[place % 2].base_url
        with httpx.Client(base_url=base_url, timeout=30) as client:
            for number in counting():
                for step in steps:
                    act(client, step, 1000 * place + number)
                if is_over.is_set():
                    return

    with ThreadPoolExecutor(len(scripts)) as pool:
        playing = [pool.submit(play, place, steps) for place, steps in enumerate(scripts)]
        time.sleep(pause_ms / 1000)
        receipt = services[0].delete(f"/users/{user}")
        assert receipt.status_code == 200, receipt.text
        found = left(database, str(user))
        is_over.set()
        for one in playing:
            one.result(30)
    assert found == {}
    time.sleep(1.2)  # what was shown is written twice a second
    assert left(database, str(user)) == {}
