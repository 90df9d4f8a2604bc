"""Background tasks are begun again whatever ends them, counted, and ended without one keeping another."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from fast_api_service.metrics import Metrics
from fast_api_service.runtime import tasks
from fast_api_service.runtime.tasks import Tasks


def n_restarts(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value("recsys_task_restarts_total", {"task": name})


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError,
        ValueError,
        asyncio.CancelledError,  # of something within, not of the task
    ],
)
def test_a_task_that_fails_is_begun_again(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.01)
    metrics = Metrics()
    n_begun = 0

    async def run() -> None:
        works = asyncio.Event()

        async def work() -> None:
            nonlocal n_begun
            n_begun += 1
            if n_begun < 4:
                raise error
            works.set()
            await asyncio.sleep(60)

        kept = Tasks(metrics)
        kept.start("listener", work)
        async with asyncio.timeout(10):
            await works.wait()
        await kept.end()

    asyncio.run(run())
    assert (n_begun, n_restarts(metrics, "listener")) == (4, 3)


def test_a_task_that_has_nothing_to_do_is_let_go() -> None:
    metrics = Metrics()

    async def run() -> None:
        async def work() -> None:
            return

        kept = Tasks(metrics)
        kept.start("log_watch", work)
        await asyncio.sleep(0.01)
        await kept.end()

    asyncio.run(run())
    assert n_restarts(metrics, "log_watch") == 0


def test_the_end_of_one_does_not_keep_another_from_its_own() -> None:
    ended: list[str] = []

    async def run() -> None:
        async def bad() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("bad")
                raise asyncpg.InternalClientError

        async def good() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                ended.append("good")

        kept = Tasks(Metrics())
        kept.start("bad", bad)
        kept.start("good", good)
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await kept.end()

    asyncio.run(run())
    assert ended == ["bad", "good"]
