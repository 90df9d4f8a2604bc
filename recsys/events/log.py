"""The event log: what the service appends to, and what trainer, monitor and archive read from.

Implementations: `postgres_log` (the default), `kafka_log`, and `memory_log` for unit tests; all pass
tests/contracts/test_event_logs.py. research/decisions/0010 says why they order and count as they do.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from recsys.errors import RecsysError
from recsys.events.event import Event

Offset = str  # a place in a log, of that log alone: readers keep it and hand it back, and do not look into it
START: Final[Offset] = ""
MAX_LAG: Final = 1_000_000  # what is counted of a lag; more is told as one more
Answer = TypeVar("Answer")


class LogAwayError(RecsysError):
    """The log did not take or give events now."""

    transient = True


class LogGapError(RecsysError):
    """Events after an offset are gone from the log: they were kept for too short a time. An archive may have them."""


@dataclass(frozen=True)
class Appended:
    """What became of a batch, by position in it. Accepted ones and duplicates are in the log for good."""

    accepted: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)  # in the log since before
    conflicts: list[int] = field(
        default_factory=list
    )  # the id has another payload: the first stays, this goes to quarantine
    erased: list[int] = field(default_factory=list)  # of users who were erased; not taken
    position: int | None = None  # `events.position` that the log had reached with it


class Batch(NamedTuple):
    """Events in order, and the offset after the last one. There may be none, and yet an offset further on."""

    events: list[Event]
    after: Offset


class EventLog(Protocol):
    """Events of one user come out in the order in which they were acknowledged, each of them once.

    All methods raise LogAwayError. Nobody's offset is kept here: a reader keeps its own beside what it made of the
    events, in one transaction with it.
    """

    @property
    def name(self) -> str:
        """Which log it is; offsets of one are of no use in another."""

    async def append(self, events: Sequence[Event]) -> Appended:
        """Write a batch; when this returns it is durable, and known to the next recommendation. Any retry is free."""

    async def read(self, after: Offset, limit: int, until: Offset | None = None) -> Batch:
        """At most `limit` events after an offset, those that are there, none beyond `until`; LogGapError."""

    async def end(self) -> Offset:
        """The offset after all that can be read now."""

    async def at(self, instant: dt.datetime) -> Offset:
        """An offset, as late a one as is known, before all events that the log received at or after an instant."""

    async def oldest(self) -> Offset:
        """The offset before all that the log still has."""

    def later(self, one: Offset, other: Offset) -> Offset:
        """The offset after all events that come before either."""

    async def lag(self, after: Offset) -> int:
        """About how many events come after an offset, MAX_LAG + 1 where there are more."""

    async def sample(self, n: int) -> list[Event]:
        """Some of the latest events, newest last; moves no reader's offset."""

    async def close(self) -> None:
        """End connections."""


class Transactions(Protocol):
    """Something that does work on one asyncpg connection in one transaction, whole or not at all."""

    async def transaction(self, work: Callable[[Any], Awaitable[Answer]]) -> Answer: ...
