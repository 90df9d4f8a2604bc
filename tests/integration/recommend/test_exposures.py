"""What was shown is in the table: from every worker, once, after an end, and after Postgres was away."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shutil
import time
from random import Random
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from fast_api_service.catalogue import erasure
from fast_api_service.metrics import Metrics
from fast_api_service.postgres.write_pool import Writable
from fast_api_service.recommend import exposures
from fast_api_service.recommend.exposures import BATCH, Exposures, Shown
from recsys.dsn import postgres_url
from recsys.serving.ids import digest_of
from recsys.storage import embedded, locks, tables
from recsys.storage.engine import engine_of, migrate
from tests.integration import serving_shop as shop
from tests.integration.serving_shop import count


def rows(engine: sa.Engine) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        table = tables.predictions
        return [dict(row) for row in connection.execute(sa.select(table).order_by(table.c.shown_at)).mappings()]


def test_what_two_workers_showed_is_there_after_they_were_told_to_end(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    engine = clean_database
    shop.stock(engine)
    publication_id = shop.publish(engine, "v1", shop.FIRST)
    requests: dict[str, dict[str, Any]] = {}
    started = dt.datetime.now(dt.UTC)
    with shop.running_service(clean_database_url) as one, shop.running_service(clean_database_url) as two:
        for client in (one, two):
            shop.wait_until(lambda client=client: shop.is_ready(client), 10)
        for number in range(200):
            body = {"user_id": 501 + number % 3, "session_id": f"s{number}", "surface": "cart", "top_k": 5}
            response = (one, two)[number % 2].post("/recommend", json=body, headers={"x-request-id": f"r{number}"})
            assert response.status_code == 200, response.text
            requests[f"r{number}"] = {"body": body, "answer": response.json()}
        similar = one.get("/similar/1001", headers={"x-request-id": "similar"}).json()
        batch = {"user_ids": [501, 502], "top_k": 3, "surface": "homepage"}
        many = two.post("/recommend/batch", json=batch, headers={"x-request-id": "batch"}).json()
    # both were ended at once by SIGTERM, with the last answers still in memory
    found = {row["request_id"]: row for row in rows(engine)}
    assert {*requests, "similar", "batch"} - found.keys() == set()
    assert count(engine, "predictions") == 203
    for request_id, one_of in requests.items():
        row, body, answer = found[request_id], one_of["body"], one_of["answer"]
        provenance = answer["provenance"]
        assert (row["user_id"], row["session_id"]) == (str(body["user_id"]), body["session_id"])
        assert (row["route"], row["surface"], row["tier"]) == ("/recommend", "cart", provenance["tier"])
        assert (row["publication_id"], row["list_version"], row["config_id"]) == (publication_id, "v1", 0)
        assert [1000 + key for key in row["item_keys"]] == [item["item_id"] for item in answer["recommendations"]]
        assert row["sources"] == [item["source"] for item in answer["recommendations"]]
        assert row["duration_ms"] == pytest.approx(provenance["time_ms"])
        assert row["degraded"] == []
        assert started <= row["shown_at"] <= dt.datetime.now(dt.UTC)
    of_batch = [row for row in rows(engine) if row["request_id"] == "batch"]
    assert [(row["user_id"], row["tier"], row["route"]) for row in of_batch] == [
        (str(one["user_id"]), one["tier"], "/recommend/batch") for one in many["results"]
    ]
    assert [row["list_version"] for row in of_batch] == ["v1", "v1"]
    row = found["similar"]
    assert (row["route"], row["surface"], row["user_id"]) == ("/similar/{item_id}", "similar", None)
    assert [1000 + key for key in row["item_keys"]] == [item["item_id"] for item in similar["recommendations"]]


def shown(number: int, **fields: Any) -> Shown:
    made: Any = {
        "shown_at": dt.datetime.fromtimestamp(1.7e9 + number, dt.UTC), "request_id": f"r{number}", "user_id": None,
        "session_id": f"s{number}", "route": "/recommend", "surface": "homepage", "tier": "ranked",
        "publication_id": 1, "list_version": "v1", "rescored_by": None, "config_id": 0, "item_keys": [1, 2],
        "sources": ["ranked", "popular"], "duration_ms": 1.5, "degraded": ["recent_events"],
    }  # fmt: skip
    return made | fields  # type: ignore[no-any-return]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.slow
def test_while_postgres_is_away_the_newest_wait_and_the_others_are_counted() -> None:
    from tests.conftest import free_port, open_temporary_folder

    folder, port = open_temporary_folder(), free_port()
    capacity = 3 * BATCH

    async def play(url: str, metrics: Metrics) -> None:
        log = Exposures(postgres_url(url), metrics, capacity)
        writer = asyncio.create_task(log.write_on())

        async def until(condition: Any) -> None:
            async with asyncio.timeout(30):
                while not condition():
                    await asyncio.sleep(0.05)

        written = lambda: value(metrics, "recsys_exposures_total", outcome="written")  # noqa: E731
        dropped = lambda: value(metrics, "recsys_exposures_total", outcome="dropped")  # noqa: E731
        try:
            log.append(shown(0))
            await until(lambda: written() == 1)
            await asyncio.to_thread(embedded.stop, folder)
            for number in range(1, 500):  # below the bound: none is lost
                log.append(shown(number))
            await asyncio.sleep(1.5)
            assert (written(), dropped()) == (1, 0)
            assert value(metrics, "recsys_exposures_waiting") == 499
            await asyncio.to_thread(embedded.ensure, folder, port)
            await until(lambda: written() == 500)
            await asyncio.to_thread(embedded.stop, folder)
            log.append(shown(500))
            await asyncio.sleep(1.5)  # it is in hand now, not in the queue
            for number in range(501, 501 + capacity + 250):
                log.append(shown(number))
            assert dropped() == 250
            await asyncio.to_thread(embedded.ensure, folder, port)
            await until(lambda: written() == 501 + capacity)
            assert (dropped(), value(metrics, "recsys_exposures_waiting")) == (250, 0)
        finally:
            writer.cancel()
            await log.close()

    try:
        url = embedded.ensure(folder, port).url("recsys")
        engine = engine_of(url)
        migrate(engine)
        asyncio.run(play(url, Metrics()))
        numbers = [int(row["request_id"][1:]) for row in rows(engine)]
        engine.dispose()
        assert numbers == [*range(501), *range(501 + 250, 501 + capacity + 250)]  # the oldest fell out, none is double
    finally:
        embedded.stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def test_an_answer_is_written_once_though_the_connection_ended_at_the_commit(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    """The commit arrived, its acknowledgement did not."""
    metrics = Metrics()

    async def play() -> None:
        log = Exposures(postgres_url(clean_database_url), metrics)
        settle = log._settle

        def lose(outcome: str) -> None:
            log._settle = settle  # type: ignore[method-assign]
            raise ConnectionResetError

        log._settle = lose  # type: ignore[method-assign]
        log.append(shown(1))
        assert not await log._write_all()
        log.append(shown(2))
        await log.close()

    asyncio.run(play())
    assert [row["request_id"] for row in rows(clean_database)] == ["r1", "r2"]
    assert value(metrics, "recsys_exposures_total", outcome="written") == 2


def test_whenever_the_writer_is_ended_each_answer_is_written_once(
    clean_database_url: str, clean_database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cancelled while it connects, begins, writes, commits or waits."""
    monkeypatch.setattr(exposures, "_EVERY_S", 0.002)
    random = Random(7)  # noqa: S311 - for moments

    async def play() -> int:
        n = 0
        for _ in range(80):
            log = Exposures(postgres_url(clean_database_url), Metrics())
            writer = asyncio.create_task(log.write_on())
            for _ in range(random.randint(1, 4)):
                log.append(shown(n))
                n += 1
                await asyncio.sleep(random.random() * 0.006)
            await asyncio.sleep(random.random() * 0.02 if random.random() < 0.5 else 0)
            log.append(shown(n))
            n += 1
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            await log.close()
        return n

    n = asyncio.run(play())
    assert [row["request_id"] for row in rows(clean_database)] == [f"r{number}" for number in range(n)]


