"""Item features as of a cut: trend over several windows, age, recency, buyers, price, and the category's trend."""

from __future__ import annotations

import ibis
from ibis import Table

from recsys import columns as col
from recsys.data.dataset import items_as_of
from recsys.features.history import (
    AGE_DAYS,
    FAST_HALF_LIFE_DAYS,
    SLOW_HALF_LIFE_DAYS,
    WINDOWS_DAYS,
    count_within,
    days_before,
    decayed_weight,
    events_before,
)


def item_features(con: ibis.BaseBackend, at: int) -> Table:
    """One row for each item known before `at`: `item_key`, and columns that start with `item_`.

    Counts are of events; `trend_a_b` is the event rate of the last a days over that of the last b, both
    smoothed by one event; `share` is of all events of the shop in the same window. Null where unknown.
    """
    events = events_before(con, at)
    totals = events.agg(
        total_7d=count_within(events, 7), total_28d=count_within(events, 28), total_decayed=_fast(events)
    )
    by_item = events.group_by(col.ITEM_KEY).agg(**_counts(events))
    known = items_as_of(con, at)
    items = known.left_join(by_item, col.ITEM_KEY).drop("item_key_right")
    items = items.left_join(_category_trend(events, known), col.CATEGORY_KEY).drop("category_key_right")
    items = items.cross_join(totals)
    counts = [name for name in _counts(events) if name not in _UNKNOWN_WITHOUT_EVENTS]
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
        item_share_7d=items.item_n_7d / items.total_7d.nullif(0),
        item_share_28d=items.item_n_28d / items.total_28d.nullif(0),
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
    *("item_share_7d", "item_share_28d", "item_decayed_share", "item_share_of_category"),
    *("item_events_per_user", "item_rate", "item_rank_7d", "item_rank_decayed"),
)


def _counts(events: Table) -> dict[str, ibis.Value]:
    age = events[AGE_DAYS]
    return {
        **{f"item_n_{days}d": count_within(events, days) for days in WINDOWS_DAYS},
        "item_n_all": events.count(),
        "item_n_users": events[col.USER_KEY].nunique(),
        "item_n_users_28d": events[col.USER_KEY].nunique(where=age <= 28),
        "item_n_sessions": events[col.SESSION_ID].nunique(),
        "item_decayed_fast": _fast(events),
        "item_decayed_slow": decayed_weight(events, SLOW_HALF_LIFE_DAYS),
        "item_weight_28d": events[col.WEIGHT].sum(where=age <= 28).fill_null(0.0),
        "item_age_days": age.max(),
        "item_last_days": age.min(),
        "item_mean_value": events[col.VALUE].mean(),
        "item_mean_gap_days": (age.max() - age.min()) / (events.count() - 1).nullif(0),
    }


def _fast(events: Table) -> ibis.Value:
    return decayed_weight(events, FAST_HALF_LIFE_DAYS)


def _category_trend(events: Table, known: Table) -> Table:
    placed = events.inner_join(known.select(col.ITEM_KEY, col.CATEGORY_KEY), col.ITEM_KEY)
    placed = placed.filter(placed.category_key.notnull())
    return placed.group_by(col.CATEGORY_KEY).agg(
        item_category_n_28d=count_within(placed, 28), item_category_decayed=_fast(placed)
    )


def _trend(items: Table, short_days: int, long_days: int) -> ibis.Value:
    short, long = items[f"item_n_{short_days}d"], items[f"item_n_{long_days}d"]
    return ((short + 1) / short_days) / ((long + 1) / long_days)
