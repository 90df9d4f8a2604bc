"""Which users are new, light or heavy, and which items are new or in the tail, as of a cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.keys import parts_of, positions
from recsys.types import MICROSECONDS_PER_DAY, Catalogue, Interactions, Keys

LIGHT_ITEMS = 20  # light users have at most so many distinct items before the cut (protocol B4)
NEW_DAYS = 14  # users and items first seen within so many days before the cut are new
HEAD_SHARE = 0.8  # the head: the most frequent items that together have this share of the events; the rest is tail


def n_distinct_items(history: Interactions, user_keys: Keys) -> NDArray[np.int64]:
    """How many distinct items each of `user_keys` (n,) has in `history`, (n,); 0 for unknown users."""
    users, counts = np.unique(parts_of(np.unique(history.pairs))[0], return_counts=True)
    n: NDArray[np.int64] = np.append(counts, 0)[positions(users, user_keys)]
    return n


def activity(history: Interactions, user_keys: Keys) -> dict[str, NDArray[np.bool_]]:
    """B4's two segments: masks over `user_keys` (n,), each user in exactly one."""
    light = n_distinct_items(history, user_keys) <= LIGHT_ITEMS
    return {"light": light, "heavy": ~light}


def users(history: Interactions, user_keys: Keys) -> dict[str, NDArray[np.bool_]]:
    """The gate's segments: masks over `user_keys` (n,). New users are those of the last 14 days, or without history."""
    start_at = history.cut_at - NEW_DAYS * MICROSECONDS_PER_DAY
    new = ~np.isin(user_keys, history.user_key[history.occurred_at < start_at])
    return {"new users": new} | {f"{name} users": mask & ~new for name, mask in activity(history, user_keys).items()}


def items(history: Interactions, catalogue: Catalogue) -> dict[str, Keys]:
    """The gate's segments of items: keys of items first seen in the last 14 days, and of the tail (new ones apart)."""
    new = catalogue.first_seen_at >= history.cut_at - NEW_DAYS * MICROSECONDS_PER_DAY
    counts = np.bincount(history.item_key, minlength=int(catalogue.item_key.max(initial=-1)) + 1)[catalogue.item_key]
    order = np.argsort(-counts, kind="stable")
    in_head = np.zeros(len(catalogue), dtype=bool)
    total = counts.sum()
    in_head[order] = np.cumsum(counts[order]) - counts[order] < HEAD_SHARE * total
    return {"new items": catalogue.item_key[new], "tail items": catalogue.item_key[~new & ~in_head]}
