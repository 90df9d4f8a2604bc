"""User features as of a cut: how much, how recently, how widely, at what price, and the favourite category."""

from __future__ import annotations

from collections.abc import Sequence

import ibis
from ibis import Table

from recsys import columns as col
from recsys.data.dataset import items_as_of
from recsys.features.history import (
    AGE_DAYS,
    FAST_HALF_LIFE_DAYS,
    SLOW_HALF_LIFE_DAYS,
    count_within,
    counts_by_type,
    decayed_weight,
    events_before,
    former,
)

LIGHT_MAX_ITEMS = 20  # at most so many distinct items: a light user
NEW_MAX_ITEMS = 3
WINDOWS_DAYS = (7, 28, 90)


def user_features(con: ibis.BaseBackend, at: int, event_types: Sequence[str]) -> Table:
    """One row for each user with an event before `at`: `user_key`, and columns that start with `user_`.

    `user_segment`: 0 new, 1 light, 2 heavy, by the number of distinct items.
    """
    events = events_before(con, at)
    in_time = (col.USER_KEY, col.OCCURRED_AT, col.EVENT_ID)
    events = events.mutate(day=events[AGE_DAYS].floor())
    events = events.mutate(
        opens=(events[col.SESSION_ID] != former(events, col.SESSION_ID, *in_time)).fill_null(True),
        dawns=(events.day != former(events, "day", *in_time)).fill_null(True),
    )
    age, n_sessions = events[AGE_DAYS], events.count(where=events.opens)
    n_items = events[col.ITEM_KEY].nunique()
    users = events.group_by(col.USER_KEY).agg(
        **counts_by_type(events, event_types, "user_n_"),
        **{f"user_n_{days}d": count_within(events, days) for days in WINDOWS_DAYS},
        user_n_all=events.count(),
        user_n_items=n_items,
        user_n_sessions=n_sessions,
        user_active_days=events.count(where=events.dawns),
        user_last_days=age.min(),
        user_first_days=age.max(),
        user_mean_gap_days=(age.max() - age.min()) / (n_sessions - 1).nullif(0),
        user_decayed_fast=decayed_weight(events, FAST_HALF_LIFE_DAYS),
        user_decayed_slow=decayed_weight(events, SLOW_HALF_LIFE_DAYS),
        user_mean_value=events[col.VALUE].mean(),
        user_max_value=events[col.VALUE].max(),
        user_mean_weight=events[col.WEIGHT].mean(),
        user_repeat_share=1 - n_items / events.count(),
        user_segment=ibis.cases((n_items <= NEW_MAX_ITEMS, 0), (n_items <= LIGHT_MAX_ITEMS, 1), else_=2),
    )
    users = users.mutate(
        user_due=users.user_last_days / users.user_mean_gap_days.nullif(0),
        user_items_per_session=users.user_n_items / users.user_n_sessions,
    )
    favourite = _favourite_category(con, at)
    return users.left_join(favourite, col.USER_KEY).drop("user_key_right")


def user_category_affinity(con: ibis.BaseBackend, at: int, category: str = col.CATEGORY_KEY) -> Table:
    """user_key, category, n, last_days, decayed (weight), share (of the user's decayed weight).

    `category`: the level, `category_key` or `parent_category_key`.
    An item counts for the category that it has as of the cut; items without one count for no category.
    """
    by_category = _weight_by_category(con, at, category)
    whole = by_category.decayed.sum().over(group_by=col.USER_KEY)
    return by_category.select(
        col.USER_KEY, "n", "last_days", "decayed", category=by_category.owner, share=by_category.decayed / whole
    )


def _weight_by_category(con: ibis.BaseBackend, at: int, category: str) -> Table:
    events = events_before(con, at)
    placed = events.inner_join(items_as_of(con, at).select(col.ITEM_KEY, owner=category), col.ITEM_KEY)
    placed = placed.filter(placed.owner.notnull())
    return placed.group_by([col.USER_KEY, "owner"]).agg(
        decayed=decayed_weight(placed, SLOW_HALF_LIFE_DAYS), n=placed.count(), last_days=placed[AGE_DAYS].min()
    )


def _favourite_category(con: ibis.BaseBackend, at: int) -> Table:
    """user_key, the category of the greatest decayed weight (of equals the lesser key), and its share of the whole."""
    weights = _weight_by_category(con, at, col.CATEGORY_KEY)
    greatest = weights.group_by(col.USER_KEY).agg(decayed=weights.decayed.max(), whole=weights.decayed.sum())
    best = weights.inner_join(greatest, [col.USER_KEY, "decayed"])
    return best.group_by(col.USER_KEY).agg(
        user_favourite_category=best.owner.min(), user_favourite_share=(best.decayed / best.whole).max()
    )
