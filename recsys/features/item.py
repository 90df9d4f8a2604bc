"""Item features as of a cut: trend over several windows, age, recency, buyers, price, and the category's trend."""

from __future__ import annotations

import ibis
from ibis import Table

from recsys import columns as col
from recsys.data.dataset import items_as_of
from recsys.data.engine_functions import bit_count
from recsys.features.history import (
    AGE_DAYS,
    FAST_HALF_LIFE_DAYS,
    SLOW_HALF_LIFE_DAYS,
    WINDOWS_DAYS,
    count_within,
    days_before,
    decayed_weight,
    events_before,
    former,
)

_HALF_LIVES_DAYS = (3, 14, 30)  # of shares, beside the fast one of all features
_NEW_DAYS = (7, 14, 28)  # windows in which first-time users of an item are counted; all in WINDOWS_DAYS


def item_features(con: ibis.BaseBackend, at: int) -> Table:
    """One row for each item known before `at`: `item_key`, and columns that start with `item_`.

    Counts are of events; `trend_a_b` is the event rate of the last a days over that of the last b, both
    smoothed by one event; `share` is of all events of the shop in the same window; `new_rate` are the users who met
    the item for the first time, over all users of the window, `new_share` those over the item's events, smoothed;
    `n_days` are days with an event. Null where unknown.
    """
    events = events_before(con, at)
    by_item = events.group_by(col.ITEM_KEY).agg(**_counts(events))
    totals = by_item.agg(
        **{f"total_{days}d": by_item[f"item_n_{days}d"].sum() for days in WINDOWS_DAYS},
        **{f"total_decayed_{days}d": by_item[f"item_decayed_{days}d"].sum() for days in _HALF_LIVES_DAYS},
        total_decayed=by_item.item_decayed_fast.sum(),
    )
    known = items_as_of(con, at)
    items = known.left_join(by_item, col.ITEM_KEY).drop("item_key_right")
    items = items.left_join(_meetings(events), col.ITEM_KEY).drop("item_key_right")
    items = items.left_join(_category_trend(by_item, known), col.CATEGORY_KEY).drop("category_key_right")
    items = items.cross_join(totals).cross_join(_users_within(events))
    counts = [name for name in _counts(events) if name not in _UNKNOWN_WITHOUT_EVENTS]
    counts += _MEETINGS
    items = items.mutate(**{name: items[name].fill_null(0) for name in counts})
    features = items.mutate(
        item_known_days=days_before(items.first_seen_at, at),
        item_price=items.price,
        item_available=items.available,
        item_category=items.category_key,
        item_parent_category=items.parent_category_key,
        item_trend_1_7=_trend(items, 1, 7),
        item_trend_7_28=_trend(items, 7, 28),
        item_trend_14_90=_trend(items, 14, 90),
        item_trend_28_90=_trend(items, 28, 90),
        **{f"item_share_{d}d": items[f"item_n_{d}d"] / items[f"total_{d}d"].nullif(0) for d in WINDOWS_DAYS},
        **{
            f"item_decayed_share_{d}d": items[f"item_decayed_{d}d"] / items[f"total_decayed_{d}d"].nullif(0)
            for d in _HALF_LIVES_DAYS
        },
        **{f"item_new_rate_{d}d": items[f"item_n_new_{d}d"] / items[f"total_users_{d}d"].nullif(0) for d in _NEW_DAYS},
        **{f"item_new_share_{d}d": (items[f"item_n_new_{d}d"] + 1) / (items[f"item_n_{d}d"] + 2) for d in _NEW_DAYS},
        item_decayed_share=items.item_decayed_fast / items.total_decayed.nullif(0),
        item_share_of_category=items.item_decayed_fast / items.item_category_decayed.nullif(0),
        item_events_per_user=items.item_n_all / items.item_n_users.nullif(0),
        item_rate=items.item_n_all / (items.item_age_days + 1),
        item_rank_7d=ibis.dense_rank().over(order_by=ibis.desc(items.item_n_7d)) + 1,
        item_rank_decayed=ibis.dense_rank().over(order_by=ibis.desc(items.item_decayed_fast)) + 1,
    )
    return features.select(col.ITEM_KEY, *[name for name in features.columns if name.startswith("item_n_")], *_REST)