def test_a_row_that_cannot_be_stored_holds_up_no_other(clean_database_url: str, clean_database: sa.Engine) -> None:
    metrics = Metrics()

    async def play() -> None:
        log = Exposures(postgres_url(clean_database_url), metrics)
        log.append(shown(1, session_id="\0"))
        assert await log._write_all()
        log.append(shown(2))
        await log.close()

    asyncio.run(play())
    assert [row["request_id"] for row in rows(clean_database)] == ["r2"]
    assert value(metrics, "recsys_exposures_total", outcome="dropped") == 1


def test_an_erasure_that_is_under_way_ends_before_what_was_shown_is_written(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    """The erased user's answers, which wait in memory, are left out then."""

    async def play() -> None:
        log = Exposures(postgres_url(clean_database_url), Metrics())
        for number, user_id in enumerate((501, 502, 501)):
            log.append(shown(number, user_id=user_id))
        with clean_database.begin() as erasing:
            erasing.execute(sa.select(sa.func.pg_advisory_xact_lock(locks.EXPOSURES)))
            erasing.execute(sa.insert(tables.erased_users).values(digest=digest_of("501")))
            writing = asyncio.create_task(log._write_all())
            await asyncio.sleep(0.5)
            assert not writing.done()
        assert await writing
        await log.close()

    asyncio.run(play())
    assert [row["user_id"] for row in rows(clean_database)] == ["502"]


def test_an_erasure_waits_for_what_is_being_written(clean_database_url: str, clean_database: sa.Engine) -> None:
    shop.stock(clean_database)

    async def play() -> erasure.Erased:
        writes = Writable(postgres_url(clean_database_url))
        await writes.open()
        try:
            with clean_database.begin() as writing:
                writing.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(locks.EXPOSURES)))
                row = dict(shown(1)) | {"user_id": "501", "shown_at": dt.datetime.now(dt.UTC)}
                writing.execute(sa.insert(tables.predictions).values(row))
                erasing = asyncio.create_task(erasure.erase(writes, 501))
                await asyncio.sleep(0.3)
                assert not erasing.done()
            return await erasing
        finally:
            await writes.close()

    assert asyncio.run(play()).removed["predictions"] == 1
    assert rows(clean_database) == []


