"""Reads that wait at the same moment go to Postgres as one query: under load a round trip serves many requests."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from fast_api_service.postgres.time_limit import STALL_S

MAX_TOGETHER: Final = 32
_GRACE_S: Final = 0.02
MAX_RUNNING: Final = 2  # queries at a time, so that one is read while the other one runs


class _Waiting(NamedTuple):
    asked: Any
    answer: asyncio.Future[Any]


class Coalescer:
    """Calls `fetch(asked)`, which gives one answer for each, with all that wait for it.

    With nobody else there, a read goes out at once and alone. What `fetch` raises, all of its requests get. Who cannot
    wait any longer leaves, and the read goes on: its own limit is that of `fetch`.
    """

    def __init__(self, fetch: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]) -> None:
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
        self._waiting.append(_Waiting(asked, answer))
        if len(self._running) < MAX_RUNNING:
            task = loop.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        timer = loop.call_later(timeout_s, _give_up, answer, loop.time() + timeout_s)  # a third of asyncio.timeout
        try:
            return await answer
        finally:
            timer.cancel()

    async def _run(self) -> None:
        while self._waiting:
            n = min(len(self._waiting), MAX_TOGETHER)
            together = [one for one in (self._waiting.popleft() for _ in range(n)) if not one.answer.done()]
            if not together:
                continue
            try:
                answers = await self._fetch([one.asked for one in together])
            except Exception as error:
                for one in together:
                    if not one.answer.done():
                        one.answer.set_exception(error)
            else:
                for one, answer in zip(together, answers, strict=True):
                    if not one.answer.done():
                        one.answer.set_result(answer)


def _give_up(answer: asyncio.Future[Any], due: float) -> None:
    if answer.done():
        return
    loop = asyncio.get_running_loop()
    if loop.time() - due > STALL_S:  # the loop stood still, and the answer may have come: it is read first
        loop.call_later(_GRACE_S, _give_up, answer, math.inf)
    else:
        answer.set_exception(TimeoutError())
