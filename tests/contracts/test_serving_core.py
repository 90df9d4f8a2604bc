"""What both implementations of `recsys.serving.core` promise, and that they give the same, to the last bit."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.serving import core
from recsys.serving.core import Pick, attribution, pure

try:
    from recsys.serving.core import compiled
except ImportError:  # no C++ compiler where it was installed
    compiled = None

both = pytest.mark.parametrize(
    "of",
    [
        pytest.param(pure, id="pure"),
        pytest.param(compiled, id="compiled", marks=pytest.mark.skipif(compiled is None, reason="no C++ compiler")),
    ],
)
N_ITEMS, N_NEIGHBOURS = 40, 5
INTERESTS = {"view": 1.0, "addtocart": 3.0, "transaction": 5.0, "dislike": 0.0}
keys = st.integers(0, N_ITEMS - 1)
floats = st.floats(0, 100, width=32, allow_subnormal=False)
events = st.lists(st.tuples(keys, st.sampled_from(sorted(INTERESTS)), st.integers(0, 10**12)), max_size=60)
lists = st.lists(keys, unique=True, max_size=30)
seeds = st.dictionaries(st.integers(-3, N_ITEMS + 3), st.floats(0.01, 100), max_size=12)


def columns(of: list[tuple[int, str, int]]) -> tuple[list[int], list[str], list[int]]:
    newest_first = sorted(of, key=lambda event: -event[2])
    return [one[0] for one in newest_first], [one[1] for one in newest_first], [one[2] for one in newest_first]


@st.composite
def indices(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Rows, keys and scores of a NeighbourIndex."""
    of = draw(st.dictionaries(keys, st.lists(st.tuples(keys, floats), max_size=N_NEIGHBOURS), max_size=15))
    rows = np.full(N_ITEMS + 1, len(of), np.int32)
    item_keys = np.full((len(of) + 1, N_NEIGHBOURS), -1, np.int32)
    scores = np.zeros((len(of) + 1, N_NEIGHBOURS), np.float32)
    for row, (owner, near) in enumerate(of.items()):
        rows[owner] = row
        for place, (key, score) in enumerate(near):
            item_keys[row, place], scores[row, place] = key, score
    return rows, item_keys, scores


def called(of: ModuleType, index: tuple[Any, Any, Any], seed_weights: dict[int, float], n: int = 20) -> Any:
    neighbours = of.Neighbours(*index)
    neighbours.called(dict.fromkeys(range(N_ITEMS), 1.0), n)  # leaves nothing behind
    return neighbours.called(seed_weights, n)


NAMES = tuple(attribution("ranked", name) for name in ("als", "ease", None))


def stored(of: ModuleType, listed: list[int]) -> Any:
    return of.StoredList.of(listed, np.linspace(1, 0, len(listed)), range(len(listed)))


def fused(of: ModuleType, listed: list[int], found: Any, weight: float) -> Any:
    return of.Fused(stored(of, listed), NAMES, found, attribution("i2i"), weight)


def gone_through(of: Any, step: int = 7) -> list[Pick]:
    """All of it, some at a time."""
    unwanted: set[int] = set()
    picks: list[Pick] = []
    while some := of.first(step, unwanted, None, None):
        picks += some
    assert unwanted == {pick.item_key for pick in picks}
    return picks


@both
def test_seeds_are_worth_half_as_much_after_a_half_life(of: ModuleType) -> None:
    found = of.seeds([7, 8, 7, 9], ["view", "addtocart", "view", "dislike"], [10, 5, 0, 0], INTERESTS, -1 / 5, 2)
    assert found == {7: 1 + 0.25, 8: 1.5}
    assert list(of.seeds([1, 2, 3], ["view"] * 3, [3, 2, 1], INTERESTS, -1.0, 2)) == [1, 2]
    assert of.seeds([], [], [], INTERESTS, -1.0, 2) == {}
    assert of.n_counted([7, 8, 7, 9, 6], ["view", "addtocart", "view", "dislike", "view"], INTERESTS, 2) == 3


@both
def test_bought_is_what_was_bought_since_then(of: ModuleType) -> None:
    since = {"transaction": 5 * core.pure.DAY_MS, "gift": -math.inf}
    at = [int(day * core.pure.DAY_MS) for day in (5, 4.9, 9, 1)]
    assert of.bought([1, 2, 3, 4], ["transaction", "transaction", "view", "gift"], at, since) == {1, 4}
    names = ("view", "transaction", "gift", "never seen")
    assert of.StoredList.of([1, 2, 3, 4], [5, 4.9, 9, 1], [1, 1, 0, 2]).bought_since(names, since) == {1, 4}
    assert of.StoredList.of([], [], []).bought_since(names, since) == set()
    with pytest.raises(ValueError, match="unequal length"):
        of.StoredList.of([1], [5, 4.9], [1, 1])


