"""Work of requests that come to it in the same turn of the event loop, done in one call for all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class _Waiting(NamedTuple):
    kind: object
    size: int
    asked: Any
    work: Callable[[Sequence[Any]], Sequence[Any]]
    answer: asyncio.Future[Any]


class Together:
    """Calls `work`, which gives one answer for each, with all that was asked of the same kind since the last turn.

    Requests whose reads came back together get here one after the other in one turn; in the next one they are worked
    on, at most `max_size` at a time, so that the loop turns in between. What `work` raises, all of them get.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._waiting: deque[_Waiting] = deque()

    async def get(self, kind: object, size: int, asked: Any, work: Callable[[Sequence[Any]], Sequence[Any]]) -> Any:
        """The answer to `asked`, of this size, from the `work` of one of those of the same `kind`, the same object."""
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._waiting.append(_Waiting(kind, size, asked, work, answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._run)
        return await answer

    def _run(self) -> None:
        group = self._group()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        there = [one for one in group if not one.answer.done()]
        if not there:
            return
        try:
            answers = there[0].work([one.asked for one in there])
        except Exception as error:
            for one in there:
                one.answer.set_exception(error)
            return
        for one, answer in zip(there, answers, strict=True):
            one.answer.set_result(answer)

    def _group(self) -> list[_Waiting]:
        """The first one, and those behind it that fit."""
        group = [self._waiting.popleft()]
        size = group[0].size
        while self._waiting and self._waiting[0].kind is group[0].kind:
            size += self._waiting[0].size
            if size > self._max_size:
                break
            group.append(self._waiting.popleft())
        return group
