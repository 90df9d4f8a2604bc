"""A process that works tells that it is alive; one that makes no progress does not."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from recsys.errors import RecsysError
from recsys.updater import worker
from recsys.updater.worker import Worker


class Beats:
    def __init__(self) -> None:
        self.n = 0

    async def __call__(self) -> None:
        self.n += 1
        if self.n == 2:
            raise RecsysError("Postgres is away for a moment")


def test_beats_go_on_while_work_blocks_and_its_result_and_error_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BEAT_S", 0.02)
    beats = Beats()

    def work(result: int, *, add: int) -> tuple[int, str]:
        deadline = time.monotonic() + 30
        while beats.n < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        return result + add, threading.current_thread().name

    def fails() -> None:
        raise ZeroDivisionError

    async def run() -> None:
        one = Worker(beats)
        first = await one.do(work, 1, add=2)
        assert first[0] == 3
        assert (await one.do(work, 1, add=2))[1] == first[1] != threading.current_thread().name
        with pytest.raises(ZeroDivisionError):
            await one.do(fails)

    asyncio.run(run())
    assert beats.n >= 4


def test_work_without_progress_is_not_covered_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BEAT_S", 0.01)
    monkeypatch.setattr(worker, "STUCK_S", 0.2)
    beats = Beats()
    one = Worker(beats)
    seen: list[int] = []

    def hangs() -> None:
        for _ in range(10):
            time.sleep(0.05)
            one.progress()
        seen.append(beats.n)
        time.sleep(0.5)
        seen.append(beats.n)
        time.sleep(0.3)
        seen.append(beats.n)

    asyncio.run(one.do(hangs))
    assert 0 < seen[0] < seen[1] == seen[2]
