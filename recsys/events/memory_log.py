"""The event log in memory, for unit tests of its readers; not durable."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left
from collections.abc import Sequence

from recsys.events.event import Event
from recsys.events.log import MAX_LAG, START, Appended, Batch, Offset


class MemoryLog:
    """Offsets are indices of `events`."""

    name = "memory"

    def __init__(self) -> None:
        self.events: list[Event | None] = []  # None: erased
        self._received_at: list[dt.datetime] = []
        self.quarantine: dict[tuple[str, bytes], Event] = {}
        self.erased_users: set[str] = set()
        self._place_by_id: dict[str, int] = {}

    async def append(self, events: Sequence[Event]) -> Appended:
        """See EventLog; `position` counts from 1."""
        appended = Appended()
        position = None
        for place, event in enumerate(events):
            if event.user_id in self.erased_users:
                appended.erased.append(place)
            elif self._is_known(event):
                appended.duplicates.append(place)
            elif event.event_id in self._place_by_id:
                appended.conflicts.append(place)
                self.quarantine[event.event_id, event.digest] = event
            else:
                appended.accepted.append(place)
                self._place_by_id[event.event_id] = len(self.events)
                self.events.append(event)
                self._received_at.append(dt.datetime.now(dt.UTC))
                position = len(self.events)
        return Appended(appended.accepted, appended.duplicates, appended.conflicts, appended.erased, position)

    async def read(self, after: Offset, limit: int, until: Offset | None = None) -> Batch:
        """See EventLog."""
        start, end = _place(after), len(self.events) if until is None else _place(until)
        portion = self.events[start : min(start + limit, end)]
        return Batch([event for event in portion if event is not None], str(start + len(portion)))

    async def end(self) -> Offset:
        """See EventLog."""
        return str(len(self.events))

    async def at(self, instant: dt.datetime) -> Offset:
        """See EventLog."""
        return str(bisect_left(self._received_at, instant))

    async def oldest(self) -> Offset:
        """See EventLog."""
        return START

    def later(self, one: Offset, other: Offset) -> Offset:
        """See EventLog."""
        return max(one, other, key=_place)

    async def lag(self, after: Offset) -> int:
        """See EventLog."""
        return min(len(self.events) - _place(after), MAX_LAG + 1)

    async def sample(self, n: int) -> list[Event]:
        """See EventLog."""
        return [event for event in self.events if event is not None][-n:]

    async def close(self) -> None:
        """There is nothing to close."""

    def erase(self, user_id: str) -> None:
        """Remove a user's events, and drop later ones."""
        self.erased_users.add(user_id)
        for place, event in enumerate(self.events):
            if event is not None and event.user_id == user_id:
                self.events[place] = None
                del self._place_by_id[event.event_id]

    def _is_known(self, event: Event) -> bool:
        if event.retry_of in self._place_by_id or event.retried_as in self._place_by_id:
            return True
        place = self._place_by_id.get(event.event_id)
        known = None if place is None else self.events[place]
        return known is not None and known.digest == event.digest


def _place(offset: Offset) -> int:
    return 0 if offset == START else int(offset)
