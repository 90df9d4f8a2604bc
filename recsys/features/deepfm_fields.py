"""From interactions to the fields that DeepFM reads, point in time, in numpy.

Every field counts its values from 1; row 0 stands for "unknown": a user or item that has no row of its own, no
category, no context given. All that changes with time (a user's history, an item's trend and age) is taken
strictly before the event that it describes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.decay import decay
from recsys.features.context import CONTEXT_FIELDS
from recsys.keys import Positions, positions
from recsys.types import MICROSECONDS_PER_DAY, Catalogue, Interactions, Keys

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]

N_ACTIVITY = 16  # doublings of a user's number of events
N_DAYS, N_HOURS = 8, 9  # day of the week; eight parts of the day; both from 1
N_TREND = 26  # half doublings of an item's recent events relative to the mean item's
N_AGE = 14  # doublings of an item's age, the last from 64 days on
TREND_HALF_LIVES = (4.0, 30.0)  # days
MICROSECONDS_PER_HOUR = MICROSECONDS_PER_DAY // 24
HOURS_PER_PART = 3
TIME = slice(2, 4)  # of the user's fields: the moment
CONTEXT = slice(4, 4 + len(CONTEXT_FIELDS))  # and what else is told of it
USER_FIELDS = ("user", "activity", "day_of_week", "part_of_day", *CONTEXT_FIELDS)
N_USER_FIELDS = len(USER_FIELDS)
ITEM_FIELDS = ("item", "category", "parent_category", "short_trend", "long_trend", "age")


@dataclass(frozen=True)
class Vocabulary:
    """Rows of an embedding: key → position among the ascending `keys` + 1; 0 for any other key."""

    keys: Keys

    @property
    def size(self) -> int:
        return len(self.keys) + 1

    def rows(self, keys: NDArray[np.integer]) -> Rows:
        keys = np.asarray(keys, dtype=self.keys.dtype)  # of another type, searchsorted would copy the whole vocabulary
        return (positions(self.keys, keys) + 1).astype(np.int32)

    @classmethod
    def of_frequent(cls, keys: NDArray[np.integer], at_least: int) -> Vocabulary:
        """The non-negative keys that occur at least so often."""
        values, counts = np.unique(keys[keys >= 0], return_counts=True)
        return cls(values[counts >= at_least].astype(np.int32))


class Histories:
    """The latest events of each user, for any event and for the cut."""

    def __init__(
        self,
        events: Interactions,
        item_rows: Rows,
        length: int,
        half_life_days: float,
        mean_weight: float | None = None,
    ) -> None:
        """`item_rows` (n,): the row of each event's item in the history's embedding; `length`: the most that counts
        of a user, less where nobody has so many events; `mean_weight` of an event: that of `events` when None."""
        self.half_life_days, self.cut_at = half_life_days, events.cut_at
        order = np.lexsort((events.occurred_at, events.user_key))
        user, at = events.user_key[order], events.occurred_at[order]
        self.users, first = np.unique(user, return_index=True)
        self._rows, self._at = item_rows[order], at
        self.mean_weight = max(float(events.weight.mean()) if mean_weight is None else mean_weight, 1e-12)
        self._weight = events.weight[order] / self.mean_weight
        self._starts = np.append(first, len(user))
        self.length = min(length, int(np.diff(self._starts).max(initial=1)))
        new_instant = np.ones(len(user), dtype=bool)
        new_instant[1:] = (user[1:] != user[:-1]) | (at[1:] != at[:-1])
        instant_start = np.flatnonzero(new_instant)[np.cumsum(new_instant) - 1]
        self._end_of_event = np.empty(len(user), dtype=np.int64)
        self._end_of_event[order] = instant_start  # only what happened strictly earlier
        self._start_of_event = np.empty(len(user), dtype=np.int64)
        self._start_of_event[order] = np.repeat(first, np.diff(self._starts))

    def of_events(self, event: Positions, at: NDArray[np.int64]) -> tuple[Rows, Floats, Rows]:
        """History rows and weights (n, length), and activity rows (n,), just before the events at given positions."""
        return self._window(self._start_of_event[event], self._end_of_event[event], at)

    def at_cut(self, user: Positions) -> tuple[Rows, Floats, Rows]:
        """The same at the cut, but the numbers of events; `user` (n,) are positions in `users`."""
        at = np.full(len(user), self.cut_at, dtype=np.int64)
        start, end = self._starts[user], self._starts[user + 1]
        return *self._window(start, end, at)[:2], (end - start).astype(np.int32)

    def _window(self, start: Positions, end: Positions, at: NDArray[np.int64]) -> tuple[Rows, Floats, Rows]:
        n_inside = np.minimum(end - start, self.length)
        inside = np.arange(self.length) < n_inside[:, None]  # most histories are short: nothing is computed outside
        place = (end[:, None] - 1 - np.arange(self.length))[inside]
        age = (np.repeat(at, n_inside) - self._at[place]) / MICROSECONDS_PER_DAY
        rows, weight = np.zeros(inside.shape, dtype=np.int32), np.zeros(inside.shape)
        rows[inside] = self._rows[place]
        weight[inside] = self._weight[place] * decay(age, self.half_life_days)
        return rows, bag_weights(weight).astype(np.float32), activity_rows(end - start)


def bag_weights(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the latest events count in the bag: `weight` (n, length), decayed and relative to the mean event's, over
    the root of its sum. `weight` = result · Σ result, so that what is stored can go on decaying."""
    return weight / np.sqrt(np.maximum(weight.sum(axis=1, keepdims=True), 1e-12))


