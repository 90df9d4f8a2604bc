"""DeepFM on a world of two tastes: finds them, keeps them through files and warm starts, and looks at no future."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from recsys.candidates.deepfm import DeepFm
from recsys.errors import ArtifactError, InputError, ModelError
from recsys.types import MICROSECONDS_PER_DAY as DAY
from recsys.types import Catalogue, Interactions

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

pytestmark = [pytest.mark.slow]  # networks are trained

CUT = 20_000 * DAY
MIDDLE = CUT - 10 * DAY
N_USERS, N_ITEMS, N_EVENTS = 60, 40, 3000
PARAMS: dict[str, Any] = {
    "dim": 8,
    "hidden": (16, 8),
    "n_negatives": 7,
    "batch_rows": 64,
    "learning_rate": 0.01,
    "max_epochs": 6,
    "history_length": 20,
}


def world(seed: int = 0) -> Interactions:
    """Users take items of their own half (user % 2 == item % 2) in 95 of 100 events; low items are popular."""
    random = np.random.default_rng(seed)
    user = random.integers(0, N_USERS, N_EVENTS)
    popularity = 1.0 / (1 + np.arange(N_ITEMS // 2))
    item = 2 * random.choice(N_ITEMS // 2, N_EVENTS, p=popularity / popularity.sum()) + user % 2
    item = np.where(random.random(N_EVENTS) < 0.05, random.integers(0, N_ITEMS, N_EVENTS), item)
    at = CUT - (np.sort(random.random(N_EVENTS))[::-1] * 40 * DAY).astype(np.int64) - 1
    return Interactions(
        (user * 2 + 5).astype(np.int32),
        (item + 100).astype(np.int32),
        np.zeros(N_EVENTS, dtype=np.int8),
        np.ones(N_EVENTS, dtype=np.float32),
        at,
        np.arange(N_EVENTS),
        np.full(N_EVENTS, np.nan),
        ("view",),
        CUT,
    )


def catalogue() -> Catalogue:
    n = N_ITEMS + 2  # the last two have no event: one of each category, as odd and even items are
    key = np.arange(n, dtype=np.int32) + 100
    return Catalogue(key, np.ones(n, dtype=bool), key % 2, np.full(n, -1, dtype=np.int32), np.full(n, CUT - 100 * DAY))


USERS = (np.arange(N_USERS) * 2 + 5).astype(np.int32)


def share_of_own_half(model: DeepFm) -> float:
    found = model.candidates(USERS, 10).item_key
    return float((found % 2 == np.arange(N_USERS)[:, None] % 2).mean())


@pytest.fixture(scope="module")
def fitted() -> DeepFm:
    return DeepFm(**PARAMS).fit(world(), catalogue())


@pytest.fixture(scope="module")
def earlier() -> DeepFm:
    return DeepFm(**PARAMS).fit(world().before(MIDDLE), catalogue())


def test_each_user_gets_the_own_taste(fitted: DeepFm) -> None:
    assert share_of_own_half(fitted) > 0.95  # popularity gives 0.5


def test_an_item_without_events_is_known_by_its_category(fitted: DeepFm) -> None:
    new = np.array([N_ITEMS, N_ITEMS + 1], dtype=np.int32) + 100
    scores = fitted.scores(USERS, np.tile(new, (N_USERS, 1)))
    own = np.arange(N_USERS) % 2
    assert (scores[np.arange(N_USERS), own] > scores[np.arange(N_USERS), 1 - own]).mean() > 0.9


def test_a_light_user_is_known_by_history_alone() -> None:
    """Two events of a user without a row of its own tell the taste."""
    history = world()
    light = np.array([9000, 9001], dtype=np.int32)
    n = 4
    extra = Interactions(
        np.repeat(light, 2),
        np.array([102, 104, 103, 105], dtype=np.int32),
        np.zeros(n, dtype=np.int8),
        np.ones(n, dtype=np.float32),
        np.full(n, CUT - 1),
        np.arange(n),
        np.full(n, np.nan),
        ("view",),
        CUT,
    )
    both = {name: np.concatenate([getattr(history, name), getattr(extra, name)]) for name in _ARRAYS}
    model = DeepFm(**PARAMS).fit(replace(history, **both), catalogue())
    found = model.candidates(light, 10).item_key
    assert ((found % 2 == [[0], [1]]).mean(axis=1) > 0.8).all()


_ARRAYS = ("user_key", "item_key", "event_type", "weight", "occurred_at", "session_id", "value")


def test_the_curve_has_a_value_per_epoch(fitted: DeepFm) -> None:
    curve = fitted.training_curve
    assert set(curve) == {"loss", "auc", "validation_loss", "validation_auc"}
    assert len(curve["loss"]) == len(curve["auc"]) == len(curve["validation_loss"]) + 1
    assert 2 <= len(curve["loss"]) <= PARAMS["max_epochs"] + 1
    assert max(curve["validation_auc"]) > 0.7
    assert curve["loss"][-1] < curve["loss"][0]


def test_scores_are_the_logits_of_the_keras_network(fitted: DeepFm, tmp_path: Path) -> None:
    items = np.tile(catalogue().item_key, (N_USERS, 1))
    state = fitted._fitted()
    rows, history, weight = state.user_inputs(np.arange(N_USERS), fitted.history_length)
    item = np.broadcast_to(state.item_rows, (N_USERS, *state.item_rows.shape))
    logits = fitted.to_keras()({"user": rows, "history": history, "history_weight": weight, "item": item})
    np.testing.assert_allclose(fitted.scores(USERS, items), np.asarray(logits), rtol=1e-4, atol=1e-5)


def test_candidates_are_the_best_by_score(fitted: DeepFm) -> None:
    """With 3n at least the catalogue's size nothing is lost between retrieval and rescoring."""
    items = catalogue().item_key
    table = fitted.scores(USERS, np.tile(items, (N_USERS, 1)))
    hidden = np.zeros((N_USERS, items[-1] + 1))
    hidden[:, 100:110] = 1
    found = fitted.candidates(USERS, 20, seen=sp.csr_matrix(hidden))
    table[:, :10] = -np.inf
    np.testing.assert_allclose(found.score, -np.sort(-table, axis=1)[:, :20], rtol=1e-5, atol=1e-5)
    assert (found.item_key >= 110).all()


