"""The event log: the service appends to it; updater, monitor and archive read from it.

Implementations: `postgres_log` (the default), `kafka.log`, and `memory_log` for unit tests; all pass
tests/contracts/test_event_logs.py. Their order and delivery guarantees: research/decisions/0010.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from recsys.errors import RecsysError
from recsys.events.event import Event

Offset = str  # a position in one log; opaque to readers, who store it
START: Final[Offset] = ""
MAX_LAG: Final = 1_000_000  # a larger lag is reported as MAX_LAG + 1
Answer = TypeVar("Answer")


class LogAwayError(RecsysError):
    """The log is unavailable at the moment."""

    transient = True


class LogGapError(RecsysError):
    """Events after an offset are gone from the log, because its retention was too short. An archive may have them."""


@dataclass(frozen=True)
class Appended:
    """The outcome of a batch: indices into it. Accepted events and duplicates are durable."""

    accepted: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)  # already in the log
    conflicts: list[int] = field(default_factory=list)  # id in the log with another payload; quarantined
    erased: list[int] = field(default_factory=list)  # of erased users; dropped
    position: int | None = None  # largest `events.position` of the batch


class Batch(NamedTuple):
    """Events in order, and the offset after them. The offset may advance without any event."""

    events: list[Event]
    after: Offset


class EventLog(Protocol):
    """Events of one user are read in the order in which they were acknowledged, each exactly once.

    All methods raise LogAwayError. The log stores no offsets: a reader stores its own in one transaction with the
    results of its events.
    """

    @property
    def name(self) -> str:
        """Identifies the log; offsets are valid in the log of this name only."""

    async def append(self, events: Sequence[Event]) -> Appended:
        """Write a batch: durable, and visible to the next recommendation, when this returns. Idempotent."""

    async def read(self, after: Offset, limit: int, until: Offset | None = None) -> Batch:
        """Up to `limit` available events after an offset, none beyond `until`; LogGapError."""

    async def end(self) -> Offset:
        """The offset after all events that can be read now."""

    async def at(self, instant: dt.datetime) -> Offset:
        """The latest known offset before all events that the log received at or after an instant."""

    async def oldest(self) -> Offset:
        """The offset before the first event that the log still has."""

    def later(self, one: Offset, other: Offset) -> Offset:
        """The later of two offsets."""

    async def lag(self, after: Offset) -> int:
        """The approximate number of events after an offset, at most MAX_LAG + 1."""

    async def sample(self, n: int) -> list[Event]:
        """Up to about `n` of the latest events, newest last; changes no reader's offset."""

    async def close(self) -> None:
        """Close connections."""


class Transactions(Protocol):
    """Runs work on one asyncpg connection in one atomic transaction."""

    async def transaction(self, work: Callable[[Any], Awaitable[Answer]]) -> Answer: ...
