"""Concurrent batches are appended together (group commit): one transaction and one disk flush for all of them.

Without others, a batch is appended at once. Each batch gets the same result as if appended alone.
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

# Per transaction, unless one batch is larger. If one transaction took all, there would be nothing to parse meanwhile,
# as clients post again after the response: worker and Postgres would take turns.
MAX_EVENTS: Final = 400
# Two transactions at a time, so that Postgres runs one while the worker prepares the other; more when one is slow, such
# as when waiting for a lock.
USUALLY_RUNNING: Final = 2
MAX_RUNNING: Final = 4
# When Postgres or Kafka turns out to be away, batches that have waited this long fail as well, instead of waiting for
# the next transaction to hang.
PATIENCE_S: Final = 1.0
_COMMON_ERRORS: Final = ("database_away", "not_ready")


class _Batch(NamedTuple):
    events: Sequence[Event]
    names: set[str]  # ids by which duplicates are found


class AppendTogether:
    """Appends to a log for many requests."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._turn = asyncio.Lock()
        self._together = MicroBatcher(
            self._append,
            MAX_EVENTS,
            size=lambda batch: len(batch.events),
            # no batch may have duplicates of another's events
            may_join=lambda batches, batch: all(batch.names.isdisjoint(other.names) for other in batches),
            n_running=USUALLY_RUNNING,
            n_running_when_slow=MAX_RUNNING,
            patience_s=PATIENCE_S,
        )

    async def turn(self) -> None:
        """Let one caller go on per iteration of the event loop: for work that takes a millisecond per batch.

        Many at once would delay the handling of Postgres' replies.
        """
        await self._turn.acquire()
        asyncio.get_running_loop().call_soon(self._turn.release)

    async def append(self, events: Sequence[Event]) -> Appended:
        """See EventLog; `position` is the log's position after the common append. Errors of the log propagate."""
        return await self._together.get(_Batch(events, _names(events))) if events else Appended()

    async def _append(self, batches: Sequence[_Batch]) -> list[Appended | Exception]:
        try:
            return [*await self._appended(batches)]
        except Exception as error:
            if len(batches) == 1 or _is_common(error):
                raise
        # one of the batches is at fault: the others must not fail with it
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


def _is_common(error: Exception) -> bool:
    """Whether every batch would get this error."""
    return isinstance(error, LogAwayError) or (isinstance(error, ApiError) and error.status in _COMMON_ERRORS)


def _divided(together: Appended, sizes: Sequence[int]) -> list[Appended]:
    """Split the result of a common append into those of its batches."""
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
