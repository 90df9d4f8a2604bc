"""The log goes on where it was when its database is dumped and restored into another server."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import asyncpg
import pytest
import sqlalchemy as sa

from recsys.events.archive import archive
from recsys.events.connections import Connections, keep_offset, offset_of
from recsys.events.event import Event, parse
from recsys.events.log import START
from recsys.events.postgres_log import PostgresLog
from recsys.storage.embedded_server import Home
from recsys.storage.engine import engine_of, migrate
from tests.conftest import execute, new_server, sibling
from tests.integration import connected
from tests.integration import serving_shop as shop

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
Answer = TypeVar("Answer")


def events_of(first: int, last: int, user: str = "501") -> list[Event]:
    raw = [{"event_id": f"e{number:04}", "user_id": user, "item_id": "1001"} for number in range(first, last)]
    return [event for _, event in parse(raw, NOW)[0]]


@pytest.fixture(scope="module")
def other_server() -> Iterator[str]:
    """URL of the maintenance database of a new server, whose transactions count from the beginning."""
    with new_server() as url:
        yield url


def move(source: str, server: str, name: str, dump: Path) -> str:
    """pg_dump, pg_restore; URL of the copy."""
    target = sibling(server, name)
    execute(server, f'drop database if exists "{name}" with (force)', f'create database "{name}"')
    binaries = Home.of(dump.parent).binaries
    for program, *arguments in (
        ("pg_dump", "--format=custom", f"--file={dump}", source),
        ("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={target}", str(dump)),
    ):
        done = subprocess.run([str(binaries / program), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return target


def burn(url: str, n: int) -> None:
    """Use up numbers of transactions, as an older server has."""
    execute(url, f"do $$ begin for i in 1..{n} loop perform pg_current_xact_id(); commit; end loop; end $$")


def with_log(url: str, work: Callable[[PostgresLog, Connections], Awaitable[Answer]]) -> Answer:
    return connected.run(url, lambda connections: work(PostgresLog(connections), connections))


async def drain(log: PostgresLog, after: str) -> tuple[list[str], str]:
    names: list[str] = []
    while (batch := await log.read(after, 7)).after != after:
        names, after = names + [event.event_id for event in batch.events], batch.after
    return names, after


@pytest.mark.parametrize("by", ["first event", "recsys migrate"])
def test_after_a_dump_and_restore_every_reader_reads_each_event_once(
    by: str, clean_database_url: str, clean_database: sa.Engine, other_server: str, tmp_path: Path
) -> None:
    shop.stock(clean_database)
    burn(clean_database_url, 20_000)  # the server that is left has given greater numbers than the new one has
    folder = tmp_path / "archive"

    async def before(log: PostgresLog, connections: Connections) -> tuple[str, int]:
        await log.append(events_of(0, 20))
        assert (await log.read(START, 100)).after != START
        n = await archive(log, folder)
        _, after = await drain(log, START)
        await connections.transaction(lambda connection: keep_offset(connection, "relay", after))
        await log.append(events_of(20, 30))
        return after, n

    after, n_archived = with_log(clean_database_url, before)
    assert n_archived == 20
    moved_url = move(clean_database_url, other_server, "moved", tmp_path / "dump")
    later = [f"e{number:04}" for number in range(20, 40)]
    if by == "recsys migrate":
        engine = engine_of(moved_url)
        migrate(engine)
        engine.dispose()

    async def behind(log: PostgresLog, connections: Connections) -> None:
        assert await log.lag(after) == 10
        assert (await drain(log, after))[0] == later[:10]  # before anything is posted here
        end = await log.end()
        assert (await log.read(end, 100)).events == []
        assert await log.lag(end) == 0
        await log.append(events_of(30, 35))
        await log.append(events_of(35, 40))
        assert (await drain(log, end))[0] == later[10:]
        assert await log.lag(after) == 20
        names, last = await drain(log, after)
        assert names == later
        assert await log.lag(last) == 0
        assert (await drain(log, START))[0] == [f"e{number:04}" for number in range(40)]
        assert await connections.transaction(lambda connection: offset_of(connection, "relay")) == after
        assert await archive(log, folder) == 20
        assert await archive(log, folder) == 0
        positions = await connections.transaction(
            lambda connection: connection.fetch(
                "select count(distinct position) as n, max(epoch) as epoch from events, server_identity"
            )
        )
        assert tuple(positions[0]) == (40, 1)

    with_log(moved_url, behind)


def test_a_copy_without_sequences_and_without_the_right_to_see_the_identity_goes_on_too(
    clean_database_url: str, clean_database: sa.Engine, other_server: str, tmp_path: Path
) -> None:
    """As logical replication leaves it, on a server that does not say who it is."""
    shop.stock(clean_database)
    execute(
        clean_database_url,
        "create or replace function this_server() returns text language sql as $$ select 'unknown' $$",
        "update server_identity set identity = 'unknown'",
    )
    burn(clean_database_url, 20_000)
    with_log(clean_database_url, lambda log, _: log.append(events_of(0, 20)))
    moved_url = move(clean_database_url, other_server, "copied", tmp_path / "dump")
    execute(moved_url, "alter sequence events_position_seq restart")

    async def behind(log: PostgresLog, connections: Connections) -> None:
        first, after = await drain(log, START)
        await log.append(events_of(20, 40))
        await log.append(events_of(40, 41))
        assert (await drain(log, after))[0] == [f"e{number:04}" for number in range(20, 41)]
        assert first == [f"e{number:04}" for number in range(20)]
        row = await connections.transaction(
            lambda connection: connection.fetchrow(
                "select count(distinct position), (select epoch from server_identity) from events"
            )
        )
        assert tuple(row) == (41, 1)

    with_log(moved_url, behind)


def test_on_one_server_no_epoch_ends(clean_database_url: str, clean_database: sa.Engine) -> None:
    """Whatever commits late, and in a transaction that appends twice."""
    shop.stock(clean_database)

    async def work(log: PostgresLog, connections: Connections) -> None:
        from recsys.events import postgres_log

        slow = await asyncpg.connect(clean_database_url)
        transaction = slow.transaction()
        await transaction.start()
        await postgres_log.append(slow, events_of(0, 3))
        await log.append(events_of(3, 5, user="502"))
        assert not await slow.fetchval("select server_moved()")
        await postgres_log.append(slow, events_of(5, 8))
        await transaction.commit()
        await slow.close()
        assert sorted((await drain(log, START))[0]) == [f"e{number:04}" for number in range(8)]
        assert await connections.transaction(lambda c: c.fetchval("select epoch from server_identity")) == 0

    with_log(clean_database_url, work)