def activity_rows(n_events: NDArray[np.integer]) -> Rows:
    """1 + ⌊log2(1 + number of events)⌋, at most N_ACTIVITY - 1."""
    return np.minimum(np.log2(1.0 + n_events).astype(np.int32) + 1, N_ACTIVITY - 1)


def time_rows(at: NDArray[np.int64]) -> Rows:
    """Day of the week and part of the day (UTC) of instants (n,) in microseconds → (n, 2)."""
    day = (at // MICROSECONDS_PER_DAY + 3) % 7 + 1  # the epoch was a Thursday
    part = at // MICROSECONDS_PER_HOUR % 24 // HOURS_PER_PART + 1
    return np.stack([day, part], axis=1).astype(np.int32)


class ItemTrends:
    """How much each item was interacted with lately, and how old it is, day by day before the cut.

    Days are counted back from the cut; what is known on a day is what happened on the days before it.
    """

    def __init__(self, events: Interactions, catalogue: Catalogue, item: Positions) -> None:
        """`item` (n,): the position of each event's item in the catalogue."""
        self._first_seen_at, self._cut_at = catalogue.first_seen_at, events.cut_at
        self._day_of_event = self.day(events.occurred_at)  # descending
        self._item, self._weight = item, events.weight.astype(np.float64)

    def day(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whole days before the cut, 0 is the last one."""
        return (self._cut_at - 1 - at) // MICROSECONDS_PER_DAY

    def at_cut(self) -> Rows:
        """Trend and age rows of all items at the cut, (n_items, 3)."""
        return next(rows for day, rows in self._walk() if day < 0)

    def of_candidates(self, item: Positions, at: NDArray[np.int64]) -> Rows:
        """Rows of items (n, k) as known on the days of the instants `at` (n,) → (n, k, 3)."""
        day = self.day(at)
        order = np.argsort(-day, kind="stable")
        oldest_first = -day[order]
        result = np.empty((*item.shape, 3), dtype=np.int32)
        for today, rows in self._walk():
            first, last = np.searchsorted(oldest_first, [-today, -today + 1])
            chosen = order[first:last]
            if len(chosen):
                result[chosen] = rows[item[chosen]]
        return result

    def _walk(self) -> Iterator[tuple[int, Rows]]:
        """(day, rows (n_items, 3)) from the oldest day to -1, which is the cut."""
        n_items = len(self._first_seen_at)
        counts = np.zeros((len(TREND_HALF_LIVES), n_items))
        keep = np.array([decay(1.0, half_life) for half_life in TREND_HALF_LIVES])[:, None]
        oldest = int(self._day_of_event[0]) if len(self._day_of_event) else -1
        for day in range(oldest, -2, -1):
            start_at = self._cut_at - (day + 1) * MICROSECONDS_PER_DAY
            yield day, np.stack([*(_trend_rows(c) for c in counts), self._age_rows(start_at)], axis=1)
            first, last = np.searchsorted(-self._day_of_event, [-day, -day + 1])
            counts *= keep
            counts += np.bincount(self._item[first:last], self._weight[first:last], minlength=n_items)

    def _age_rows(self, at: int) -> Rows:
        """0: not seen yet; else 1 + half doublings of the age in days."""
        age = (at - self._first_seen_at) / MICROSECONDS_PER_DAY
        return np.where(age > 0, np.minimum(2 * np.log2(1.0 + np.maximum(age, 0.0)) + 1, N_AGE - 1), 0).astype(np.int32)


def _trend_rows(count: NDArray[np.float64]) -> Rows:
    """0: no event that still counts; else half doublings around the mean of the items that have some."""
    alive = count > 1e-3
    mean = count[alive].mean() if alive.any() else 1.0
    level = 2 * np.log2(np.maximum(count, 1e-3) / mean) + N_TREND / 2
    return np.where(alive, np.clip(level, 1, N_TREND - 1), 0).astype(np.int32)
