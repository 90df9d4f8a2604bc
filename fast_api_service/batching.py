"""Micro-batching: concurrent requests are processed in one call, such as one query, transaction or network run."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from fast_api_service.postgres.read_pool import STALL_S

Request = TypeVar("Request")
Answer = TypeVar("Answer")
_GRACE_S: Final = 0.02
_SLOW_S: Final = 0.2  # after which a call counts as slow


class _Waiting(NamedTuple, Generic[Request, Answer]):
    request: Request
    answer: asyncio.Future[Answer]
    came_at: float  # in the loop's time


class MicroBatcher(Generic[Request, Answer]):
    """Calls `work(requests)` with the waiting requests that fit into one batch; it returns an answer or error for each.

    Without others, a request is processed at once. If `work` raises, all requests of its batch fail, and also those
    that have waited for `patience_s`. A caller that times out or is cancelled does not stop the work.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Request]], Awaitable[Sequence[Answer | Exception]]],
        max_size: int,
        *,
        size: Callable[[Request], int] = lambda _: 1,
        may_join: Callable[[Sequence[Request], Request], bool] = lambda _, __: True,
        n_running: int = 1,
        n_running_when_slow: int = 0,
        patience_s: float = math.inf,
    ) -> None:
        """`max_size`: of a batch, in units of `size`, unless one request is larger. `may_join`: whether a request may
        be added to a batch. `n_running` calls at a time; up to `n_running_when_slow` while one is slow."""
        self._work, self._max_size, self._size, self._may_join = work, max_size, size, may_join
        self._n_running, self._n_running_when_slow = n_running, n_running_when_slow
        self._patience_s = patience_s
        self._waiting: deque[_Waiting[Request, Answer]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()  # strong references, which the loop does not keep
        self._n_calling = 0  # tasks that will take further waiting requests
        self._began = 0.0  # when the last call began, in the loop's time

    @property
    def is_idle(self) -> bool:
        return self._n_calling == 0

    async def get(self, request: Request, timeout_s: float | None = None) -> Answer:
        """The answer to `request`; TimeoutError."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append(_Waiting(request, answer, now))
        n = self._n_calling
        if n < self._n_running or (n < self._n_running_when_slow and now - self._began > _SLOW_S):
            self._began = now
            self._n_calling += 1
            task = loop.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if timeout_s is None:
            return await answer
        timer = loop.call_later(timeout_s, _give_up, answer, now + timeout_s)  # takes a third of asyncio.timeout's time
        try:
            return await answer
        finally:
            timer.cancel()

    async def _run(self) -> None:
        try:
            await self._process_waiting()
        finally:
            self._n_calling -= 1  # at once: the next request begins another call

    async def _process_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [one for one in self._next() if not one.answer.done()]
            if not batch:
                continue
            self._began = loop.time()
            try:
                answers = await self._work([one.request for one in batch])
            except Exception as error:
                for one in [*batch, *self._take_long_waiting()]:
                    _settle(one.answer, error)
            else:
                for one, answer in zip(batch, answers, strict=True):
                    _settle(one.answer, answer)

    def _next(self) -> list[_Waiting[Request, Answer]]:
        """Take the next batch from the queue."""
        found = [self._waiting.popleft()]
        requests, size = [found[0].request], self._size(found[0].request)
        while self._waiting:
            one = self._waiting[0].request
            size += self._size(one)
            if size > self._max_size or not self._may_join(requests, one):
                break
            found.append(self._waiting.popleft())
            requests.append(one)
        return found

    def _take_long_waiting(self) -> list[_Waiting[Request, Answer]]:
        """Take those that have waited for `patience_s` from the queue, oldest first."""
        since = asyncio.get_running_loop().time() - self._patience_s
        found = []
        while self._waiting and self._waiting[0].came_at < since:
            found.append(self._waiting.popleft())
        return found


def _settle(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _give_up(answer: asyncio.Future[Answer], due: float) -> None:
    if answer.done():
        return
    loop = asyncio.get_running_loop()
    if loop.time() - due > STALL_S:  # the loop was blocked, and the answer may have arrived: let it be read first
        loop.call_later(_GRACE_S, _give_up, answer, math.inf)
    else:
        answer.set_exception(TimeoutError())
