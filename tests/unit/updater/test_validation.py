"""Progressive validation: what a window says, and when the guard acts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.candidates.deepfm_samples import EXCLUDED
from recsys.updater.validation import COLUMNS, Window, judge

N_NEGATIVES = 15


def judged(updated: float, frozen: float, label: float = 1.0, n: int = 1) -> np.ndarray:
    """Events whose item has a logit, beside negatives from -7 to 7."""
    negatives = np.tile(np.arange(-7, 8, dtype=np.float32), (n, 1))
    logits, other = (np.hstack([np.full((n, 1), x, np.float32), negatives]) for x in (updated, frozen))
    log_q = np.zeros((n, 1 + N_NEGATIVES), dtype=np.float32)
    return judge(logits, other, log_q, np.full(n, label, np.float32), 1.0, 0.0)


def test_the_auc_is_the_share_of_negatives_on_the_right_side() -> None:
    row = dict(zip(COLUMNS, judged(3.5, 0.0)[0].tolist(), strict=True))
    assert row["auc"] == pytest.approx(11 / 15)
    assert row["frozen_auc"] == pytest.approx(0.5), "an equal one counts half"
    assert row["target"] == 0.5
    against = dict(zip(COLUMNS, judged(3.5, 0.0, label=0.0)[0].tolist(), strict=True))
    assert against["auc"] == pytest.approx(4 / 15)
    assert against["logloss"] == pytest.approx(np.log1p(np.exp(3.5)), rel=1e-5)
    assert against["target"] == 0


def test_the_log_loss_weighs_negatives_by_how_seldom_they_are_drawn() -> None:
    logits = np.array([[1.0, -1.0, 2.0]], np.float32)
    log_q = np.log(np.array([[0.3, 0.1, 0.4]], np.float32))
    loss = judge(logits, logits, log_q, np.ones(1, np.float32), 2.0, -0.5)[0, 2]
    p = 1 / (1 + np.exp(-(2.0 * logits[0] - 0.5)))
    expected = -0.5 * np.log(p[0]) - 0.5 * (0.8 * np.log(1 - p[1]) + 0.2 * np.log(1 - p[2]))
    assert loss == pytest.approx(expected, rel=1e-5)
    excluded = np.array([[0.0, 0.0, EXCLUDED]], np.float32)
    assert judge(logits, logits, excluded, np.ones(1, np.float32), 1.0, 0.0)[0, 0] == 1.0


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(0, 1))
def test_any_logit_gives_finite_figures(updated: float, frozen: float, label: float) -> None:
    row = judged(updated, frozen, label)[0]
    assert np.isfinite(row).all()
    assert 0 <= row[0] <= 1
    assert row[2] >= 0


def test_the_guard_waits_for_a_window_and_acts_beyond_the_bound() -> None:
    window = Window(100)
    window.add(judged(-9, 9, n=99))
    assert window.problem(0.05) is None, "too few to tell"
    window.add(judged(-9, 9, n=1))
    assert "progressive AUC 0.000 over the last 100 events" in str(window.problem(0.05))
    window.add(judged(0, 0, n=100))
    assert window.problem(0.05) is None, "what left the window counts no more"
    window.add(judged(-9, 0, n=9))
    assert window.problem(0.05) is None
    window.add(judged(-9, 0, n=2))
    assert window.problem(0.05) is not None
    assert window.metrics()["n"] == 100
    window.clear()
    assert window.metrics() == {"n": 0}
