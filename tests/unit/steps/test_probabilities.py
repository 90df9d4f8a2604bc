"""What the probabilities of the ranker and of DeepFM mean on the candidates that are ranked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recsys.candidates.deepfm_calibration import UNCALIBRATED
from recsys.evaluation.metrics import Labels
from recsys.evaluation.pools import PoolCount
from recsys.evaluation.report import AS_LEARNED, TWO_STAGE
from recsys.ranking.pool import Pool
from recsys.ranking.ranker import Ranker
from recsys.steps import probabilities
from recsys.steps.probabilities import Meaning, Watched

USERS = np.array([3, 7], dtype=np.int32)
POOL = Pool(
    USERS,
    np.array([0, 4, 6]),
    np.array([0, 1, 2, 3, 0, 1], dtype=np.int32),
    {"deepfm_score": np.array([0, 0, 0, np.nan, 0, 0], dtype=np.float32)},
)
SCORES = np.zeros(6, dtype=np.float32)  # as learned, every candidate is as likely as not
COUNT = PoolCount(n_users=10, n_labels=30, n_found=20, sum_of_shares=5.0)


def meaning(loss: str, platt: Any = None, n_items: int = 100) -> Meaning:
    ranker = Ranker(("a",), None, {"loss": loss, "params": {"max_negatives": 2}})
    network: Any = SimpleNamespace(name="deepfm", state=SimpleNamespace(calibration=platt))
    return Meaning.of(ranker, [] if platt is None else [network], [COUNT, COUNT], n_items)


def test_odds_are_corrected_for_the_share_of_each_users_negatives_that_was_learned_from() -> None:
    found = meaning("Logloss").probabilities(POOL, SCORES)
    np.testing.assert_allclose(found[TWO_STAGE], [1 / 3] * 4 + [1 / 2] * 2)  # two of four; two of two
    np.testing.assert_allclose(found[AS_LEARNED], 0.5)


def test_a_ranking_loss_and_a_network_without_calibration_give_no_probability() -> None:
    assert meaning("YetiRank").probabilities(POOL, SCORES) == {}
    assert meaning("YetiRank", UNCALIBRATED).probabilities(POOL, SCORES) == {}


def test_a_network_that_says_nothing_says_how_often_an_item_is_bought() -> None:
    """Three labels a user and 100 items: 3 %."""
    found = meaning("YetiRank", np.array([2.0, 0.0])).probabilities(POOL, SCORES)["deepfm"]
    np.testing.assert_allclose(found[[0, 1, 2, 4, 5]], 0.03, rtol=1e-5)
    assert np.isnan(found[3])


def test_the_ranker_is_judged_on_users_who_bought_a_candidate_and_the_network_on_all() -> None:
    labels = Labels.from_pairs(np.array([3, 3, 7]), np.array([1, 9, 8]))
    watched = Watched(meaning("Logloss", np.array([2.0, 0.0])), labels)
    watched(slice(0, 2), POOL, SCORES)
    found = {one.system: one for one in watched.predicted("all", "1970-01-01", {"light": np.array([True, False])})}
    assert found[TWO_STAGE].user.tolist() == [0] * 4
    assert found[TWO_STAGE].came_true.tolist() == [False, True, False, False]
    assert found["deepfm"].user.tolist() == [0, 0, 0, 1, 1]  # what it does not know is left out
    assert found["deepfm"].came_true.sum() == 1


def test_of_many_users_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probabilities, "MAX_USERS", 1)
    labels = Labels.from_pairs(np.array([3, 7]), np.array([1, 1]))
    watched = Watched(meaning("Logloss"), labels)
    watched(slice(0, 2), POOL, SCORES)
    assert len(np.unique(watched.predicted("all", "", {})[0].user)) == 1
