"""Many requests, one log: each gets the answer that it would get alone."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

from fast_api_service.errors import ApiError
from fast_api_service.events import appends
from fast_api_service.events.appends import AppendTogether
from recsys.events.event import Event, parse
from recsys.events.log import Appended, LogAwayError
from recsys.events.memory_log import MemoryLog

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


class SlowLog(MemoryLog):
    """Notes how many events came at a time, and refuses batches that hold the item 13."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.error = error or ValueError("13")

    async def append(self, events: Sequence[Event]) -> Appended:
        self.sizes.append(len(events))
        await asyncio.sleep(0.01)
        if any(event.item_id == "13" for event in events):
            raise self.error
        return await super().append(events)


def events_of(*raw: dict[str, Any], at: dt.datetime = NOW) -> list[Event]:
    events, rejected = parse(raw, at)
    assert not rejected
    return [event for _, event in events]


def sample(name: str, item: int = 1, user: str = "u") -> dict[str, Any]:
    return {"event_id": name, "user_id": user, "item_id": str(item)}


def appended(log: MemoryLog, *batches: list[Event]) -> list[Any]:
    async def post() -> list[Any]:
        together = AppendTogether(log)
        return await asyncio.gather(*map(together.append, batches), return_exceptions=True)

    return asyncio.run(post())


def test_batches_that_wait_go_together_and_each_is_told_of_its_own() -> None:
    log = SlowLog()
    log.erase("gone")
    batches = [events_of(sample(f"{n}a"), sample(f"{n}b"), sample(f"{n}a", 2)) for n in range(7)]
    batches.append(events_of(sample("x", user="gone"), sample("y")))
    answers = appended(log, *batches)
    assert len(log.sizes) < len(batches)
    assert max(log.sizes) > 3
    for answer in answers[:7]:
        assert (answer.accepted, answer.duplicates, answer.conflicts, answer.erased) == ([0, 1], [], [2], [])
        assert answer.position is not None
    assert (answers[7].accepted, answers[7].erased) == ([1], [0])
    assert len(log.events) == 15


def test_a_retry_is_not_in_one_transaction_with_what_it_repeats() -> None:
    log = SlowLog()
    plain = {"user_id": "u", "item_id": "1"}
    first, later = events_of(plain), events_of(plain, at=NOW + dt.timedelta(seconds=600))
    others = [events_of(sample(f"o{n}")) for n in range(2)]
    answers = appended(log, *others, first, later, first)
    assert [len(answer.accepted) for answer in answers] == [1, 1, 1, 0, 0]
    assert [len(answer.duplicates) for answer in answers] == [0, 0, 0, 1, 1]
    assert log.sizes == [3, 1, 1]


def test_a_transaction_that_waits_for_a_lock_does_not_hold_up_all_others() -> None:
    log = SlowLog()

    async def post() -> tuple[bool, Any]:
        together = AppendTogether(log)
        gate = asyncio.Event()
        straight = log.append

        async def append(events: Sequence[Event]) -> Appended:
            if events[0].item_id == "7":
                await gate.wait()
            return await straight(events)

        log.append = append  # type: ignore[method-assign]
        stuck = asyncio.create_task(together.append(events_of(sample("stuck", 7))))
        await asyncio.sleep(0.3)
        await asyncio.wait_for(together.append(events_of(sample("other"))), 5)
        is_stuck = not stuck.done()
        gate.set()
        return is_stuck, await stuck

    is_stuck, answer = asyncio.run(post())
    assert is_stuck
    assert answer.accepted == [0]


def test_a_batch_that_fails_fails_alone_and_an_absent_log_fails_all_at_once() -> None:
    batches = [events_of(sample(f"e{n}", item)) for n, item in enumerate((1, 1, 2, 13, 3))]
    log = SlowLog()
    answers = appended(log, *batches)
    assert [type(answer) for answer in answers] == [Appended, Appended, Appended, ValueError, Appended]
    assert len(log.events) == 4
    away = SlowLog(ApiError(503, "database_away", "away", 1))
    answers = appended(away, *batches)
    assert [type(answer) for answer in answers] == [ApiError] * 5
    assert away.sizes == [5]  # nobody tried again


def test_who_has_waited_long_for_a_log_that_is_away_is_told_so_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appends, "PATIENCE_S", 3600.0)
    monkeypatch.setattr(appends, "USUALLY_RUNNING", 1)
    monkeypatch.setattr(appends, "MAX_RUNNING", 1)

    class HangingLog(MemoryLog):
        def __init__(self) -> None:
            super().__init__()
            self.tries = asyncio.Semaphore(0)
            self.gives_up = asyncio.Semaphore(0)

        async def append(self, events: Sequence[Event]) -> Appended:
            self.tries.release()
            await self.gives_up.acquire()
            raise LogAwayError("away")

    async def post() -> list[Any]:
        log = HangingLog()
        together = AppendTogether(log)
        soon = [asyncio.create_task(together.append(events_of(sample("s0"))))]
        await log.tries.acquire()
        soon += [asyncio.create_task(together.append(events_of(sample(f"s{n}")))) for n in range(1, 4)]
        await asyncio.sleep(0)
        waiting = together._together._waiting
        together._together._waiting = deque(batch._replace(came_at=batch.came_at - 3601) for batch in waiting)
        just_came = asyncio.create_task(together.append(events_of(sample("late"))))
        await asyncio.sleep(0)
        log.gives_up.release()
        answers = await asyncio.gather(*soon, return_exceptions=True)  # in the time of one transaction, not of two
        await log.tries.acquire()
        assert not just_came.done()
        log.gives_up.release()
        return [*answers, *await asyncio.gather(just_came, return_exceptions=True)]

    assert [type(answer) for answer in asyncio.run(post())] == [LogAwayError] * 5


@pytest.mark.parametrize("n", [0, 1])
def test_alone_it_is_the_log_s_own_answer(n: int) -> None:
    log = SlowLog()
    [answer] = appended(log, events_of(*[sample("e")] * n))
    assert answer == Appended([0] * n, position=n or None)
