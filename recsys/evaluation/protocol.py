"""Protocol B4: a whole data set, split in time.

Some cuts T, one label window apart, the last window ending with the data. At each cut everything is learned from
the events before T; the users are those known before T who have labels in the window [T, T + days).

- discovery: labels are the items that the user never bought before; items bought before are masked.
- all (purchases): labels are all items of the window; nothing is masked.

Labels on items that appear only inside the window stay: no system can find them, so they lower every row alike.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from recsys.data.dataset import DatasetMeta
from recsys.errors import InputError, TooFewLabelsError
from recsys.evaluation.metrics import Labels
from recsys.keys import positions
from recsys.types import MICROSECONDS_PER_DAY, Interactions, Keys, Task


@dataclass(frozen=True)
class Window:
    """A label window: everything before `cut_at` may be learned from, [`cut_at`, `end_at`) is to be predicted."""

    cut_at: int  # microseconds since the epoch
    end_at: int


def windows(end_at: int, *, n: int = 4, days: float = 14) -> list[Window]:
    """`n` windows of `days`, back to back, oldest first, the last one ending at `end_at` (microseconds)."""
    if n < 1 or days <= 0:
        raise InputError(f"{n} windows of {days} days cannot be evaluated; give at least one of more than zero days")
    length = round(days * MICROSECONDS_PER_DAY)
    return [Window(end_at - length * (n - i), end_at - length * (n - i - 1)) for i in range(n)]


def labels_of(interactions: Interactions, window: Window, meta: DatasetMeta, task: Task | None = None) -> Labels:
    """What is to be predicted, for users known before the window, by the types of events that the data set names.

    `task`: that of the data set when None. TooFewLabelsError when the window has no label.
    """
    task = meta.task if task is None else task
    history = interactions.before(window.cut_at)
    events = interactions.between(window.cut_at, window.end_at).of_types(meta.label_event_types).in_favour
    keep = np.isin(events.user_key, history.user_key)
    if task is Task.DISCOVERY:
        bought = history.of_types(meta.bought_event_types)
        keep &= ~np.isin(events.pairs, bought.pairs)
    if not keep.any():
        raise TooFewLabelsError(_why_none(interactions, window, task, meta.label_event_types))
    return Labels.from_pairs(events.user_key[keep], events.item_key[keep])


def _why_none(interactions: Interactions, window: Window, task: Task, label_event_types: Sequence[str]) -> str:
    counts = np.bincount(interactions.event_type, minlength=len(interactions.event_types))
    occurring = [name for name, n in zip(interactions.event_types, counts, strict=True) if n]
    labels = ", ".join(label_event_types)
    if not set(occurring) & set(label_event_types):
        return (
            f"no event is of a type to learn to bring about ({labels}); there are {', '.join(occurring)}. Name others, "
            f"as RECSYS_LABEL_EVENT_TYPES='[\"{occurring[-1]}\"]', or at the import of a table as "
            f"--option labels={occurring[-1]}"
        )
    new = "items new to them" if task is Task.DISCOVERY else "items"
    return (
        f"between {date(window.cut_at)} and {date(window.end_at)} no user who was there before has an event of "
        f"{labels} on {new}; load a longer history, or use fewer (RECSYS_N_LABEL_WINDOWS) or longer windows "
        "(RECSYS_LABEL_WINDOW_DAYS)"
    )


def date(at: int) -> str:
    """An instant in microseconds as people write it, UTC."""
    return dt.datetime.fromtimestamp(at / 1_000_000, dt.UTC).strftime("%Y-%m-%d %H:%M")


def seen_items(history: Interactions, user_keys: Keys, n_item_keys: int) -> csr_array:
    """The items of each user in `history` as CSR (n_users, n_item_keys) of ones, rows as `user_keys` (distinct).

    With the purchases before a cut this is the mask of discovery, in the form that generators take as `seen`.
    """
    order = np.argsort(user_keys, kind="stable")
    at = positions(user_keys[order], history.user_key)
    is_wanted = at >= 0
    ones = np.ones(int(is_wanted.sum()), dtype=np.float32)
    matrix = csr_array((ones, (order[at[is_wanted]], history.item_key[is_wanted])), shape=(len(user_keys), n_item_keys))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
