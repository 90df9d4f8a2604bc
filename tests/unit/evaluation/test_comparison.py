from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.evaluation.comparison import MOST, Comparison, PerUser, compare, mean_by_user


def found(difference: float, low: float, high: float, n_users: int = 100) -> Comparison:
    return Comparison(n_users, 1 + difference, 1.0, difference, low, high)


def test_the_difference_is_relative_and_paired() -> None:
    reference = np.random.default_rng(1).random(300)
    same = compare(reference * 0.8, reference, seed=1)
    assert (same.n_users, same.reference) == (300, reference.mean())
    assert (same.difference, same.low, same.high) == pytest.approx((-0.2, -0.2, -0.2)), "each user lost the same"
    shuffled = compare(np.random.default_rng(2).permutation(reference), reference, seed=1)
    assert shuffled.low < -0.05 < 0.05 < shuffled.high, "others' values say little"


def test_of_a_reference_of_nothing_everything_is_more() -> None:
    nothing, once = np.zeros(60), np.eye(60)[0]
    assert (compare(nothing, nothing, seed=1).low, compare(nothing, nothing, seed=1).high) == (0, 0)
    more = compare(once, nothing, seed=1)
    assert (more.difference, more.low, more.high) == (math.inf, 0, math.inf)
    assert "over +1000%" in str(more)
    assert more.n_needed(0.1) == MOST


def test_the_needed_users_are_those_at_whom_the_interval_leaves_the_bound_out() -> None:
    assert found(0.0, -0.2, 0.2).n_needed(0.1) == 400, "half as wide takes four times as many"
    assert found(0.3, 0.1, 0.5).n_needed(0.1) == 400, "a gain counts as none"
    assert found(-0.05, -0.25, 0.15).n_needed(0.1) == 1600
    assert found(-0.2, -0.4, 0.0).n_needed(0.1) == 400, "to show that it is worse"
    assert found(-0.1, -0.3, 0.1).n_needed(0.1) == MOST


def test_a_user_of_several_windows_is_one_user() -> None:
    first = PerUser(np.array([1, 3], dtype=np.int32), np.array([0.0, 0.6]))
    second = PerUser(np.array([3, 9], dtype=np.int32), np.array([0.2, 1.0]))
    both = mean_by_user([first, second])
    assert both.user_key.tolist() == [1, 3, 9]
    assert both.values == pytest.approx([0.0, 0.4, 1.0])
