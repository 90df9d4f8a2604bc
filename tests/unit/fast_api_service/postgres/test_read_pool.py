"""The read pool: bounded, reuses connections, and closes them after an error."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from fast_api_service.postgres.read_pool import MAX_STATEMENTS, NoneFreeError, ReadPool


class Connection:
    """Answers with the arguments; "slow" waits for ever, "broken" fails."""

    def __init__(self) -> None:
        self.n_prepared = 0
        self.closed = False
        self._hung: asyncio.Future[None] | None = None

    async def prepare(self, sql: str) -> Connection:
        self.n_prepared += 1
        return self

    async def execute(self, sql: str) -> str:
        return "SELECT 0"

    async def fetch(self, word: str) -> list[str]:
        if word == "slow":
            self._hung = asyncio.get_running_loop().create_future()
            await self._hung
        if word == "broken":
            raise OSError(word)
        await asyncio.sleep(0)
        return [word]

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True
        if self._hung is not None and not self._hung.done():
            self._hung.set_exception(asyncpg.ConnectionDoesNotExistError())


def pool(size: int) -> tuple[ReadPool, list[Connection]]:
    opened: list[Connection] = []

    async def connect() -> Any:
        await asyncio.sleep(0)
        opened.append(Connection())
        return opened[-1]

    return ReadPool(connect, size), opened


def test_a_connection_and_its_statement_are_used_again() -> None:
    reads, opened = pool(3)

    async def ask() -> list[Any]:
        return [await reads.fetch("select", (word,), 1) for word in "abc"]

    assert asyncio.run(ask()) == [["a"], ["b"], ["c"]]
    assert [connection.n_prepared for connection in opened] == [1]
    assert (reads.n_in_use, reads.n_idle) == (0, 1)


def test_there_are_never_more_than_allowed() -> None:
    reads, opened = pool(2)

    async def ask() -> None:
        await asyncio.gather(*(reads.fetch("select", ("x",), 5) for _ in range(20)))

    asyncio.run(ask())
    assert len(opened) == 2
    assert reads.n_idle == 2


@pytest.mark.parametrize(("word", "error"), [("slow", TimeoutError), ("broken", OSError)])
def test_after_a_failure_the_connection_is_ended_and_the_place_is_free(word: str, error: type[Exception]) -> None:
    reads, opened = pool(1)

    async def ask() -> Any:
        with pytest.raises(error):
            await reads.fetch("select", (word,), 0.05)
        return await reads.fetch("select", ("x",), 1)

    assert asyncio.run(ask()) == ["x"]
    assert [connection.closed for connection in opened] == [True, False]
    assert reads.n_in_use == 0


def test_a_connection_that_the_server_closed_is_passed_over() -> None:
    reads, opened = pool(1)

    async def ask() -> Any:
        await reads.fetch("select", ("x",), 1)
        opened[0].closed = True
        return await reads.fetch("select", ("y",), 1)

    assert asyncio.run(ask()) == ["y"]
    assert len(opened) == 2


def test_closing_ends_the_idle_ones() -> None:
    reads, opened = pool(2)

    async def ask() -> None:
        await reads.fetch("select", ("x",), 1)
        await reads.close()

    asyncio.run(ask())
    assert opened[0].closed
    assert reads.n_idle == 0


def test_a_statement_is_prepared_ahead_and_of_many_the_first_goes() -> None:
    reads, opened = pool(1)

    async def ask() -> None:
        await reads.fetch("select", ("x",), 1)
        for number in range(MAX_STATEMENTS):
            await reads.prepare(f"select {number}", ("x",))
        await reads.fetch(f"select {MAX_STATEMENTS - 1}", ("x",), 1)  # is there
        await reads.fetch("select", ("x",), 1)  # is not

    asyncio.run(ask())
    assert [connection.n_prepared for connection in opened] == [1 + MAX_STATEMENTS + 1]
    assert reads.n_idle == 1


def test_who_finds_no_connection_free_is_told_so_and_not_that_postgres_is_slow() -> None:
    reads, opened = pool(1)

    async def ask() -> None:
        hanging = asyncio.create_task(reads.fetch("select", ("slow",), 5))
        await asyncio.sleep(0.01)
        with pytest.raises(NoneFreeError):
            await reads.fetch("select", ("x",), 0.02)
        opened[0].terminate()
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await hanging
        assert await reads.fetch("select", ("x",), 1) == ["x"]

    asyncio.run(ask())


def test_statements_are_prepared_on_connections_of_the_same_number() -> None:
    reads, opened = pool(2)

    async def ask() -> None:
        await asyncio.gather(*(reads.fetch("select", ("x",), 5) for _ in range(2)))
        await asyncio.gather(reads.prepare("another", ("x",)), *(reads.fetch("select", ("x",), 5) for _ in range(20)))

    asyncio.run(ask())
    assert len(opened) == 2
    assert reads.n_in_use == 0


def test_the_time_for_which_the_loop_stands_still_does_not_count() -> None:
    """What Postgres has answered meanwhile is in the socket, and is read first."""
    reads, opened = pool(1)

    async def ask() -> list[Any]:
        loop = asyncio.get_running_loop()
        await reads.fetch("select", ("x",), 1)
        asking = asyncio.create_task(reads.fetch("select", ("slow",), 0.05))
        await asyncio.sleep(0.01)
        hung = opened[0]._hung
        assert hung is not None
        time.sleep(0.2)
        loop.call_later(0.01, hung.set_result, None)
        return await asking

    assert asyncio.run(ask()) == ["slow"]
    assert not opened[0].closed


def test_a_caller_that_is_ended_is_not_taken_for_a_slow_postgres() -> None:
    reads, opened = pool(1)

    async def ask() -> None:
        asking = asyncio.create_task(reads.fetch("select", ("slow",), 5))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (reads.n_in_use, opened[0].closed) == (0, True)
        assert await reads.fetch("select", ("x",), 1) == ["x"]

    asyncio.run(ask())


def test_connections_are_opened_before_the_first_request() -> None:
    reads, opened = pool(8)

    async def ask() -> None:
        await reads.prepare("select", ("x",), at_least=3)
        assert (reads.n_idle, [connection.n_prepared for connection in opened]) == (3, [1, 1, 1])
        await reads.prepare("select", ("x",), at_least=3)
        assert await reads.fetch("select", ("x",), 1) == ["x"]

    asyncio.run(ask())
    assert [connection.n_prepared for connection in opened] == [1, 1, 1]
