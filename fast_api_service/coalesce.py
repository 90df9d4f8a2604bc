"""Reads that wait at the same moment go to Postgres as one query: under load a round trip serves many requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

MAX_TOGETHER: Final = 32
MAX_RUNNING: Final = 2  # queries at a time, so that one is read while the other one runs


class _Waiting(NamedTuple):
    asked: Any
    until: float  # by the loop's clock
    answer: asyncio.Future[Any]


class Coalescer:
    """Calls `fetch(asked, timeout_s)`, which gives one answer for each, with all that wait for it.

    With nobody else there, a read goes out at once and alone. What `fetch` raises, all of its requests get.
    """

    def __init__(self, fetch: Callable[[Sequence[Any], float], Awaitable[Sequence[Any]]]) -> None:
        self._fetch = fetch
        self._waiting: deque[_Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        return not self._running

    async def get(self, asked: Any, timeout_s: float) -> Any:
        """The answer to `asked`; TimeoutError."""
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._waiting.append(_Waiting(asked, loop.time() + timeout_s, answer))
        if len(self._running) < MAX_RUNNING:
            task = loop.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        timer = loop.call_later(timeout_s, _give_up, answer)  # a third of what asyncio.timeout costs
        try:
            return await answer
        finally:
            timer.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            n = min(len(self._waiting), MAX_TOGETHER)
            together = [one for one in (self._waiting.popleft() for _ in range(n)) if not one.answer.done()]
            if not together:
                continue
            try:
                timeout_s = max(one.until for one in together) - loop.time()
                answers = await self._fetch([one.asked for one in together], timeout_s)
            except Exception as error:
                for one in together:
                    if not one.answer.done():
                        one.answer.set_exception(error)
            else:
                for one, answer in zip(together, answers, strict=True):
                    if not one.answer.done():
                        one.answer.set_result(answer)


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
