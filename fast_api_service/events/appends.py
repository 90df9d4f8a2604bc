"""Batches that wait at the same moment are appended as one: one transaction, one wait for the disk, for all of them.

With nobody else there, a batch goes out at once and alone. Each batch gets the answer that it would get alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from fast_api_service.batching import MicroBatcher
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
# Whoever has waited for so long when Postgres or Kafka is found to be away is told so, and does not wait for the next
# transaction to hang as well.
PATIENCE_S: Final = 1.0
_OF_ALL: Final = ("database_away", "not_ready")


class _Batch(NamedTuple):
    events: Sequence[Event]
    names: set[str]  # ids that decide what is new


class AppendTogether:
    """Appends to a log for many requests."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._turn = asyncio.Lock()
        self._together = MicroBatcher(
            self._append,
            MAX_EVENTS,
            size=lambda batch: len(batch.events),
            # none may decide what is new in another one
            may_join=lambda batches, batch: all(batch.names.isdisjoint(other.names) for other in batches),
            n_running=USUALLY_RUNNING,
            n_running_when_slow=MAX_RUNNING,
            patience_s=PATIENCE_S,
        )

    async def turn(self) -> None:
        """Wait until nobody else has gone on in this turn of the event loop: for work of a millisecond for a batch.

        Many at once would keep the loop from what Postgres answers meanwhile.
        """
        await self._turn.acquire()
        asyncio.get_running_loop().call_soon(self._turn.release)

    async def append(self, events: Sequence[Event]) -> Appended:
        """See EventLog; `position` is the one that the log had reached then. What the log raises passes through."""
        return await self._together.get(_Batch(events, _names(events))) if events else Appended()

    async def _append(self, batches: Sequence[_Batch]) -> list[Appended | Exception]:
        try:
            return [*await self._appended(batches)]
        except Exception as error:
            if len(batches) == 1 or _is_of_all(error):
                raise
        # one of them has not what it takes: the others must not suffer from it
        return await asyncio.gather(*map(self._alone, batches))

    async def _appended(self, batches: Sequence[_Batch]) -> list[Appended]:
        together = await self._log.append([event for batch in batches for event in batch.events])
        return _divided(together, [len(batch.events) for batch in batches])

    async def _alone(self, batch: _Batch) -> Appended | Exception:
        try:
            [appended] = await self._appended([batch])
        except Exception as error:
            return error
        return appended


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
