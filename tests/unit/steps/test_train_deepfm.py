"""The export of a trained DeepFM: the service's files give the network's own logits, or none are made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnxruntime
import pytest

from recsys.artifacts import ArtifactStore
from recsys.candidates.deepfm import DeepFm
from recsys.candidates.deepfm_serving import write_for_serving
from recsys.candidates.deepfm_training import network_config
from recsys.errors import ModelError
from recsys.networks.deepfm_onnx import write_network
from recsys.networks.deepfm_scorer import weight_shapes
from recsys.networks.keras_file import write_keras_file
from recsys.serving.model_state import Asker, Moment
from recsys.serving.recent import Recent
from recsys.serving.scorer import Scorer
from recsys.steps.context import Context
from recsys.steps.train_deepfm import check_export, export_for_serving
from tests.unit.candidates.test_deepfm import CUT, N_ITEMS, N_USERS, PARAMS, USERS, catalogue, world

pytestmark = [pytest.mark.slow]  # a network is trained and exported


@pytest.fixture(scope="module")
def fitted() -> DeepFm:
    return DeepFm(**PARAMS).fit(world(), catalogue())


@pytest.fixture(scope="module")
def folder(fitted: DeepFm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served")
    write_for_serving(fitted, made)
    return made


def probabilities(scorer: Scorer, asker: Asker, items: np.ndarray) -> np.ndarray:
    rows = scorer.state.item_rows(items.tolist(), lambda key: (key % 2, -1))
    return scorer.probabilities([asker], np.zeros(len(items), dtype=np.int32), rows, Moment(CUT / 1000, {"view": 1.0}))


def test_the_export_gives_the_logits_of_keras(fitted: DeepFm, folder: Path) -> None:
    assert check_export(fitted, Scorer(folder)) < 1e-4


def test_every_weight_can_be_given_later(folder: Path) -> None:
    scorer = Scorer(folder)
    assert {name: value.shape for name, value in scorer.weights.items()} == weight_shapes(scorer.spec.network)
    items = catalogue().item_key
    before = probabilities(scorer, Asker(int(USERS[0])), items)
    for name, value in scorer.weights.items():
        former = value.copy()
        scorer.put_weights(name, former + np.float32(0.3))
        assert not np.allclose(probabilities(scorer, Asker(int(USERS[0])), items), before), name
        scorer.put_weights(name, former)
    np.testing.assert_array_equal(probabilities(scorer, Asker(int(USERS[0])), items), before)


def test_what_is_made_of_an_item_does_not_depend_on_those_beside_it(folder: Path) -> None:
    """To the bit: some are kept, others are computed with whoever is missing too."""
    scorer = Scorer(folder)
    rows = scorer.state.item_rows(catalogue().item_key.tolist(), lambda key: (key % 2, -1))
    together = scorer._sides.of(rows)
    for n in (1, 2, 3, 5, 8, 17, 31):
        for start in range(0, len(rows), n):
            part = Scorer(folder)._sides.of(rows[start : start + n]) if start < 3 * n else together[start : start + n]
            np.testing.assert_array_equal(part, together[start : start + n], err_msg=f"{n} at a time, from {start}")


def test_weights_of_zero_stay_in_the_network(fitted: DeepFm, tmp_path: Path) -> None:
    """An exporter folds them away where it can, and other ones could not be given later."""
    zeros = {name: np.zeros_like(value) for name, value in fitted.state.weights.items()}
    write_network(network_config(fitted.state.vocabularies, fitted.dim, fitted.hidden), zeros, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_overridable_initializers()} == zeros.keys()


def test_the_file_runs_by_itself(fitted: DeepFm, folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_inputs()} == {"user", "history", "history_weight", "item", "user_of_pair"}
    rows, history, weight = fitted.state.user_inputs(np.array([0]), 20)
    inputs = {"user": rows, "history": history, "history_weight": weight, "user_of_pair": np.zeros(1, np.int32)}
    (logit,) = session.run(["logits"], inputs | {"item": fitted.state.item_rows[:1]})[0]
    assert logit == pytest.approx(float(fitted.scores(USERS[:1], catalogue().item_key[:1][None])[0, 0]), abs=1e-4)


def test_keras_loads_the_outline_with_other_weights(fitted: DeepFm, folder: Path, tmp_path: Path) -> None:
    import keras

    scorer, random = Scorer(folder), np.random.default_rng(3)
    for name, value in scorer.weights.items():
        scorer.put_weights(name, value + random.normal(0, 0.1, value.shape).astype(np.float32))
    outline = json.loads((folder / "keras.json").read_text())
    write_keras_file(outline, scorer.weights, tmp_path / "network.keras")
    assert [file.name for file in tmp_path.iterdir()] == ["network.keras"]
    network = keras.saving.load_model(tmp_path / "network.keras")
    rows, history, weight = fitted.state.user_inputs(np.arange(5), 20)
    users = {"user": rows, "history": history, "history_weight": weight}
    item = fitted.state.item_rows[:7]
    by_keras = np.asarray(network({**users, "item": np.broadcast_to(item, (5, *item.shape))}))
    of_pair, item_of_pair = np.divmod(np.arange(35, dtype=np.int32), 7)
    served = scorer.logits({**users, "item": item[item_of_pair], "user_of_pair": of_pair})
    np.testing.assert_allclose(by_keras.ravel(), served, rtol=1e-4, atol=1e-4)


def test_the_step_makes_the_artifact_once(fitted: DeepFm, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    with store.writing("deepfm", "v1", made_by="tests") as (made, _):
        fitted.save(made)
    ctx = cast(Context, SimpleNamespace(store=store))  # the export asks for nothing else
    assert export_for_serving(ctx, "deepfm/v1") == "deepfm_serving/v1"
    folder, manifest = store.open("deepfm_serving/v1")
    assert manifest.inputs == {"model": "deepfm/v1"}
    assert manifest.meta["n_users"] == N_USERS
    assert manifest.meta["largest_difference"] < 1e-4
    assert Scorer(folder).spec.cut_at == CUT
    export_for_serving(ctx, "deepfm/v1")
    assert store.manifest("deepfm_serving/v1") == manifest
    made_at = (folder / "network.onnx").stat().st_mtime_ns
    export_for_serving(ctx, "deepfm/v1", force=True)
    assert (folder / "network.onnx").stat().st_mtime_ns > made_at


def test_an_export_of_other_weights_or_rows_is_refused(fitted: DeepFm, folder: Path, tmp_path: Path) -> None:
    scorer = Scorer(folder)
    former = scorer.weights["deep_out/bias"].copy()
    scorer.put_weights("deep_out/bias", former + np.float32(0.01))
    with pytest.raises(ModelError, match="Keras"):
        check_export(fitted, scorer)
    scorer.put_weights("deep_out/bias", former)
    write_for_serving(fitted, tmp_path)
    rows = np.load(tmp_path / "state" / "item_rows.npy")
    np.save(tmp_path / "state" / "item_rows.npy", rows[::-1])
    with pytest.raises(ModelError, match="rows"):
        check_export(fitted, Scorer(tmp_path))


def test_probabilities_tell_taste_and_are_calibrated(fitted: DeepFm, folder: Path) -> None:
    """Against items drawn evenly, half of the pairs observed: the mean of the predictions is near what happens."""
    scorer = Scorer(folder)
    assert scorer.spec.is_calibrated
    assert scorer.spec.scale > 0
    items = catalogue().item_key[:N_ITEMS]
    table = np.array([probabilities(scorer, Asker(int(user)), items) for user in USERS])
    own = items[None, :] % 2 == (np.arange(N_USERS) % 2)[:, None]
    assert table[own].mean() > table[~own].mean() + 0.2
    history = world(seed=1)  # as many events again of the same world
    observed = table[(history.user_key - 5) // 2, history.item_key - 100]
    predicted = np.concatenate([observed, table.ravel()])
    weight = np.concatenate([np.full(len(observed), 0.5 / len(observed)), np.full(table.size, 0.5 / table.size)])
    happened = np.concatenate([np.ones(len(observed)), np.zeros(table.size)])
    assert (predicted * weight).sum() == pytest.approx(0.5, abs=0.07)
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        inside = (predicted >= low) & (predicted < high)
        share = np.average(happened[inside], weights=weight[inside])
        assert share == pytest.approx(np.average(predicted[inside], weights=weight[inside]), abs=0.15), (low, high)


def test_a_guest_is_known_by_what_they_do(folder: Path) -> None:
    scorer = Scorer(folder)
    items = np.array([102, 103])
    for parity in (0, 1):
        seen = [Recent(104 + 2 * n + parity, "view", CUT // 1000 + 10 - n) for n in range(4)]
        even, odd = probabilities(scorer, Asker(None, seen), items)
        assert (even > odd) == (parity == 0)
