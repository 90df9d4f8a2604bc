from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.errors import ArtifactError, InputError, ModelError
from recsys.ranking.frame import Frame
from recsys.ranking.ranker import (
    DESCRIPTION_FILE,
    MODEL_FILE,
    Examples,
    Ranker,
    RankerParams,
    _average,
    mean_ndcg,
    train,
)

PARAMS = RankerParams(losses=("Logloss",), iterations=30, early_stopping_rounds=10, threads=1, column_share=1.0)


def examples(n_groups: int, seed: int, *, size: int = 12) -> Examples:
    """Groups in which the candidate with the greatest `signal` is the positive; `noise` says nothing."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n_groups * size, 2)).astype(np.float32)
    group = np.repeat(np.arange(n_groups), size)
    best = matrix[:, 0].reshape(n_groups, size).argmax(axis=1)
    label = np.zeros((n_groups, size), dtype=bool)
    label[np.arange(n_groups), best] = True
    return Examples(Frame(("signal", "noise"), matrix), label.ravel(), group, group.astype(np.int32))


TRAINING, VALIDATION = examples(150, 1), examples(40, 2)


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return train(TRAINING, VALIDATION, PARAMS)


def test_it_finds_the_signal_and_says_so(ranker: Ranker) -> None:
    assert mean_ndcg(ranker.score(VALIDATION.frame), VALIDATION) > 0.95
    assert next(iter(ranker.report["importance"])) == "signal"


@pytest.mark.slow
def test_both_losses_are_tried_and_the_better_one_is_kept() -> None:
    both = train(TRAINING, VALIDATION, replace(PARAMS, losses=("Logloss", "YetiRank")))
    tried = both.report["validation"]
    assert set(tried) == {"Logloss", "YetiRank"}
    assert both.report["loss"] == max(tried, key=lambda loss: tried[loss]["ndcg@10"])
    assert "Logloss" in both.report["why"]
    assert "YetiRank" in both.report["why"]
    assert set(both.report["importance"]) == {"signal", "noise"}


def test_equal_seeds_give_equal_rankers(ranker: Ranker) -> None:
    again = train(TRAINING, VALIDATION, PARAMS)
    np.testing.assert_array_equal(again.score(VALIDATION.frame), ranker.score(VALIDATION.frame))


def test_the_scores_of_several_models_are_averaged() -> None:
    def scores(n_models: int, seed: int) -> np.ndarray:
        model = _average(TRAINING, replace(PARAMS, n_models=n_models, seed=seed), "Logloss", 20)
        return Ranker(TRAINING.frame.names, model).score(VALIDATION.frame)

    singles = [scores(1, seed) for seed in (5, 6, 7)]
    assert not np.array_equal(singles[0], singles[1])
    np.testing.assert_allclose(scores(3, 5), np.mean(singles, axis=0), atol=1e-5)


def test_what_is_saved_is_what_is_loaded(ranker: Ranker, tmp_path) -> None:
    ranker.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MODEL_FILE, DESCRIPTION_FILE]
    loaded = Ranker.load(tmp_path)
    np.testing.assert_array_equal(loaded.score(VALIDATION.frame), ranker.score(VALIDATION.frame))
    assert loaded.report["loss"] == "Logloss"


def test_a_folder_without_a_ranker_is_an_error(ranker: Ranker, tmp_path) -> None:
    with pytest.raises(ArtifactError, match="train it again"):
        Ranker.load(tmp_path)
    ranker.save(tmp_path)
    (tmp_path / MODEL_FILE).write_bytes(b"no model")
    with pytest.raises(ArtifactError, match="train it again"):
        Ranker.load(tmp_path)


def test_other_features_are_refused_by_name(ranker: Ranker) -> None:
    with pytest.raises(InputError, match=r"missing: \['noise'\], new: \['price'\]"):
        ranker.score(Frame(("signal", "price"), VALIDATION.frame.matrix))
    with pytest.raises(InputError, match="order"):
        ranker.score(Frame(("noise", "signal"), VALIDATION.frame.matrix))


def test_nan_scores_are_refused(ranker: Ranker) -> None:
    class Broken:
        def predict(self, matrix: Any, **_: Any) -> np.ndarray:
            return np.full(len(matrix), np.nan)

    with pytest.raises(ModelError, match="not finite"):
        Ranker(ranker.names, Broken()).score(VALIDATION.frame)


def test_features_that_tell_nothing_apart_are_an_error() -> None:
    def flat(part: Examples) -> Examples:
        return replace(part, frame=Frame(part.frame.names, np.ones_like(part.frame.matrix)))

    with pytest.raises(ModelError, match="cannot be trained"):
        train(flat(TRAINING), flat(VALIDATION), PARAMS)


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(InputError, match="both bought and not bought"):
        train(replace(TRAINING, label=np.zeros(len(TRAINING), dtype=bool)), VALIDATION, PARAMS)
    with pytest.raises(InputError, match="no user has a label"):
        Examples.concatenate([])
    with pytest.raises(InputError, match="at least one model and one loss"):
        RankerParams(losses=())


def test_concatenated_examples_keep_their_groups_apart() -> None:
    both = Examples.concatenate([VALIDATION, VALIDATION])
    assert len(np.unique(both.group)) == 80
    assert mean_ndcg(both.frame.matrix[:, 0], both) == pytest.approx(1.0)


def test_mean_ndcg_by_hand() -> None:
    frame = Frame(("x",), np.zeros((5, 1), dtype=np.float32))
    label = np.array([True, False, False, True, False])
    group = np.array([0, 0, 0, 1, 2])  # the last group has no positive and does not count
    part = Examples(frame, label, group, group.astype(np.int32))
    assert mean_ndcg(np.array([1.0, 2.0, 0.0, 5.0, 1.0]), part) == pytest.approx((1 / np.log2(3) + 1) / 2)


def test_thinned_examples_keep_all_positives_and_few_negatives_of_each_group() -> None:
    thin = VALIDATION.thinned(3, seed=1)
    assert thin.label.sum() == VALIDATION.label.sum()
    assert (np.bincount(thin.group[~thin.label], minlength=40) == 3).all()
    assert len(VALIDATION.thinned(100, seed=1)) == len(VALIDATION)
