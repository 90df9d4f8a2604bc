import numpy as np
import pytest

from recsys.evaluation.bootstrap import ends, interval, resampled_means


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


def test_users_of_several_cuts_are_drawn_whole():
    """The same values in each of four cuts: no cut adds anything, so the interval is that of one cut."""
    values = np.random.default_rng(1).random((500, 1))
    users = np.arange(500)
    one = resampled_means([values], [users], seed=4)
    four = resampled_means([values] * 4, [users] * 4, seed=4)
    np.testing.assert_allclose(one, four)
    apart = resampled_means([values] * 4, [users + 1000 * cut for cut in range(4)], seed=4)
    assert apart.std() == pytest.approx(one.std() / 2, rel=0.15)  # other users in each cut: half as wide


def test_resampled_means_agree_with_the_interval_and_leave_nan_out():
    values = np.random.default_rng(2).normal(0.3, 0.1, size=(1_000, 1))
    low, high = ends(resampled_means([values], [np.arange(1_000)], seed=5)[:, 0])
    assert (low, high) == pytest.approx(interval(values[:, 0], seed=6), abs=2e-3)
    gap = np.array([[0.5, np.nan], [np.nan, np.nan]])
    drawn = resampled_means([gap], [np.array([3, 9])], seed=7, n_resamples=50)
    assert set(drawn[~np.isnan(drawn)].tolist()) == {0.5}
    assert np.isnan(ends(drawn[:, 1])).all()


def test_equal_seeds_draw_the_same_users_for_every_system():
    users = np.array([1, 2, 3, 4])
    first = np.array([[0.1], [0.9], [0.4], [0.2]])
    drawn, more = (resampled_means([one], [users], seed=8) for one in (first, first + 0.05))
    np.testing.assert_allclose(more - drawn, 0.05)
