"""Items that are drawn: the same for a user all day, others tomorrow and for others, and by their weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.columns import RECOMMENDATION_WEIGHT
from recsys.serving import cascade, selection
from recsys.serving.catalogue import ItemDictionary, ItemRows
from recsys.serving.config import ServingConfig, SurfaceConfig
from recsys.serving.filters import Filters
from recsys.serving.recent import DAY_MS
from recsys.serving.selection import drawn, seed_of
from recsys.serving.snapshot import NOBODY, Query, Snapshot
from tests.unit.serving.test_cascade import snapshot_of

DAY = 20_000 * DAY_MS
KEYS = np.arange(1, 31)


def shop(weights: dict[int, float], unavailable: int = 0) -> Snapshot:
    """Thirty items; the default list has the first ten, best first."""
    items = ItemDictionary("integer")
    for key in KEYS.tolist():
        numbers = {RECOMMENDATION_WEIGHT: weights[key]} if key in weights else {}
        items.add(key, str(1000 + key), 1 + key % 2, key != unavailable, numbers)
    return replace(snapshot_of({}, {0: range(1, 11)}), items=items)


def shown(snapshot: Snapshot, source: str, who: str, now_ms: float = DAY, **surface: object) -> list[int]:
    config = ServingConfig(surfaces={"homepage": SurfaceConfig(sources=(source,), **surface)})  # type: ignore[arg-type]
    picks = cascade.recommend(snapshot, NOBODY, Query(5, now_ms=now_ms, who=who), config)
    assert {pick.source for pick in picks} <= {source}
    return [pick.item_key for pick in picks]


@pytest.mark.parametrize("source", ["editorial", "popular_sampled"])
def test_the_same_all_day_and_another_one_tomorrow(source: str) -> None:
    snapshot = shop(dict.fromkeys(KEYS.tolist(), 1.0))
    today = shown(snapshot, source, "user 1")
    assert len(set(today)) == 5
    assert today == shown(snapshot, source, "user 1", DAY + DAY_MS - 1)
    assert today != shown(snapshot, source, "user 1", DAY + DAY_MS)
    assert today != shown(snapshot, source, "user 2")
    assert today != shown(snapshot, source, "session 1")
    assert shown(snapshot, source, "") == shown(snapshot, source, "")


def test_an_item_that_goes_moves_no_other() -> None:
    weights = dict.fromkeys(KEYS.tolist(), 1.0)
    first, *others = shown(shop(weights), "editorial", "user 1")
    assert shown(shop(weights, unavailable=first), "editorial", "user 1")[:4] == others


def test_probabilities_follow_the_weights() -> None:
    firsts = Counter(drawn(np.array([4, 9]), np.array([1.0, 3.0]), seed_of(str(n), 0, "s"))[0] for n in range(4_000))
    assert firsts[9] / 4_000 == pytest.approx(0.75, abs=0.03)  # four standard errors


def test_popular_items_come_by_their_popularity() -> None:
    """Of a list with scores 1, 1/2, 1/3 … 1/10 the first is drawn first with a probability of 1 / 2.93."""
    snapshot = shop({})
    firsts = Counter(shown(snapshot, "popular_sampled", f"user {n}")[0] for n in range(2_000))
    assert set(firsts) <= set(range(1, 11))
    assert firsts[1] / 2_000 == pytest.approx(1 / 2.929, abs=0.045)


def test_only_positive_weights_of_available_items_are_drawn_and_rules_hold() -> None:
    weights = {1: 2.0, 2: 0.0, 3: -1.0, 4: float("nan"), 5: 1e-9, 6: 3.0, 7: 1.0}
    snapshot = shop(weights, unavailable=7)
    assert sorted(shown(snapshot, "editorial", "user 1")) == [1, 5, 6]
    assert sorted(shown(snapshot, "editorial", "user 1", filters=Filters(categories=(2,)))) == [1, 5]
    assert shown(shop({}), "editorial", "user 1") == []


def test_a_change_of_the_catalogue_shows_in_the_next_draw() -> None:
    snapshot = shop({1: 2.0, 2: 1.0})
    assert sorted(shown(snapshot, "editorial", "user 1")) == [1, 2]
    snapshot.items.add(3, "1003", 2, True, {RECOMMENDATION_WEIGHT: 5.0})
    assert sorted(shown(snapshot, "editorial", "user 1")) == [1, 2, 3]
    snapshot.items.add(1, "1001", 2, True, {RECOMMENDATION_WEIGHT: 0.0})
    snapshot.items.remove(2)
    assert shown(snapshot, "editorial", "user 1") == [3]
    rows = ItemRows(
        np.array([40], dtype=np.int32),
        ["1040"],
        np.array([1], dtype=np.int32),
        np.array([True]),
        {RECOMMENDATION_WEIGHT: np.array([1.0])},
    )
    snapshot.items.add_all(rows)
    assert sorted(shown(snapshot, "editorial", "user 1")) == [3, 40]


def test_what_is_left_open_is_filled_by_the_next_source() -> None:
    config = ServingConfig(surfaces={"homepage": SurfaceConfig(sources=("editorial", "popular"))})
    picks = cascade.recommend(shop({20: 1.0}), NOBODY, Query(3, now_ms=DAY), config)
    assert [(pick.item_key, pick.source) for pick in picks] == [(20, "editorial"), (1, "popular"), (2, "popular")]


weights = st.lists(st.floats(width=32) | st.just(1.0), max_size=40)


@given(weights, st.integers(0, 2**64 - 1))
def test_whatever_the_weights_each_usable_item_comes_once(given_weights: list[float], seed: int) -> None:
    of = np.array(given_weights, dtype=np.float64)
    found = drawn(np.arange(len(of)), of, seed).tolist()
    assert sorted(found) == np.flatnonzero(np.isfinite(of) & (of > 0)).tolist()


def test_so_many_are_drawn_of_a_large_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn(KEYS, np.ones(30), 5)
    monkeypatch.setattr(selection, "N_DRAWN", 7)
    np.testing.assert_array_equal(drawn(KEYS, np.ones(30), 5), whole[:7])
