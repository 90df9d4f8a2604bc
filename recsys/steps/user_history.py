"""Write the users' histories up to the end of the data set, so that the service can filter out bought items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.keys import runs
from recsys.steps.context import Context, step
from recsys.steps.write_lists import recent_users, write_lists
from recsys.types import MICROSECONDS_PER_DAY, Interactions, Keys, Lists

MAX_BOUGHT: Final = 10_000  # latest (item, bought type) pairs of a user
MAX_OTHERS: Final = 200  # latest (item, other type) pairs of a user
_CELLS_PER_BLOCK: Final = 2_000_000  # entries, including padding


@step
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """One list for every user who bought something and for the `max_personal_users` most recently active users.

    It has one entry per item and event type: `score` is the time of the user's latest event of that type on the item,
    in days since the epoch, and `source` the type.
    """
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    types, most = data.meta.bought_event_types, ctx.settings.max_personal_users

    def make() -> Iterator[Lists]:
        interactions = data.interactions()
        return histories(interactions, types, recent_users(interactions, most))

    inputs = {"bought": list(types), "max_users": most, "max_bought": MAX_BOUGHT, "max_others": MAX_OTHERS}
    sources = list(data.meta.event_types)
    return write_lists(ctx, "history", "user_history", ref, data, make, sources=sources, inputs=inputs, force=force)


@dataclass(frozen=True)
class _Latest:
    """The latest event of each user, item and type; arrays (n,), by user, newest first."""

    user_key: Keys
    item_key: Keys
    event_type: NDArray[np.int8]
    occurred_at: NDArray[np.int64]
    bought: NDArray[np.bool_]

    def take(self, rows: NDArray[Any]) -> _Latest:
        return _Latest(*(values[rows] for values in vars(self).values()))


def histories(interactions: Interactions, bought: tuple[str, ...], others_of: Keys) -> Iterator[Lists]:
    """The users' histories, newest first, the shortest first, at most MAX_BOUGHT + MAX_OTHERS entries each.

    `others_of`: users whose events of other types than `bought` are kept, too. Sources are positions in
    `interactions.event_types`, scores days since the epoch.
    """
    latest = _latest(interactions, bought)
    latest = latest.take(latest.bought | np.isin(latest.user_key, others_of))
    order = np.lexsort((latest.bought, latest.user_key))  # stable: newest first within each kind
    _, place = runs(latest.user_key[order], latest.bought[order])
    keep = place < np.where(latest.bought[order], MAX_BOUGHT, MAX_OTHERS)
    yield from _lists(latest.take(np.sort(order[keep])))


def _latest(interactions: Interactions, bought: tuple[str, ...]) -> _Latest:
    codes = np.array([name in bought for name in interactions.event_types], dtype=np.bool_)
    newest_first = np.arange(len(interactions))[::-1]
    users, items, types, at = (
        values[newest_first]
        for values in (interactions.user_key, interactions.item_key, interactions.event_type, interactions.occurred_at)
    )
    order = np.lexsort((types, items, users))
    _, place = runs(users[order], items[order], types[order])
    first = np.sort(order[place == 0])
    first = first[np.argsort(users[first], kind="stable")]
    return _Latest(users[first], items[first], types[first], at[first], codes[types[first]])


def _lists(rows: _Latest) -> Iterator[Lists]:
    starts, _ = runs(rows.user_key)
    lengths = np.diff(np.append(starts, len(rows.user_key)))
    order = np.argsort(lengths, kind="stable")
    done = 0
    while done < len(order):
        # As many of the next as fit when padded to the longest of them.
        longest = lengths[order[done:]]
        n = max(1, int(np.searchsorted(longest * np.arange(1, len(longest) + 1), _CELLS_PER_BLOCK, side="right")))
        yield _block(rows, starts[order[done : done + n]], lengths[order[done : done + n]])
        done += n


def _block(rows: _Latest, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Lists:
    column = np.arange(lengths.max())
    filled = column < lengths[:, None]
    at = np.where(filled, starts[:, None] + column, 0)
    days = rows.occurred_at[at] / MICROSECONDS_PER_DAY
    return Lists(
        rows.user_key[starts],
        np.where(filled, rows.item_key[at], np.int32(-1)),
        np.where(filled, days, np.nan).astype(np.float32),
        np.where(filled, rows.event_type[at], 0).astype(np.int16),
    )