@both
def test_a_table_has_the_list_of_an_owner(of: ModuleType) -> None:
    starts, scores = np.array([0, 2, 2, 5]), np.linspace(1, 0, 5, dtype=np.float32)
    columns_of_all = np.arange(5, dtype=np.int32) + 10, scores, np.array([0, 1, 0, 1, 7], np.int16)
    table = of.ListTable(np.array([3, 0, 2, 1, 3], np.int32), starts, *columns_of_all)
    lists = {owner: table.get(owner) for owner in range(-1, 6)}
    found = {owner: one.item_keys.tolist() for owner, one in lists.items() if one is not None}
    assert found == {1: [10, 11], 2: [12, 13, 14], 3: []}
    unwanted, available = {13}, bytearray([1] * 20)
    picks = lists[2].first(9, unwanted, available, None, NAMES)
    assert [(*pick[:2], pick.generator) for pick in picks] == [(12, 0.5, "als"), (14, 0.0, None)]
    assert unwanted == {12, 13, 14}
    assert [pick.item_key for pick in lists[2].first(1, set(), available, lambda key: key > 12, NAMES)] == [13]


@both
def test_the_first_that_may_be_shown(of: ModuleType) -> None:
    unwanted, available = {3}, bytearray([0, 1, 1, 1, 0, 1])
    queried: list[int] = []

    def fits(key: int) -> bool:
        queried.append(key)
        return key != 2

    assert of.first([9, -1, 0, 1, 1, 2, 3, 5], 9, unwanted, available, fits) == ([3, 7], [1, 5])
    assert queried == [1, 2, 5]
    assert unwanted == {3, 1, 5}
    assert of.first(iter([1, 2, 5, 3]), 1, unwanted, available, None) == ([1], [2])
    assert of.first([99, -7], 9, set(), None, None) == ([0, 1], [99, -7])


@both
def test_a_list_and_what_is_called_are_one(of: ModuleType) -> None:
    near = np.array([[5, 6, 3], [-1, -1, -1]], np.int32), np.array([[1, 0.5, 0.25], [0, 0, 0]], np.float32)
    found = called(of, (np.array([1, 0, 1], np.int32), *near), {1: 2.0, 2: 9.0})
    assert (found.keys, [found.score(at) for at in range(3)]) == ([5, 6, 3], [2.0, 1.0, 0.5])
    picks = gone_through(fused(of, [4, 3, 2], found, 1.0))
    assert [pick.item_key for pick in picks] == [3, 4, 5, 6, 2]
    assert [pick.source for pick in picks] == ["ranked", "ranked", "i2i", "i2i", "ranked"]
    assert [pick.generator for pick in picks] == ["ease", "als", None, None, None]
    assert [pick.because_key for pick in picks] == [1, None, 1, 1, None]
    assert [pick.score for pick in picks] == [0.5, 1.0, 2.0, 1.0, 0.0]
    with pytest.raises(IndexError):
        found.score(3)


@both
def test_entries_are_json(of: ModuleType) -> None:
    ids: list[Any] = [None, 17, 'a "quoted" ünïcode']
    picks = [
        Pick(2, 0.1, attribution("ranked", "a\nls")), Pick(1, None, attribution("popular")),
        Pick(1, math.nan, attribution("i2i")), Pick(1, 1e-30, attribution("i2i")), Pick(1, 3.0, attribution("i2i")),
    ]  # fmt: skip
    text = of.entries(ids, picks, False)
    assert b'"score":0.1,' in text  # the digits of a float32
    assert b'"score":3.0,' in text
    found = orjson.loads(text)
    assert [(one["item_id"], one["rank"]) for one in found] == [(ids[2], 1), *[(17, rank) for rank in (2, 3, 4, 5)]]
    assert [one["score"] for one in found] == [0.1, None, None, 1e-30, 3.0]
    assert found[0]["generator"] == "a\nls"
    assert "reason" not in found[0]
    seeds_of = (None, lambda key: key - 1, lambda _: 1, lambda _: 2, lambda _: 0, lambda _: 9)
    explained = [Pick(key % 2 + 1, 1.0, attribution("i2i"), because) for key, because in enumerate(seeds_of)]
    reasons = [one["reason"] for one in orjson.loads(of.entries(ids, explained, True))]
    assert reasons == [None, {"item_id": 17}, {"item_id": 17}, {"item_id": ids[2]}, None, None]
    assert of.entries(ids, [], True) == b"[]"
    for unknown in (0, 3, -1):
        with pytest.raises(KeyError):
            of.entries(ids, [Pick(unknown, 1.0, attribution("i2i"))], False)


