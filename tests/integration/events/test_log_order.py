"""Readers of the Postgres log skip nothing, whatever commits late."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import sqlalchemy as sa

from recsys.events import postgres_log
from recsys.events.connections import Connections
from recsys.events.event import Event, parse
from recsys.events.log import START
from recsys.events.postgres_log import PostgresLog
from tests.integration import serving_shop as shop

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


def events_of(*names: str) -> list[Event]:
    raw = [{"event_id": name, "user_id": f"u-{name}", "item_id": "1001"} for name in names]
    return [event for _, event in parse(raw, NOW)[0]]


async def names_after(log: PostgresLog, after: str) -> tuple[list[str], str]:
    batch = await log.read(after, 1000)
    return [event.event_id for event in batch.events], batch.after


def test_what_commits_late_is_waited_for_and_long_transactions_of_others_are_not(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    shop.stock(clean_database)

    async def work() -> None:
        async with AsyncExitStack() as stack:

            async def connect() -> asyncpg.Connection:
                connection = await asyncpg.connect(clean_database_url)
                stack.push_async_callback(connection.close)
                return connection

            log = PostgresLog(Connections(clean_database_url, "reader"))
            other, slow, quick = await connect(), await connect(), await connect()
            long = other.transaction()
            await long.start()
            await other.execute("update items set title = 'x' where item_key = 1")  # has a number, adds no event
            late = slow.transaction()
            await late.start()
            await postgres_log.append(slow, events_of("late-1", "late-2"))
            async with quick.transaction():
                await postgres_log.append(quick, events_of("quick"))
            names, after = await names_after(log, START)
            assert names == []  # a reader by position would take "quick", and never see "late"
            assert await log.lag(START) == 1
            end = await log.end()
            await late.commit()
            assert await names_after(log, after) == await names_after(log, START)
            names, _ = await names_after(log, after)
            assert names == ["late-1", "late-2", "quick"]
            assert (await names_after(log, end))[0] == names  # the end was before the one that was under way
            # a transaction that is in the log's table and has no number yet holds nobody up, and comes later
            async with slow.transaction():
                await slow.execute("delete from events where false")
                async with quick.transaction():
                    await postgres_log.append(quick, events_of("after"))
                _, end = await names_after(log, START)
                assert (await names_after(log, after))[0] == [*names, "after"]
                await postgres_log.append(slow, events_of("entered-early"))
                assert (await names_after(log, end))[0] == []
            assert (await names_after(log, end))[0] == ["entered-early"]
            await long.rollback()
            await log._connections.close()  # type: ignore[attr-defined]

    asyncio.run(work())


def test_concurrent_writers_with_slow_transactions_are_read_whole(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    """Eight writers commit, roll back and dawdle while a reader follows; it sees each committed event once."""
    shop.stock(clean_database)
    chance = random.Random(5)  # noqa: S311
    committed: list[str] = []

    async def write(writer: int) -> None:
        connection = await asyncpg.connect(clean_database_url)
        try:
            for number in range(30):
                names = [f"w{writer}-{number}-{part}" for part in range(chance.randint(1, 5))]
                transaction = connection.transaction()
                await transaction.start()
                await postgres_log.append(connection, events_of(*names))
                await asyncio.sleep(chance.choice([0, 0, 0.002, 0.05]))
                if chance.random() < 0.1:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    committed.extend(names)
        finally:
            await connection.close()

    async def follow(done: asyncio.Event) -> list[str]:
        connections = Connections(clean_database_url, "reader")
        log, after, seen = PostgresLog(connections), START, list[str]()
        while True:
            last = done.is_set()
            names, after = await names_after(log, after)
            seen += names
            if last and not names:
                await connections.close()
                return seen

    async def work() -> list[Any]:
        done = asyncio.Event()
        reader = asyncio.create_task(follow(done))
        await asyncio.gather(*(write(writer) for writer in range(8)))
        done.set()
        return await reader

    seen = asyncio.run(work())
    assert len(seen) == len(set(seen))
    assert set(seen) == set(committed)
