"""Requests of the same moment are worked on in one call: one query, one transaction, one run of a network."""

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
_LONG_S: Final = 0.2  # after which a call counts as one that waits for something


class _Waiting(NamedTuple, Generic[Request, Answer]):
    request: Request
    answer: asyncio.Future[Answer]
    came_at: float  # by the loop's clock


class MicroBatcher(Generic[Request, Answer]):
    """Calls `work(requests)` with all that waits, as much as goes together; it gives one answer, or error, for each.

    With nobody else there, a request is worked on at once and alone. What `work` raises, all of its requests get, and
    those who have waited for `patience_s` as well. Who cannot wait any longer leaves, and the work goes on.
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
        """`max_size`: of a call, in units of `size`, unless one request is larger. `may_join`: whether a request may
        stand behind those in one call. `n_running` calls at a time, more while one takes long."""
        self._work, self._max_size, self._size, self._may_join = work, max_size, size, may_join
        self._n_running, self._n_running_when_slow = n_running, n_running_when_slow
        self._patience_s = patience_s
        self._waiting: deque[_Waiting[Request, Answer]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself does not hold on to them
        self._n_calling = 0  # of them, those that will look at what waits again
        self._began = 0.0  # when the last call did, by the loop's clock

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
        if n < self._n_running or (n < self._n_running_when_slow and now - self._began > _LONG_S):
            self._began = now
            self._n_calling += 1
            task = loop.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if timeout_s is None:
            return await answer
        timer = loop.call_later(timeout_s, _give_up, answer, now + timeout_s)  # a third of asyncio.timeout
        try:
            return await answer
        finally:
            timer.cancel()

    async def _run(self) -> None:
        try:
            await self._call_while_some_wait()
        finally:
            self._n_calling -= 1  # at once: who comes from now on begins another call

    async def _call_while_some_wait(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            together = [one for one in self._next() if not one.answer.done()]
            if not together:
                continue
            self._began = loop.time()
            try:
                answers = await self._work([one.request for one in together])
            except Exception as error:
                for one in [*together, *self._who_waited_long()]:
                    _settle(one.answer, error)
            else:
                for one, answer in zip(together, answers, strict=True):
                    _settle(one.answer, answer)

    def _next(self) -> list[_Waiting[Request, Answer]]:
        """The first of those that wait, as many as go together."""
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

    def _who_waited_long(self) -> list[_Waiting[Request, Answer]]:
        """Takes those out of the queue; the first are the oldest."""
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
    if loop.time() - due > STALL_S:  # the loop stood still, and the answer may have come: it is read first
        loop.call_later(_GRACE_S, _give_up, answer, math.inf)
    else:
        answer.set_exception(TimeoutError())
