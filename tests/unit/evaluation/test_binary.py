"""AUC and log loss of yes-or-no predictions."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.evaluation.binary import auc, auc_draws, log_loss


def test_auc_counts_pairs_in_the_right_order_and_ties_half() -> None:
    came_true = np.array([True, True, False, False])
    assert auc(np.array([4.0, 3, 2, 1]), came_true) == 1
    assert auc(np.array([1.0, 2, 3, 4]), came_true) == 0
    assert auc(np.array([2.0, 1, 1, 0]), came_true) == pytest.approx(3.5 / 4)
    assert np.isnan(auc(np.array([1.0, 2]), np.array([True, True])))


def test_resamples_surround_the_auc_are_paired_and_draw_users_whole() -> None:
    rng = np.random.default_rng(0)
    came_true = rng.random(2_000) < 0.3
    score = came_true + rng.standard_normal(2_000)
    user = rng.integers(0, 200, 2_000)
    draws = auc_draws(score, came_true, user, seed=1, n_resamples=200)
    assert np.quantile(draws, 0.025) < auc(score, came_true) < np.quantile(draws, 0.975)
    assert np.array_equal(draws, auc_draws(3 * score - 1, came_true, user, seed=1, n_resamples=200))
    single = auc_draws(score, came_true, np.zeros(2_000, dtype=int), seed=1, n_resamples=5)
    assert single == pytest.approx(auc(score, came_true))


def test_log_loss_is_that_of_the_sigmoid() -> None:
    logit, came_true = np.array([0.0, 2.0, -800.0]), np.array([True, False, False])
    assert log_loss(logit, came_true) == pytest.approx([np.log(2), np.log(1 + np.exp(2)), 0])
