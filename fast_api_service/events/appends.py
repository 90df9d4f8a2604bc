"""Batches that wait at the same moment are appended as one: one transaction, one wait for the disk, for all of them.

With nobody else there, a batch goes out at once and alone. Each batch gets the answer that it would get alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from fast_api_service.errors import ApiError
from recsys.events.event import Event
from recsys.events.log import Appended, EventLog, LogAwayError

# In a transaction, unless one batch is larger. Of clients that post again when they are answered, one that takes all
# leaves nothing to read meanwhile: worker and Postgres would wait for each other by turns.
MAX_EVENTS: Final = 400
# Two transactions at a time, so that Postgres has one while the worker ends and begins the other; more beside them when
# one takes long, as for a lock.
USUALLY_RUNNING: Final = 2
MAX_RUNNING: Final = 4
LONG_S: Final = 0.2
# Whoever has waited for so long when Postgres or Kafka is found to be away is told so, and does not wait for the next
# transaction to hang as well.
PATIENCE_S: Final = 1.0
_OF_ALL: Final = ("database_away", "not_ready")


class _Batch(NamedTuple):
    events: Sequence[Event]
    names: set[str]  # ids that decide what is new
    appended: asyncio.Future[Appended]
    came_at: float  # by the loop's clock


class AppendTogether:
    """Appends to a log for many requests."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._waiting: deque[_Batch] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._began = 0.0  # when the last transaction did, by the loop's clock

    async def turn(self) -> None:
        """Wait until nobody else has gone on in this turn of the event loop: for work of a millisecond for a batch.

        Many at once would keep the loop from what Postgres answers meanwhile.
        """
        await self._turn.acquire()
        asyncio.get_running_loop().call_soon(self._turn.release)

    async def append(self, events: Sequence[Event]) -> Appended:
        """See EventLog; `position` is the one that the log had reached then. What the log raises passes through."""
        if not events:
            return Appended()
        loop = asyncio.get_running_loop()
        self._waiting.append(_Batch(events, _names(events), loop.create_future(), loop.time()))
        appended = self._waiting[-1].appended
        n = len(self._running)
        if n < USUALLY_RUNNING or (n < MAX_RUNNING and loop.time() - self._began > LONG_S):
            self._began = loop.time()
            task = loop.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await appended

    async def _run(self) -> None:
        while self._waiting:
            batches = self._next()
            self._began = asyncio.get_running_loop().time()
            try:
                await self._append(batches)
            except Exception as error:
                if _is_of_all(error):
                    _fail([*batches, *self._who_waited_long()], error)
                elif len(batches) == 1:
                    _fail(batches, error)
                else:  # one of them has not what it takes: the others must not suffer from it
                    await asyncio.gather(*(self._alone(batch) for batch in batches))

    def _next(self) -> list[_Batch]:
        """The first of those that wait, as long as none of them decides what is new in another one."""
        batches = [self._waiting.popleft()]
        names, n = set(batches[0].names), len(batches[0].events)
        while self._waiting:
            batch = self._waiting[0]
            n += len(batch.events)
            if n > MAX_EVENTS or not names.isdisjoint(batch.names):
                break
            names |= batch.names
            batches.append(self._waiting.popleft())
        return batches

    def _who_waited_long(self) -> list[_Batch]:
        """Takes those out of the queue; the first are the oldest."""
        since = asyncio.get_running_loop().time() - PATIENCE_S
        found = []
        while self._waiting and self._waiting[0].came_at < since:
            found.append(self._waiting.popleft())
        return found

    async def _append(self, batches: Sequence[_Batch]) -> None:
        together = await self._log.append([event for batch in batches for event in batch.events])
        for batch, appended in zip(batches, _divided(together, [len(batch.events) for batch in batches]), strict=True):
            if not batch.appended.done():
                batch.appended.set_result(appended)

    async def _alone(self, batch: _Batch) -> None:
        try:
            await self._append([batch])
        except Exception as error:
            _fail([batch], error)


def _names(events: Sequence[Event]) -> set[str]:
    names = {event.event_id for event in events}
    for event in events:
        if event.retry_of is not None:
            names.add(event.retry_of)
        if event.retried_as is not None:
            names.add(event.retried_as)
    return names


def _is_of_all(error: Exception) -> bool:
    """Whether every batch would get this error."""
    return isinstance(error, LogAwayError) or (isinstance(error, ApiError) and error.status in _OF_ALL)


def _fail(batches: Sequence[_Batch], error: Exception) -> None:
    for batch in batches:
        if not batch.appended.done():
            batch.appended.set_exception(error)


def _divided(together: Appended, sizes: Sequence[int]) -> list[Appended]:
    """What became of each of the batches that were appended one after the other."""
    if len(sizes) == 1:
        return [together]
    of_place = [batch for batch, size in enumerate(sizes) for _ in range(size)]
    starts = [sum(sizes[:batch]) for batch in range(len(sizes))]
    divided = [Appended() for _ in sizes]
    for outcome in ("accepted", "duplicates", "conflicts", "erased"):
        for place in getattr(together, outcome):
            batch = of_place[place]
            getattr(divided[batch], outcome).append(place - starts[batch])
    return [replace(one, position=together.position) if one.accepted else one for one in divided]
