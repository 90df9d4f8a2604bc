"""What users did, as lists: against a plain loop over the events, and through the checks of every list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.steps import user_history
from recsys.storage.list_checks import ListChecks
from recsys.types import MICROSECONDS_PER_DAY, Interactions

TYPES = ("view", "addtocart", "transaction", "gift")
BOUGHT = ("transaction", "gift")
START = 20_000 * MICROSECONDS_PER_DAY
Event = tuple[int, int, int, int]  # user, item, type, hours after START

events = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(0, len(TYPES) - 1), st.integers(0, 400)), max_size=60
)


def interactions_of(of: list[Event]) -> Interactions:
    user, item, type_, hour = np.array(sorted(of, key=lambda event: event[3]), dtype=np.int64).reshape(-1, 4).T
    n = len(user)
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        type_.astype(np.int8),
        np.ones(n, np.float32),
        START + hour * (MICROSECONDS_PER_DAY // 24),
        np.zeros(n, np.int64),
        np.full(n, np.nan),
        TYPES,
        START + 500 * MICROSECONDS_PER_DAY,
    )


def found(of: list[Event], others_of: set[int]) -> dict[int, list[tuple[int, int, float]]]:
    """User → (item, type, hours) in the order of the list."""
    rows = {}
    checks = ListChecks("history", len(TYPES))
    for block in user_history.histories(interactions_of(of), BOUGHT, np.array(sorted(others_of), dtype=np.int32)):
        checks.add(block)
        for user, items, days, types, n in zip(
            block.owner_key, block.item_key, block.score, block.source, block.lengths, strict=True
        ):
            hours = np.round((days[:n].astype(np.float64) - 20_000) * 24)
            rows[int(user)] = list(zip(items[:n].tolist(), types[:n].tolist(), hours.tolist(), strict=True))
    if rows:
        assert checks.finish()["n_rows"] == len(rows)
    return rows


def expected(of: list[Event], others_of: set[int], most: int, most_bought: int) -> dict[int, set[tuple[int, int]]]:
    """User → (item, type), where no two events are of one time."""
    newest: dict[tuple[int, int, int], int] = {}
    for user, item, type_, hour in of:
        newest[user, item, type_] = max(hour, newest.get((user, item, type_), -1))
    kept: dict[int, set[tuple[int, int]]] = {}
    for user in {event[0] for event in of}:
        by_time = sorted((-hour, item, type_) for (u, item, type_), hour in newest.items() if u == user)
        bought = [(item, type_) for _, item, type_ in by_time if TYPES[type_] in BOUGHT][:most_bought]
        others = [(item, type_) for _, item, type_ in by_time if TYPES[type_] not in BOUGHT][:most]
        entries = {*bought, *(others if user in others_of else [])}
        if entries:
            kept[user] = entries
    return kept


@given(of=events, others_of=st.sets(st.integers(1, 6)))
def test_every_user_has_the_latest_event_by_item_and_type_newest_first(of: list[Event], others_of: set[int]) -> None:
    rows = found(of, others_of)
    assert {user: {(item, type_) for item, type_, _ in row} for user, row in rows.items()} == expected(
        of, others_of, 200, 10_000
    )
    for user, row in rows.items():
        assert [hours for *_, hours in row] == sorted((hours for *_, hours in row), reverse=True)
        for item, type_, hours in row:
            assert hours == max(hour for u, i, t, hour in of if (u, i, t) == (user, item, type_))


@given(of=events, cells=st.integers(1, 20))
def test_the_latest_stay_when_there_are_too_many(of: list[Event], cells: int) -> None:
    distinct = [(user, item, type_, place) for place, (user, item, type_, _) in enumerate(of)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(user_history, "MAX_OTHERS", 2)
        patch.setattr(user_history, "MAX_BOUGHT", 3)
        patch.setattr(user_history, "_CELLS_PER_BLOCK", cells)  # and whatever the size of the blocks
        rows = found(distinct, {1, 2, 3})
    assert {user: {(item, type_) for item, type_, _ in row} for user, row in rows.items()} == expected(
        distinct, {1, 2, 3}, 2, 3
    )
