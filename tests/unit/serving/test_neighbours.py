"""Which items are called by which, and by whom most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.serving.neighbours import N_NEIGHBOURS, NeighbourIndex


def best(index: NeighbourIndex, seeds: dict[int, float], n: int) -> tuple[list[int], list[float]]:
    called = index.called(seeds, n)
    keys = called.keys
    return keys, [called.score(place) for place in range(len(keys))]


def test_what_two_seeds_call_comes_first() -> None:
    index = NeighbourIndex.of_lists({1: ([5, 6, 2], [4.0, 2.0, 1.0]), 2: ([6, 7], [9.0, 9.0])})  # 1, 0.5, 0.25; 1, 1
    seeds = {1: 1.0, 2: 1.0}
    keys, scores = best(index, seeds, 10)
    assert keys == [6, 5, 7]
    assert scores == pytest.approx([1.5, 1.0, 1.0])
    assert [index.called(seeds, 10).because(key) for key in keys] == [2, 1, 2]
    assert best(index, seeds, 1)[0] == [6]


def test_a_seed_is_not_called_although_it_has_no_neighbours_of_its_own() -> None:
    index = NeighbourIndex.of_lists({1: ([2, 3, 4], [1.0, 1.0, 1.0])})
    assert best(index, {1: 1.0, 4: 1.0, 999: 1.0}, 10)[0] == [2, 3]


def test_nobody_calls_nothing() -> None:
    index = NeighbourIndex.of_lists({1: ([5], [1.0])})
    assert best(index, {9: 1.0}, 3) == ([], [])
    assert best(index, {}, 3) == ([], [])


def test_the_best_are_kept_and_bad_scores_are_an_order() -> None:
    index = NeighbourIndex.of_lists({1: (list(range(10, 100)), [1.0] * 90), 2: ([3, 4], [-1.0, -2.0]), 3: ([], [])})
    assert len(index) == 2
    assert len(best(index, {1: 1.0}, 1000)[0]) == N_NEIGHBOURS
    assert best(index, {2: 2.0}, 5) == ([3, 4], [2.0, 1.0])


keys = st.lists(st.integers(0, 40), unique=True, max_size=30)


@given(st.dictionaries(st.integers(0, 40), keys, max_size=8), st.dictionaries(st.integers(0, 40), st.integers(1, 9)))
def test_sums_are_those_that_a_hand_would_add(lists: dict[int, list[int]], seeds: dict[int, int]) -> None:
    index = NeighbourIndex.of_lists(
        {owner: (of, [float(2 ** (5 - place)) for place in range(len(of))]) for owner, of in lists.items()}
    )
    expected: dict[int, float] = {}
    for seed, weight in seeds.items():
        for place, key in enumerate(lists.get(seed, [])[:N_NEIGHBOURS]):
            expected[key] = expected.get(key, 0.0) + weight * 2.0**-place
    weights = {seed: float(weight) for seed, weight in seeds.items()}
    found = dict(zip(*best(index, weights, 1000), strict=True))
    assert found == pytest.approx({key: total for key, total in expected.items() if key not in seeds}, rel=1e-4)
    assert list(found) == sorted(found, key=lambda key: (-found[key], key))
    assert dict(zip(*best(index, weights, 1000), strict=True)) == found  # nothing is left of the first time
    for key in found:
        assert key in lists[index.called(weights, 1000).because(key)]
