"""Sequences of items without times, one line a user, as a data set: the form in which next-item benchmarks come."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys import columns as col
from recsys.data.dataset import INSTANT, Dataset, DatasetMeta, write_dataset
from recsys.errors import InputError
from recsys.types import MICROSECONDS_PER_DAY

EVENT_TYPE = "interaction"
PLACE = MICROSECONDS_PER_DAY  # the time between two items of a sequence
END_AT = 20_000 * MICROSECONDS_PER_DAY  # right after everybody's last item
_MAGIC_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class SequenceTable:
    """All sequences, user after user, each in its order."""

    user: NDArray[np.int32]  # (n,): position in `user_ids`, ascending
    item: NDArray[np.int32]  # (n,): position in `item_ids`
    user_ids: Sequence[str]
    item_ids: Sequence[str]

    @property
    def place(self) -> NDArray[np.int64]:
        """How many items of the same user come after each, (n,): 0 is the user's last."""
        lengths = np.bincount(self.user, minlength=len(self.user_ids))
        ends = np.cumsum(lengths)
        return np.repeat(ends, lengths) - 1 - np.arange(len(self.user))


def read(path: Path) -> SequenceTable:
    """The lines `user item item …` of a text file, plain or gzip; InputError, with the line, where one is not so."""
    try:
        with path.open("rb") as file:
            opened = gzip.open if file.read(2) == _MAGIC_GZIP else open
        with opened(path, "rt", encoding="utf-8-sig") as lines:
            return parse(lines, str(path))
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path} is no text of lines `user item item …`, plain or gzip: {why}") from error


def parse(lines: Iterable[str], name: str = "the input") -> SequenceTable:
    """As `read`, of lines; blank ones are skipped."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    owner: list[int] = []
    item: list[int] = []
    for number, line in enumerate(lines, 1):
        user, *sequence = line.split() or [""]
        if not user:
            continue
        if not sequence:
            raise InputError(f"{name}, line {number}: user {user[:50]!r} has no item; write `user item item …`")
        if user in users:
            raise InputError(f"{name}, line {number}: user {user[:50]!r} has a line already; one line holds a user")
        users[user] = len(users)
        owner += [len(users) - 1] * len(sequence)
        item += [items.setdefault(one, len(items)) for one in sequence]
    if not owner:
        raise InputError(f"{name} holds no sequence; expected are lines `user item item …`")
    return SequenceTable(np.array(owner, dtype=np.int32), np.array(item, dtype=np.int32), [*users], [*items])


def dataset(table: SequenceTable, folder: Path) -> Dataset:
    """The data set of sequences without times, written into an existing folder.

    An item's instant is its place from the end of its sequence, in steps of `PLACE`, so that label windows of one step
    are the protocol "leave the last out": the newest holds everybody's last item, the one before the second last.
    """
    return timed_dataset(table, END_AT - (table.place + 1) * PLACE, END_AT, folder)


def timed_dataset(table: SequenceTable, at: NDArray[np.int64], end_at: int, folder: Path) -> Dataset:
    """The data set of sequences whose items have instants `at` (n,), all before `end_at` (microseconds), written into
    an existing folder.

    Each item is a session of its own; all items are known from the beginning. An item counts as bought: it is not
    recommended to its user again.
    """
    order = np.argsort(at, kind="stable")
    events = pa.table(
        {
            col.EVENT_ID: np.arange(len(order), dtype=np.int64),
            col.USER_KEY: table.user[order],
            col.ITEM_KEY: table.item[order],
            col.EVENT_TYPE: pa.array([EVENT_TYPE] * len(order)),
            col.OCCURRED_AT: pa.array(at[order]).cast(INSTANT),
            col.WEIGHT: np.ones(len(order), dtype=np.float32),
            col.SESSION_ID: order.astype(np.int64),
        }
    )
    users = {col.USER_KEY: np.arange(len(table.user_ids), dtype=np.int32)}
    items = {
        col.ITEM_KEY: np.arange(len(table.item_ids), dtype=np.int32),
        col.ITEM_ID: pa.array(table.item_ids),
        col.AVAILABLE: np.ones(len(table.item_ids), dtype=bool),
    }
    meta = DatasetMeta(
        source="sequences",
        as_of=end_at,
        event_types=(EVENT_TYPE,),
        event_weights={EVENT_TYPE: 1.0},
        label_event_types=(EVENT_TYPE,),
        bought_event_types=(EVENT_TYPE,),
    )
    first_seen = pa.array([int(at.min()) - PLACE]).cast(INSTANT)[0].as_py()
    known_since = {
        name: pa.array([first_seen] * len(ids), INSTANT)
        for name, ids in (("users", table.user_ids), ("items", table.item_ids))
    }
    return write_dataset(
        folder,
        meta,
        {
            "events": events,
            "users": pa.table(users | {col.FIRST_SEEN_AT: known_since["users"]}),
            "items": pa.table(items | {col.FIRST_SEEN_AT: known_since["items"]}),
        },
    )


def split_by_time(
    table: SequenceTable, at: NDArray[np.int64], share: float, days: float
) -> tuple[SequenceTable, NDArray[np.int64], int]:
    """A global split: everything before the instant that `share` of the events precede, and of everybody with an event
    before it the first one of the `days` after it.

    `at` (n,): microseconds, not falling within a user. Gives the events that are kept, their instants, and the end of
    those days.
    """
    cut_at = int(np.quantile(at, share))
    end_at = cut_at + round(days * MICROSECONDS_PER_DAY)
    before = at < cut_at
    is_first = np.zeros(len(at), dtype=bool)
    is_first[1:] = ~before[1:] & before[:-1] & (table.user[1:] == table.user[:-1])
    kept = before | (is_first & (at < end_at))
    return SequenceTable(table.user[kept], table.item[kept], table.user_ids, table.item_ids), at[kept], end_at
