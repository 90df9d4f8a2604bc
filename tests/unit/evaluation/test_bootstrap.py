import numpy as np
import pytest

from recsys.evaluation.bootstrap import interval


def test_interval_agrees_with_the_normal_one_for_many_users():
    values = np.random.default_rng(1).normal(0.3, 0.1, size=4_000)
    low, high = interval(values, seed=2, n_resamples=2_000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=half / 5)
    assert high == pytest.approx(values.mean() + half, abs=half / 5)


def test_interval_is_repeatable_and_ignores_nan():
    values = np.array([0.0, 1.0, np.nan, 0.5])
    assert interval(values, seed=3) == interval(values[~np.isnan(values)], seed=3)


def test_interval_of_a_constant_is_a_point_and_of_nothing_is_nan():
    assert interval(np.full(10, 0.25), seed=0) == (0.25, 0.25)
    assert np.isnan(interval(np.array([np.nan]), seed=0)).all()
