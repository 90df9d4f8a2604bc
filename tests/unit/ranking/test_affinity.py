"""Nearness of candidates to own items: against loops over the pairs, for every generator that knows items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.candidates import registry
from recsys.ranking.affinity import MAX_OWN_ITEMS, RECENT_SESSIONS, KnowsItems, OwnItems, affinity
from recsys.ranking.pool import Pool, build_pool
from recsys.types import Interactions
from tests.unit.ranking.taste_world import CUT_AT, dataset

KNOWING = {"als": {"factors": 8, "num_threads": 1}, "covisitation": {}, "next_item": {}, "item_knn": {}, "ease": {}}


def events(rows: list[tuple[int, int, int, int]]) -> Interactions:
    """(user, item, instant, session), in time order."""
    user, item, at, session = (np.array(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return Interactions(
        user.astype(np.int32), item.astype(np.int32), np.zeros(n, np.int8), np.ones(n, np.float32),
        at.astype(np.int64), session.astype(np.int64), np.full(n, np.nan), ("view",), 1000,
    )  # fmt: skip


def rows_of(own: OwnItems, user_key: int) -> NDArray[np.int64]:
    return own.rows_of(np.array([user_key], dtype=np.int32))[0]


def test_own_items_are_the_latest_distinct_ones_with_their_place() -> None:
    own = OwnItems.of(
        events([(7, 1, 1, 1), (3, 9, 1, 1), (7, 2, 2, 2), (7, 1, 3, 3), (7, 4, 4, 4), (7, 5, 5, 5), (7, 6, 5, 5)])
    )
    rows = rows_of(own, 7)
    assert sorted(own.item_key[rows].tolist()) == [1, 2, 4, 5, 6]
    marks = zip(own.item_key[rows].tolist(), own.is_last[rows], own.is_recent[rows], strict=True)
    of = {key: (bool(last), bool(recent)) for key, last, recent in marks}
    assert RECENT_SESSIONS == 3
    assert of == {5: (True, True), 6: (True, True), 4: (False, True), 1: (False, True), 2: (False, False)}
    assert own.item_key[rows_of(own, 3)].tolist() == [9]
    assert rows_of(own, 4).tolist() == rows_of(own, 99).tolist() == []
    several, starts = own.rows_of(np.array([99, 7, 4, 3, 1000], dtype=np.int32))
    assert several.tolist() == [*rows.tolist(), *rows_of(own, 3).tolist()]
    assert starts.tolist() == [0, 0, 5, 5, 6, 6]


def test_of_a_long_history_the_latest_items_count() -> None:
    own = OwnItems.of(events([(1, item, item, item) for item in range(MAX_OWN_ITEMS + 20)]))
    assert sorted(own.item_key.tolist()) == list(range(20, MAX_OWN_ITEMS + 20))


@pytest.mark.parametrize("name", KNOWING)
def test_the_columns_are_those_of_loops_over_pairs(name: str, tmp_path: Path) -> None:
    data = dataset(tmp_path / "world")
    history, catalogue = data.interactions().before(CUT_AT), data.catalogue(CUT_AT)
    model: Any = registry.make(name, KNOWING[name]).fit(history, catalogue)
    popular = registry.make("popular").fit(history, catalogue)
    assert isinstance(model, KnowsItems)
    assert not isinstance(popular, KnowsItems)
    own = OwnItems.of(history)
    users = np.array([*np.unique(history.user_key)[:9], 99_999], dtype=np.int32)
    pool = build_pool([popular, model], users, 15)
    columns = affinity([popular, model], own, pool)
    assert set(columns) == {f"{name}_near_{what}" for what in ("max", "last", "recent", "n")}
    assert max(column.max() for column in columns.values()) > 0
    for row in range(len(pool)):
        user = int(pool.user_key[pool.row_of_user[row]])
        mine, candidate = rows_of(own, user), model.items.positions(pool.item_key[row : row + 1])
        near = {}
        for place, key in enumerate(own.item_key[mine].tolist()):
            at = model.items.positions(np.array([key]))
            near[place] = float(model.nearness_between(at, candidate)[0, 0]) if min(at[0], candidate[0]) >= 0 else 0.0
        last = [near[p] for p in near if own.is_last[mine][p]]
        recent = [near[p] for p in near if own.is_recent[mine][p]]
        expected = {
            "max": max(near.values(), default=0.0),
            "last": max([0.0, *last]),
            "recent": max([0.0, *recent]),
            "n": sum(value > 0 for value in near.values()),
        }
        for what, value in expected.items():
            assert columns[f"{name}_near_{what}"][row] == pytest.approx(value, abs=1e-5), what


def test_rows_left_out_change_no_other(tmp_path: Path) -> None:
    data = dataset(tmp_path / "world")
    history = data.interactions().before(CUT_AT)
    model: Any = registry.make("covisitation").fit(history, data.catalogue(CUT_AT))
    own, users = OwnItems.of(history), np.unique(history.user_key)[:6]
    pool = build_pool([model], users, 10)
    kept = np.arange(0, len(pool), 3)
    part = Pool(users, np.searchsorted(kept, pool.starts), pool.item_key[kept], {})
    whole, some = affinity([model], own, pool), affinity([model], own, part)
    for name, column in whole.items():
        np.testing.assert_array_equal(column[kept], some[name])