@pytest.mark.skipif(compiled is None, reason="no C++ compiler")
def test_keys_and_rows_that_a_damaged_file_may_hold_are_passed_over() -> None:
    of = compiled
    rows = np.array([0, 7, -9, 1], np.int32)
    near = np.array([[10**6, -(10**6), 2], [-1, -1, -1]], np.int32)
    found = called(of, (rows, near, np.ones((2, 3), np.float32)), {0: 1.0, 1: 1.0, 2: 1.0, 10**9: 1.0})
    assert found.keys == [10**6]  # item 2 is a seed
    assert called(of, (rows, near, np.ones((2, 3), np.float32)), {0: 1.0}).keys == [2, 10**6]
    one = np.ones(1, np.int32), np.ones(1, np.float32), np.ones(1, np.int16)
    for starts in ([0, 9], [-5, 1], [1, 0]):
        with pytest.raises(ValueError, match="not within"):
            of.ListTable(np.zeros(1, np.int32), np.array(starts), *one).get(0)
    assert of.ListTable(np.array([-4, 7], np.int32), np.array([0, 1]), *one).get(0) is None


@pytest.mark.skipif(compiled is None, reason="no C++ compiler")
class TestBothAgree:
    @given(events, st.integers(1, 25), st.floats(1e-3, 1e9))
    def test_on_events(self, of_user: list[tuple[int, str, int]], n: int, half_life_ms: float) -> None:
        item_keys, types, ms = columns(of_user)
        args = item_keys, types, ms, INTERESTS, -1 / half_life_ms, n
        assert list(compiled.seeds(*args).items()) == list(pure.seeds(*args).items())
        assert compiled.n_counted(item_keys, types, INTERESTS, n) == pure.n_counted(item_keys, types, INTERESTS, n)
        since = {"transaction": -math.inf, "view": 5e11}
        assert compiled.bought(item_keys, types, ms, since) == pure.bought(item_keys, types, ms, since)

    @given(indices(), seeds, st.integers(1, 30))
    def test_on_what_is_called(self, index: tuple[Any, Any, Any], weights: dict[int, float], n: int) -> None:
        weights = {key: weight for key, weight in weights.items() if key >= 0}
        one, other = (called(of, index, weights, n) for of in (compiled, pure))
        assert one.keys == other.keys
        scores = ([of.score(place) for place in range(len(one.keys))] for of in (one, other))
        assert [score.hex() for score in next(scores)] == [score.hex() for score in next(scores)]

    @settings(max_examples=200)
    @given(indices(), seeds, lists, st.sampled_from([0.25, 0.5, 1.0, 2.0, 7.3]))
    def test_on_the_order(
        self, index: tuple[Any, Any, Any], weights: dict[int, float], listed: list[int], weight: float
    ) -> None:
        weights = {key: of for key, of in weights.items() if key >= 0}
        one, other = (gone_through(fused(of, listed, called(of, index, weights), weight)) for of in (compiled, pure))
        assert [(*pick[:3], pick.because_key) for pick in one] == [(*pick[:3], pick.because_key) for pick in other]
        points = {key: 1 / (60 + place) for place, key in enumerate(listed)}
        for place, key in enumerate(called(pure, index, weights).keys):
            points[key] = points.get(key, 0.0) + weight / (60 + place)
        assert [points[pick.item_key] for pick in one] == sorted(points.values(), reverse=True)

    @settings(max_examples=500)
    @given(st.lists(st.tuples(keys, st.none() | st.floats(width=32)), max_size=20))
    def test_on_entries(self, of: list[tuple[int, float | None]]) -> None:
        ids: list[Any] = [10**key if key % 2 else f"i{key}" for key in range(18)] * 3
        picks = [Pick(key, score, attribution("ranked", "als")) for key, score in of]
        assert compiled.entries(ids, picks, False) == pure.entries(ids, picks, False)

    @pytest.mark.parametrize("exponent", range(-46, 38))
    def test_on_scores_of_any_size(self, exponent: int) -> None:
        values = np.float32(10.0) ** exponent * np.linspace(0.1, 9.9, 200, dtype=np.float32)
        picks = [Pick(0, float(value), attribution("ranked")) for value in values]
        assert compiled.entries([1], picks, False) == pure.entries([1], picks, False)

    def test_what_no_caller_does_ends_no_process(self) -> None:
        index = np.zeros(1, np.int32), np.zeros((2, 3), np.int32), np.ones((2, 3), np.float32)
        assert compiled.Neighbours(*index).called({0: 1.0}, -5).keys == []
        with pytest.raises(ValueError, match="nothing to attribute"):
            compiled.StoredList.of([1], [1], [1]).first(1, set(), None, None, ())
        for invalid in ([1, 2, None, None], (1, 2), None):
            with pytest.raises(TypeError):
                compiled.entries([1], [invalid], False)


def test_the_compiled_one_is_used_where_it_is_there() -> None:
    assert (compiled is not None) == core.IS_COMPILED