_UNKNOWN_WITHOUT_EVENTS = (
    "item_age_days",
    "item_last_days",
    "item_mean_value",
    "item_mean_gap_days",
)
_REST = (
    *_UNKNOWN_WITHOUT_EVENTS,
    *("item_decayed_fast", "item_decayed_slow", "item_weight_28d", "item_known_days", "item_price", "item_available"),
    *("item_category", "item_parent_category", "item_category_n_28d", "item_category_decayed"),
    *("item_trend_1_7", "item_trend_7_28", "item_trend_14_90", "item_trend_28_90"),
    *("item_decayed_share", "item_share_of_category"),
    *(f"item_share_{days}d" for days in WINDOWS_DAYS),
    *(f"item_decayed_share_{days}d" for days in _HALF_LIVES_DAYS),
    *(f"item_new_{what}_{days}d" for what in ("rate", "share") for days in _NEW_DAYS),
    *("item_events_per_user", "item_rate", "item_rank_7d", "item_rank_decayed"),
)


def _counts(events: Table) -> dict[str, ibis.Value]:
    age = events[AGE_DAYS]
    return {
        **{f"item_n_{days}d": count_within(events, days) for days in WINDOWS_DAYS},
        "item_n_all": events.count(),
        **{f"item_n_days_{days}d": _n_days(events, days) for days in (14, 28)},
        **{f"item_decayed_{days}d": decayed_weight(events, days) for days in _HALF_LIVES_DAYS},
        "item_decayed_fast": _fast(events),
        "item_decayed_slow": decayed_weight(events, SLOW_HALF_LIFE_DAYS),
        "item_weight_28d": events[col.WEIGHT].sum(where=age <= 28).fill_null(0.0),
        "item_age_days": age.max(),
        "item_last_days": age.min(),
        "item_mean_value": events[col.VALUE].mean(),
        "item_mean_gap_days": (age.max() - age.min()) / (events.count() - 1).nullif(0),
    }


def _n_days(events: Table, days: int) -> ibis.Value:
    """Distinct days among the last `days` < 63 that have an event: each day is a bit."""
    day = events[AGE_DAYS].clip(0, days).floor().cast("int64")
    return bit_count((ibis.literal(1, "int64") << day).bit_or(where=events[AGE_DAYS] <= days)).fill_null(0)


_MEETINGS = ["item_n_users", "item_n_users_28d", "item_n_sessions", *(f"item_n_new_{days}d" for days in _NEW_DAYS)]


def _meetings(events: Table) -> Table:
    """item_key, and the columns of `_MEETINGS`: how many users and sessions had the item, how many users anew."""
    user, session, age = (
        former(events, name, col.ITEM_KEY, col.USER_KEY, col.OCCURRED_AT, col.EVENT_ID)
        for name in (col.USER_KEY, col.SESSION_ID, AGE_DAYS)
    )
    met = events.select(
        col.ITEM_KEY,
        AGE_DAYS,
        first=(events[col.USER_KEY] != user).fill_null(True),
        opens=(events[col.SESSION_ID] != session).fill_null(True),
        former_age=age,
    )
    met = met.mutate(first_28d=(met[AGE_DAYS] <= 28) & (met["first"] | (met.former_age > 28)))
    return met.group_by(col.ITEM_KEY).agg(
        item_n_users=met.count(where=met["first"]),
        item_n_users_28d=met.count(where=met.first_28d),
        item_n_sessions=met.count(where=met.opens),
        **{f"item_n_new_{days}d": met.count(where=met["first"] & (met[AGE_DAYS] <= days)) for days in _NEW_DAYS},
    )


def _users_within(events: Table) -> Table:
    """One row: how many users had an event in each of the windows."""
    recent = events.filter(events[AGE_DAYS] <= max(_NEW_DAYS))
    users = recent.group_by(col.USER_KEY).agg(last_days=recent[AGE_DAYS].min())
    return users.agg(**{f"total_users_{days}d": users.count(where=users.last_days <= days) for days in _NEW_DAYS})


def _fast(events: Table) -> ibis.Value:
    return decayed_weight(events, FAST_HALF_LIFE_DAYS)


def _category_trend(by_item: Table, known: Table) -> Table:
    placed = by_item.inner_join(known.select(col.ITEM_KEY, col.CATEGORY_KEY), col.ITEM_KEY)
    placed = placed.filter(placed.category_key.notnull())
    return placed.group_by(col.CATEGORY_KEY).agg(
        item_category_n_28d=placed.item_n_28d.sum(), item_category_decayed=placed.item_decayed_fast.sum()
    )


def _trend(items: Table, short_days: int, long_days: int) -> ibis.Value:
    short, long = items[f"item_n_{short_days}d"], items[f"item_n_{long_days}d"]
    return ((short + 1) / short_days) / ((long + 1) / long_days)
