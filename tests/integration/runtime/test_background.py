"""What a worker does beside requests: it goes on after any fault, and the end of a worker takes every step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from fast_api_service.app import create_app
from fast_api_service.runtime import tasks
from fast_api_service.runtime.model_updates import Updates
from fast_api_service.runtime.state import State
from recsys.events.postgres_log import PostgresLog
from tests.integration import serving_shop as shop
from tests.integration.recommend.test_exposures import shown, value
from tests.integration.serving_shop import count


def backends(engine: sa.Engine, name: str) -> list[int]:
    sql = "select pid from pg_stat_activity where application_name like :name and datname = current_database()"
    with engine.connect() as connection:
        return list(connection.scalars(sa.text(sql), {"name": name}))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


def run(url: str, play: Callable[[State], Awaitable[None]]) -> None:
    async def whole() -> None:
        app = create_app(url)
        async with app.router.lifespan_context(app):
            await play(app.state.service)

    asyncio.run(whole())


@pytest.mark.parametrize(
    ("fault", "n_restarts"),
    [
        (asyncpg.InternalClientError("got result for unknown protocol state 3"), 0),  # a connection that is lost
        (ConnectionRefusedError(), 0),
        (ValueError("whatever it may be"), 1),
    ],
)
def test_the_listener_hears_again_after_a_fault(
    clean_database_url: str,
    clean_database: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    n_restarts: int,
) -> None:
    shop.stock(clean_database)
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.1)
    connect, faults = asyncpg.connect, [fault]
    wake, heard = State.wake, list[State]()

    def wake_and_note(state: State) -> None:
        heard.append(state)
        wake(state)

    monkeypatch.setattr(State, "wake", wake_and_note)

    async def faulty(*arguments: Any, **options: Any) -> asyncpg.Connection:
        if options["server_settings"]["application_name"] == "recsys-api-listener" and faults:
            raise faults.pop()
        return await connect(*arguments, **options)

    async def play(state: State) -> None:
        await until(lambda: bool(backends(clean_database, "recsys-api-listener")))
        monkeypatch.setattr(asyncpg, "connect", faulty)
        [pid] = backends(clean_database, "recsys-api-listener")
        with clean_database.connect() as connection:
            connection.execute(sa.text("select pg_terminate_backend(:pid)"), {"pid": pid})
        await until(lambda: not faults and bool(set(backends(clean_database, "recsys-api-listener")) - {pid}))
        await asyncio.sleep(0.3)  # what it calls when it begins to listen
        n_before = len(heard)
        with clean_database.begin() as connection:
            connection.execute(sa.text("update items set available = false where item_key = 5"))
        await until(lambda: len(heard) > n_before)
        assert value(state.metrics, "recsys_task_restarts_total", task="listener") == n_restarts

    run(clean_database_url, play)


def test_the_end_takes_every_step_whatever_fails_before(
    clean_database_url: str, clean_database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.stock(clean_database)

    async def fail(_: Any) -> None:
        raise asyncpg.InternalClientError("at the end")

    async def fail_when_cancelled(_: Updates) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await fail(None)

    monkeypatch.setattr(PostgresLog, "close", fail)
    monkeypatch.setattr(Updates, "watch", fail_when_cancelled)

    async def play(state: State) -> None:
        await until(lambda: bool(backends(clean_database, "recsys-api-listener")))
        await state.writes.transaction(lambda connection: connection.fetchval("select 1"))
        for number in range(7):
            state.exposures.append(shown(number))

    with pytest.raises(asyncpg.InternalClientError, match="at the end"):
        run(clean_database_url, play)
    assert count(clean_database, "predictions") == 7
    shop.wait_until(lambda: backends(clean_database, "recsys-api%") == [], 10)


def test_a_start_that_fails_leaves_no_connection(
    clean_database_url: str, clean_database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: State) -> None:
        raise ValueError("at the start")

    monkeypatch.setattr(State, "read_keys", fail)
    with pytest.raises(ValueError, match="at the start"):
        run(clean_database_url, lambda _: asyncio.sleep(0))
    assert backends(clean_database, "recsys-api%") == []
