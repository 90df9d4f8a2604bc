"""Probabilities that come true have no error, others a known one; corrections restore what was thinned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.evaluation import calibration
from recsys.evaluation.calibration import Predicted, all_negatives, reliability, sigmoid, with_prior


def test_the_error_by_hand() -> None:
    p = np.array([0.1, 0.1, 0.1, 0.1, 0.8, 0.8])
    bins = reliability(p, np.array([0, 0, 0, 1, 1, 1], dtype=bool), n_bins=2)
    np.testing.assert_allclose(bins.predicted, [0.1, 0.8])
    np.testing.assert_allclose(bins.observed, [0.25, 1.0])
    assert bins.n.tolist() == [4, 2]
    assert bins.error == pytest.approx((4 * 0.15 + 2 * 0.2) / 6)


def test_a_perfect_forecast_has_next_to_no_error_and_a_doubled_one_its_own_mean() -> None:
    rng = np.random.default_rng(3)
    p = rng.beta(1, 60, 400_000)
    came_true = rng.random(len(p)) < p
    assert reliability(p, came_true).error < 0.05 * p.mean()
    assert reliability(2 * p, came_true).error == pytest.approx(p.mean(), rel=0.1)


def test_equal_probabilities_are_one_bin_and_nothing_is_no_number() -> None:
    bins = reliability(np.full(100, 0.3), np.arange(100) < 30)
    assert bins.n.tolist() == [100]
    assert bins.error == pytest.approx(0.0)
    assert np.isnan(reliability(np.zeros(0), np.zeros(0, dtype=bool)).error)


@given(st.integers(1, 400), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_bins_hold_each_pair_once_and_the_error_is_a_share(n: int, n_bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, came_true = np.round(rng.random(n), 2), rng.random(n) < 0.5
    bins = reliability(p, came_true, n_bins)
    assert bins.n.sum() == n
    assert len(bins.n) <= n_bins
    assert (np.diff(bins.predicted) > 0).all()
    assert (bins.n @ bins.predicted, bins.n @ bins.observed) == pytest.approx((p.sum(), came_true.sum()))
    assert abs(p.mean() - came_true.mean()) - 1e-12 <= bins.error <= 1


def test_what_was_learned_from_some_negatives_is_corrected_for_all() -> None:
    rng = np.random.default_rng(5)
    kind = rng.integers(0, 2, 400_000)
    came_true = rng.random(len(kind)) < np.array([0.01, 0.2])[kind]
    kept = came_true | (rng.random(len(kind)) < 0.1)
    learned = np.array([came_true[kept & (kind == one)].mean() for one in (0, 1)])
    logit = np.log(learned / (1 - learned))
    np.testing.assert_allclose(sigmoid(all_negatives(logit, np.full(2, 0.1))), [0.01, 0.2], rtol=0.1)


def test_another_prior_by_hand_and_back() -> None:
    assert sigmoid(with_prior(np.array([0.0]), 0.01))[0] == pytest.approx(0.01)  # says nothing: the prior alone
    assert sigmoid(with_prior(np.log(np.array([9.0])), 0.1))[0] == pytest.approx(0.5)  # odds of 9 against 9
    logits = np.array([-2.0, 0.3])
    np.testing.assert_allclose(with_prior(with_prior(logits, 0.03), 0.5, before=0.03), logits)


def test_rows_are_of_all_cuts_together_by_segment() -> None:
    light = {"light": np.array([True, False])}
    user = np.array([0, 0, 1], dtype=np.int32)
    parts = [
        Predicted("all", "1", "x", np.array([0.5, 0.5, 0.1], np.float32), np.array([True, False, False]), user, light),
        Predicted("all", "2", "x", np.array([0.5, 0.5, 0.3], np.float32), np.array([True, False, True]), user, light),
    ]
    rows = {row["segment"]: row for row in calibration.rows_of(parts)}
    assert rows["light"]["pairs"] == 4
    assert rows["light"]["users"] == 2  # one in each cut
    assert rows["light"]["ece"] == pytest.approx(0.0)
    assert rows["all"]["observed"] == pytest.approx(3 / 6)
    assert list(calibration.curves(parts)["all"]) == ["x, all", "x, light"]