def test_the_end_is_not_held_up_by_a_connection_that_ends_in_the_middle_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled transaction rolls back; where the connection ends then, asyncpg raises another error instead."""
    monkeypatch.setattr(exposures, "_TIMEOUT_S", 0.2)

    async def write(_: Exposures) -> None:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            raise asyncpg.InterfaceError("the underlying connection is closed") from None

    monkeypatch.setattr(Exposures, "_write_batch", write)
    metrics = Metrics()

    async def end() -> None:
        log = Exposures("postgresql://nobody@127.0.0.1:1/nothing", metrics)
        log.append(shown(1))
        ending = asyncio.create_task(log.close())
        _, hanging = await asyncio.wait({ending}, timeout=10)
        for task in hanging:
            task.cancel()
        assert not hanging

    asyncio.run(end())
    assert value(metrics, "recsys_exposures_total", outcome="dropped") == 1


def test_noting_an_answer_costs_microseconds(clean_database_url: str) -> None:
    from recsys.serving.core import Pick, attribution

    log = Exposures(postgres_url(clean_database_url), Metrics())
    picks = [Pick(key, 0.5, attribution("ranked", "als")) for key in range(10)]
    provenance = {"tier": "ranked", "publication_id": 1, "list_version": "v1", "time_ms": 1.0, "degraded": []}
    scope = {"state": {"request_id": "r"}, "route": SimpleNamespace(path_format="/recommend")}
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(100):
            log.note(scope, picks, ["ranked"] * 10, provenance, "homepage", 1)
        best = min(best, (time.perf_counter() - started) / 100)
    assert best < 50e-6  # some two microseconds on a quiet machine
