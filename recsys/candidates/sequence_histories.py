"""What users have done, in order, and the rows of equal length in which a network learns from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.keys import KeyIndex, Positions, runs
from recsys.types import Interactions

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Histories:
    """The items of each user, oldest first; events of one instant stand in the order in which they were given."""

    users: KeyIndex  # everybody with an event on a known item
    start: Positions  # (n_users + 1,): where each user's items begin in `item`
    item: Ids  # (n,): positions of items, user after user
    occurred_at: NDArray[np.int64]  # (n,): microseconds since the epoch

    @classmethod
    def of(cls, events: Interactions, items: KeyIndex) -> Self:
        """Of the events whose item is among `items`."""
        item = items.positions(events.item_key)
        order = np.flatnonzero(item >= 0)
        order = order[np.argsort(events.user_key[order], kind="stable")]
        user_key = events.user_key[order]
        starts = runs(user_key)[0]
        return cls(
            KeyIndex(user_key[starts]),
            np.append(starts, len(order)).astype(np.int64),
            item[order].astype(np.int32),
            events.occurred_at[order],
        )

    @property
    def length(self) -> Positions:
        """How many items each user has, (n_users,), at least 1."""
        return np.diff(self.start)

    def latest(self, n: int) -> Self:
        """The last `n` items of each user."""
        first = np.maximum(self.start[:-1], self.start[1:] - n)
        kept = np.arange(len(self.item)) >= np.repeat(first, self.length)
        start = np.concatenate([[0], np.cumsum(self.start[1:] - first)])
        return type(self)(self.users, start, self.item[kept], self.occurred_at[kept])

    def without_last(self, chosen: NDArray[np.bool_]) -> Self:
        """Without the last item of the chosen users (n_users,), each of whom has more than one."""
        kept = np.ones(len(self.item), dtype=bool)
        kept[self.start[1:][chosen] - 1] = False
        start = np.concatenate([[0], np.cumsum(self.length - chosen)])
        return type(self)(self.users, start, self.item[kept], self.occurred_at[kept])


@dataclass(frozen=True)
class Pieces:
    """Stretches of histories that are learned: after each of the items [start, end) the next one is predicted."""

    start: Positions  # (n_pieces,), into `Histories.item`
    end: Positions  # (n_pieces,)

    @classmethod
    def of(cls, histories: Histories, max_length: int) -> Self:
        """Every history cut from its end backward into pieces of at most `max_length`."""
        starts, ends = [], []
        first, end = histories.start[:-1], histories.start[1:] - 1
        while len(end):
            alive = end > first
            first, end = first[alive], end[alive]
            start = np.maximum(first, end - max_length)
            starts.append(start)
            ends.append(end)
            end = start
        none = np.zeros(0, dtype=np.int64)
        return cls(np.concatenate([none, *starts]), np.concatenate([none, *ends]))

    def take(self, chosen: NDArray[np.bool_]) -> Self:
        return type(self)(self.start[chosen], self.end[chosen])

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Batch:
    """Rows full of pieces, (rows, length) each."""

    item: Ids
    segment: Ids  # the same within a piece; 0 where nothing lies
    target: Ids  # the item that follows; of no meaning in segment 0


def batches(item: Ids, pieces: Pieces, length: int, n_rows: int, rng: np.random.Generator) -> Iterator[Batch]:
    """All pieces once, in random order, packed into rows of `length`, which leaves little empty; `n_rows` a batch."""
    order = rng.permutation(len(pieces))
    start, size = pieces.start[order], (pieces.end - pieces.start)[order]
    row, offset, n_used = _packed(size.tolist(), length)
    row = rng.permutation(n_used)[row]
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)  # 0, 1 … of each piece
    source = np.repeat(start, size) + within
    to = np.repeat(row * length + offset, size) + within
    n_batches = -(-n_used // n_rows)
    flat = np.zeros((3, n_batches * n_rows * length), dtype=np.int32)
    flat[0, to], flat[1, to], flat[2, to] = item[source], np.repeat(1 + np.arange(len(size)), size), item[source + 1]
    rows = flat.reshape(3, n_batches, n_rows, length)
    for place in range(n_batches):
        yield Batch(*rows[:, place])


def _packed(sizes: list[int], length: int) -> tuple[Positions, Positions, int]:
    """Row and first place of each piece, and the number of rows: each goes where it leaves the least room."""
    rows_by_room: list[list[int]] = [[] for _ in range(length + 1)]
    row, offset, n_rows = [], [], 0
    for size in sizes:
        room = next((room for room in range(size, length) if rows_by_room[room]), length)
        if room < length:
            at = rows_by_room[room].pop()
        else:
            at, n_rows = n_rows, n_rows + 1
        row.append(at)
        offset.append(length - room)
        rows_by_room[room - size].append(at)
    return np.array(row, dtype=np.int64), np.array(offset, dtype=np.int64), n_rows
