"""Features of a user together with an item, as of a cut: what they had to do with each other before."""

from __future__ import annotations

from collections.abc import Sequence

import ibis
from ibis import Table

from recsys import columns as col
from recsys.features.history import AGE_DAYS, SLOW_HALF_LIFE_DAYS, counts_by_type, decayed_weight, events_before


def pair_history(con: ibis.BaseBackend, at: int, event_types: Sequence[str]) -> Table:
    """One row for each pair with an event before `at`: `user_key`, `item_key`, columns that start with `pair_`.

    `pair_due` is the time since the last session with the item over the mean time between such sessions: 1
    when the next one is due. Null where there was one session only.
    """
    events = events_before(con, at)
    age, gaps = events[AGE_DAYS], events[col.SESSION_ID].nunique() - 1
    pairs = events.group_by([col.USER_KEY, col.ITEM_KEY]).agg(
        **counts_by_type(events, event_types, "pair_n_"),
        pair_n=events.count(),
        pair_n_sessions=events[col.SESSION_ID].nunique(),
        pair_last_days=age.min(),
        pair_first_days=age.max(),
        pair_decayed=decayed_weight(events, SLOW_HALF_LIFE_DAYS),
        pair_mean_gap_days=(age.max() - age.min()) / gaps.nullif(0),
        pair_last_value=events[col.VALUE].argmax(events[col.EVENT_ID]),
    )
    return pairs.mutate(pair_due=pairs.pair_last_days / pairs.pair_mean_gap_days.nullif(0))


def is_count(name: str) -> bool:
    """Whether a feature of `pair_history` is 0, not unknown, for a pair that never met."""
    return name.startswith("pair_n") or name == "pair_decayed"
