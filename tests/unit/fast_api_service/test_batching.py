"""What waits together is one call; each gets its own answer, or the failure, or its own end of patience."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_api_service.batching import MicroBatcher

MAX_TOGETHER, MAX_RUNNING = 32, 2


def batcher(work: Callable[[Sequence[int]], Awaitable[Sequence[int]]]) -> MicroBatcher[int, int]:
    return MicroBatcher(work, MAX_TOGETHER, n_running=MAX_RUNNING)


class Postgres:
    """Answers 10 times what is requests, when it may; fails for a batch with a negative number."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.batches: list[list[int]] = []
        self.n_running = self.most_running = 0

    async def fetch(self, keys: Sequence[int]) -> list[int]:
        self.batches.append(list(keys))
        self.n_running += 1
        self.most_running = max(self.most_running, self.n_running)
        try:
            await asyncio.sleep(self.pause_s)
        finally:
            self.n_running -= 1
        if min(keys) < 0:
            raise OSError("away")
        return [10 * one for one in keys]


def ask(postgres: Postgres, numbers: Sequence[int], timeout_s: float = 5) -> list[Any]:
    async def run() -> list[Any]:
        batched = batcher(postgres.fetch)
        found = await asyncio.gather(*(batched.get(n, timeout_s) for n in numbers), return_exceptions=True)
        await asyncio.sleep(0)
        assert batched.is_idle or timeout_s < postgres.pause_s
        return found

    return asyncio.run(run())


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200))
def test_each_gets_its_own_answer_and_few_queries_are_made(numbers: list[int]) -> None:
    postgres = Postgres()
    assert ask(postgres, numbers) == [10 * one for one in numbers]
    assert sorted(one for batch in postgres.batches for one in batch) == sorted(numbers)
    assert max(map(len, postgres.batches)) <= MAX_TOGETHER
    assert postgres.most_running <= MAX_RUNNING
    assert len(postgres.batches) <= MAX_RUNNING + len(numbers) // MAX_TOGETHER + 1


def test_alone_a_read_goes_out_at_once() -> None:
    postgres = Postgres()
    assert ask(postgres, [7]) == [70]
    assert postgres.batches == [[7]]


def test_a_failure_is_told_to_all_of_its_query_and_the_next_one_is_tried() -> None:
    postgres = Postgres()

    async def run() -> None:
        batched = batcher(postgres.fetch)
        failed = await asyncio.gather(*(batched.get(n, 5) for n in (1, -2, 3)), return_exceptions=True)
        assert [type(one) for one in failed].count(OSError) == 3 - failed.count(10) - failed.count(30)
        assert isinstance(failed[1], OSError)
        assert await batched.get(4, 5) == 40

    asyncio.run(run())


def test_who_cannot_wait_longer_leaves_the_others_alone() -> None:
    postgres = Postgres(pause_s=0.2)

    async def run() -> None:
        batched = batcher(postgres.fetch)
        patient = asyncio.create_task(batched.get(1, 5))
        with pytest.raises(TimeoutError):
            await batched.get(2, 0.01)
        assert await patient == 10

    asyncio.run(run())


def test_a_read_goes_on_when_all_who_asked_for_it_have_left() -> None:
    """Its own limit decides about the connection, not the patience of those who happen to ask."""
    postgres = Postgres(pause_s=0.1)

    async def run() -> None:
        batched = batcher(postgres.fetch)
        with pytest.raises(TimeoutError):
            await batched.get(1, 0.001)
        assert postgres.n_running == 1
        assert await batched.get(2, 5) == 20
        await asyncio.sleep(0.15)
        assert (postgres.n_running, postgres.batches, batched.is_idle) == (0, [[1], [2]], True)

    asyncio.run(run())


def test_an_answer_that_came_while_the_loop_stood_still_is_taken() -> None:
    came: asyncio.Future[list[int]]

    async def fetch(_: Sequence[int]) -> list[int]:
        return await came

    async def run() -> None:
        nonlocal came
        loop = asyncio.get_running_loop()
        came = loop.create_future()
        asking = asyncio.create_task(batcher(fetch).get(1, 0.05))
        await asyncio.sleep(0.01)
        loop.call_soon(came.set_result, [10])  # as the socket's reader would
        time.sleep(0.2)
        assert await asking == 10

    asyncio.run(run())


def test_as_much_goes_together_as_may_and_fits() -> None:
    calls: list[list[int]] = []

    async def work(requests: Sequence[int]) -> list[int]:
        calls.append(list(requests))
        return [one * 10 for one in requests]

    async def run() -> None:
        together = MicroBatcher(work, 40, size=lambda n: n, may_join=lambda those, n: (those[0] < 100) == (n < 100))
        assert await asyncio.gather(*map(together.get, [20, 15, 10, 100, 200, 5])) == [200, 150, 100, 1000, 2000, 50]

    asyncio.run(run())
    assert calls == [[20, 15], [10], [100], [200], [5]]  # what is larger than a call goes alone


def test_who_has_gone_is_not_worked_for() -> None:
    calls: list[list[int]] = []

    async def work(requests: Sequence[int]) -> list[int]:
        calls.append(list(requests))
        return list(requests)

    async def run() -> None:
        together = MicroBatcher(work, 9)
        gone, stays = (asyncio.ensure_future(together.get(n)) for n in range(2))
        asyncio.get_running_loop().call_soon(gone.cancel)
        assert await stays == 1
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(run())
    assert calls == [[1]]


def test_who_comes_as_the_last_call_ends_is_not_forgotten() -> None:
    """The answer wakes who waited before the loop hears that the call's task has ended."""

    async def work(numbers: Sequence[int]) -> list[int]:
        return list(numbers)

    async def run() -> list[int]:
        together = MicroBatcher(work, 9)
        async with asyncio.timeout(5):
            return [await together.get(n) for n in range(20)]

    assert asyncio.run(run()) == list(range(20))


def test_an_error_may_be_the_answer_of_one_alone() -> None:
    async def work(requests: Sequence[int]) -> list[int | Exception]:
        return [ValueError(str(one)) if one == 1 else one for one in requests]

    async def run() -> list[Any]:
        return await asyncio.gather(*map(MicroBatcher(work, 9).get, range(3)), return_exceptions=True)

    found = asyncio.run(run())
    assert (found[0], type(found[1]), found[2]) == (0, ValueError, 2)