def test_unknown_users_get_nothing(fitted: DeepFm) -> None:
    assert (fitted.candidates(np.array([6, 5], dtype=np.int32), 3).item_key[0] == -1).all()
    assert np.isnan(fitted.scores(np.array([6]), np.array([[100, 101]]))).all()
    assert np.isnan(fitted.scores(USERS[:1], np.array([[1, -1]]))).all()


def test_loaded_without_tensorflow_it_scores_the_same(fitted: DeepFm, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    again = DeepFm.load(tmp_path)
    pairs = np.tile(catalogue().item_key, (N_USERS, 1))
    np.testing.assert_array_equal(again.scores(USERS, pairs), fitted.scores(USERS, pairs))
    assert again.training_curve == fitted.training_curve
    assert again.cut_at == CUT
    code = (
        "import sys, pathlib, numpy as np; from recsys.candidates.deepfm import DeepFm;"
        "m = DeepFm.load(pathlib.Path(sys.argv[1])); m.candidates(np.array([5], dtype=np.int32), 5);"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


def test_an_incomplete_model_is_refused(fitted: DeepFm, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    with np.load(tmp_path / "model.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "weights/deep_out/kernel"}
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(ArtifactError, match="deep_out"):
        DeepFm.load(tmp_path)


def test_a_warm_start_is_as_good_as_a_fit_from_scratch(fitted: DeepFm, earlier: DeepFm) -> None:
    params = {**PARAMS, "max_epochs": 2}
    warm = DeepFm(**params).fit(world(), catalogue(), start_from=earlier)
    assert share_of_own_half(warm) > share_of_own_half(fitted) - 0.03
    assert min(warm.training_curve["validation_loss"]) < min(fitted.training_curve["validation_loss"]) + 0.1


def test_a_warm_start_up_to_a_cut_knows_nothing_after_it(earlier: DeepFm) -> None:
    """The events after the cut are turned upside down, with users and items that only exist there: no difference."""
    cut_at = CUT - 5 * DAY
    history, known = world(), catalogue()
    later = history.occurred_at >= cut_at
    upside_down = replace(
        history,
        item_key=np.where(later, 139, history.item_key).astype(np.int32),
        user_key=np.where(later, 7777, history.user_key).astype(np.int32),
    )
    params = {**PARAMS, "max_epochs": 1}
    one, other = (
        DeepFm(**params).fit(each.before(cut_at), known, start_from=earlier) for each in (history, upside_down)
    )
    arrays = one._fitted().arrays()
    assert arrays.pop("context_names").tolist() == []
    for name, value in arrays.items():
        np.testing.assert_allclose(other._fitted().arrays()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert other.candidates(np.array([7777], dtype=np.int32), 3).n_found[0] == 0


def test_a_warm_start_that_does_not_fit_is_refused(fitted: DeepFm, earlier: DeepFm) -> None:
    with pytest.raises(InputError, match="order of time"):
        DeepFm(**PARAMS).fit(world().before(MIDDLE), catalogue(), start_from=fitted)
    with pytest.raises(InputError, match="equal sizes"):
        DeepFm(**{**PARAMS, "dim": 4}).fit(world(), catalogue(), start_from=earlier)
    with pytest.raises(ModelError, match="not fitted"):
        DeepFm(**PARAMS).fit(world(), catalogue(), start_from=DeepFm(**PARAMS))


def test_a_training_that_diverges_is_refused() -> None:
    with np.errstate(all="ignore"), pytest.raises(ModelError, match="learning_rate"):
        DeepFm(**{**PARAMS, "learning_rate": 1e30, "max_epochs": 1}).fit(world(), catalogue())


def test_a_continued_model_is_validated_on_new_events_and_learns_from_others_of_them() -> None:
    events = world()
    held_out = DeepFm(**PARAMS)._validation(events, MIDDLE)
    new = events.occurred_at >= MIDDLE
    assert not held_out[~new].any(), "the earlier model has learned from these"
    assert 0.25 < held_out[new].mean() < 0.4
    assert not DeepFm(**PARAMS)._validation(events.before(MIDDLE), MIDDLE).any(), "nothing is new: nothing to search by"
    assert 0.05 < DeepFm(**PARAMS)._validation(events, 0).mean() < 0.15
