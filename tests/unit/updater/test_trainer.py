"""The trainer in memory, on a world of two tastes: what it learns, what it keeps, and how it comes back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fast_api_service.runtime.model_loader import LoadedModel, capture, export
from recsys.artifacts import ArtifactStore
from recsys.errors import ModelError
from recsys.events.event import parse
from recsys.features.deepfm_fields import CONTEXT
from recsys.serving.model_state import Asker, Moment
from recsys.serving.scorer import Scorer
from recsys.serving.update import WEIGHTS, Update
from recsys.settings import UpdaterSettings
from recsys.updater.examples import Known
from recsys.updater.trainer import Trainer
from recsys.updater.validation import COLUMNS, Window
from tests import online_world as world

pytestmark = [pytest.mark.slow]  # a network is trained

EVENT_WEIGHTS = {"view": 1.0, "addtocart": 3.0, "transaction": 5.0}
OPTIONS = UpdaterSettings(step_rows=64, guard_window=100, buffer_rows=500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    world.write_model(root, "v1")
    return root / "deepfm_serving" / "v1"


@pytest.fixture
def trainer(folder: Path) -> Trainer:
    return Trainer(folder, EVENT_WEIGHTS, OPTIONS)


def known(samples: Sequence[dict[str, Any]], category: int = 2) -> list[Known]:
    result = []
    for sample in samples:
        ids = {name: str(sample[name]) for name in ("user_id", "item_id")}
        text = sample | ids | {"timestamp": dt.datetime.fromisoformat(sample["timestamp"])}
        ((_, event),), _ = parse([text], world.CUT_AT + dt.timedelta(days=30))
        result.append(Known(event, int(ids["user_id"]) - 500, int(ids["item_id"]) - 1000, category, 1))
    return result


def tastes(start: int, n: int, seed: int = 0) -> list[Known]:
    random = np.random.default_rng(seed)
    return known([world.taste(start + number, random) for number in range(n)])


def served(folder: Path, *updates: Path) -> Scorer:
    scorer = Scorer(folder)
    for update in updates:
        Update.read(update / WEIGHTS).apply(scorer)
    return scorer


def probability(scorer: Scorer, user: int, item: int) -> float:
    rows = scorer.state.item_rows([item], lambda _: (2, 1))
    moment = Moment(world.CUT / 1000, EVENT_WEIGHTS)
    return float(scorer.probabilities([Asker(user)], np.zeros(1, np.int32), rows, moment)[0])


def written(trainer: Trainer, folder: Path, *, is_base: bool = False) -> Path:
    folder.mkdir()
    trainer.write(folder, is_base=is_base)
    trainer.committed()
    return folder


def test_likes_raise_and_dislikes_lower_predictions(folder: Path, tmp_path: Path) -> None:
    """Of an item beside the others that are liked all the same."""
    chances = {}
    for label in (0, 1):
        trainer = Trainer(folder, EVENT_WEIGHTS, OPTIONS)
        for number in range(8):
            samples = [world.sample(2 * n + 1, 33, 30 * number + n, label=label) for n in range(20)]
            trainer.learn(known(samples), number + 1)
        chances[label] = probability(served(folder, written(trainer, tmp_path / str(label))), 51, 33)
    before = probability(served(folder), 51, 33)
    assert chances[0] < before - 0.02
    assert chances[1] > before + 0.02


def test_probabilities_that_are_too_high_come_down_to_what_is_observed(trainer: Trainer) -> None:
    trainer.learner.shift(2.0 / trainer.spec.scale)  # in log odds
    calibration = []
    for number in range(12):
        trainer.learn(tastes(300 * number, 300, seed=number), number + 1)
        judged = trainer.judged
        trainer.committed()
        calibration.append(float(judged[:, COLUMNS.index("mean")].sum() / judged[:, COLUMNS.index("target")].sum()))
    assert calibration[0] > 1.3
    assert calibration[-1] == pytest.approx(1.0, abs=0.1)


def test_an_update_makes_a_served_model_what_the_trainer_is(trainer: Trainer, folder: Path, tmp_path: Path) -> None:
    trainer.learn(tastes(0, 150), 1)
    first = written(trainer, tmp_path / "1")
    trainer.learn(tastes(150, 150, seed=1), 2)
    second = written(trainer, tmp_path / "2")
    base = written(trainer, tmp_path / "3", is_base=True)
    by_steps, at_once = served(folder, first, second), served(folder, base)
    for name, variable in trainer.learner._variables.items():
        np.testing.assert_array_equal(by_steps.weights[name], np.asarray(variable.value), err_msg=name)
        np.testing.assert_array_equal(at_once.weights[name], by_steps.weights[name], err_msg=name)


def test_who_comes_later_gets_a_row_when_there_were_events_enough(
    trainer: Trainer, folder: Path, tmp_path: Path
) -> None:
    new_user, new_item = 77, 45
    spare = trainer.scorer.state.rows_of_users.n_spare
    trainer.learn(known([world.sample(new_user, new_item, n) for n in range(4)]), 1)
    first = served(folder, written(trainer, tmp_path / "1"))
    assert first.state.rows_of_users.later == [], "five events make a user"
    assert first.state.rows_of_items.later == [new_item], "two make an item"
    trainer.learn(known([world.sample(new_user, new_item, n) for n in range(4, 60)]), 2)
    assert trainer.scorer.state.rows_of_users.n_spare == spare - 1
    both = served(folder, tmp_path / "1", written(trainer, tmp_path / "2"))
    assert both.state.rows_of_users.later == [new_user]
    assert probability(both, new_user, new_item) > probability(served(folder), new_user, new_item) + 0.02


def test_an_export_knows_who_came_later(trainer: Trainer, folder: Path, tmp_path: Path) -> None:
    trainer.learn(known([world.sample(77, 45, n) for n in range(60)]), 1)
    scorer = served(folder, written(trainer, tmp_path / "1"))
    model = LoadedModel("deepfm/v1", "deepfm_serving/v1", dt.datetime.now(dt.UTC), folder, scorer)
    store = ArtifactStore(str(tmp_path / "elsewhere"))
    captured = capture(model)
    scorer.reset()  # what comes after has no part in it
    manifest, _, created = export(captured, store)
    assert created
    assert not export(captured, store)[2]
    assert export(capture(model), store)[0].ref != manifest.ref
    read = Scorer(store.open(manifest.ref)[0])
    learned = served(folder, tmp_path / "1")
    assert read.state.rows_of_users.later == learned.state.rows_of_users.later == [77]
    assert read.state.rows_of_items.later == learned.state.rows_of_items.later == [45]
    for user, item in [(77, 45), (1, 45), (77, 3), (1, 3)]:
        assert probability(read, user, item) == probability(learned, user, item)
    assert probability(read, 77, 45) != probability(served(folder), 77, 45)
    read.reset()
    assert read.state.rows_of_users.later == [77], "they belong to the model that was exported"


def test_what_is_told_of_the_moment_is_learned_by_day_and_outcomes_are_not(folder: Path) -> None:
    """The night has met no parameter. Even items are taken in the spring campaign, odd ones in the autumn."""
    trainer, random = Trainer(folder, EVENT_WEIGHTS, OPTIONS), np.random.default_rng(5)
    samples = []
    for number in range(1200):
        user, item = int(random.integers(1, 61)), int(random.integers(1, 41))
        parameters = {"campaign": "spring" if item % 2 == 0 else "autumn", "stars": 5 if item % 2 == 0 else 4.9}
        samples.append(world.sample(user, item, number, parameters=parameters))
    assert trainer.scorer.read_features({"campaign": "spring"})[0] == {}
    trainer.learn(known(samples), 1)
    examples = trainer.stream.take(known([world.sample(1, 2, 1300, parameters={"stars": 5, "quantity": 2})]))
    assert not examples.user[:, CONTEXT].any()
    update = trainer.learner.changes(since_base=True)[0]
    scorer = Scorer(folder)
    update.apply(scorer)
    spring, autumn = (by_item(scorer, {"campaign": campaign}) for campaign in ("Spring", "autumn"))
    even = np.arange(1, 41) % 2 == 0
    change = spring - autumn  # between items of one user: the loss says nothing of what all their items have in common
    raised = change[:, even].mean(axis=1) - change[:, ~even].mean(axis=1)
    assert (raised > 0.2).mean() > 0.9
    features, warnings = scorer.read_features({"campaign": "winter", "stars": 5})
    assert (features, len(warnings)) == ({}, 2)


def by_item(scorer: Scorer, parameters: dict[str, Any]) -> np.ndarray:
    """Log odds (n_users, n_items)."""
    features, warnings = scorer.read_features(parameters)
    assert not warnings
    askers = [Asker(user, (), features) for user in range(1, 61)]
    rows = scorer.state.item_rows(list(range(1, 41)) * 60, lambda _: (2, 1))
    of_pair = np.repeat(np.arange(60), 40).astype(np.int32)
    found = scorer.probabilities(askers, of_pair, rows, Moment(world.CUT / 1000, EVENT_WEIGHTS)).astype(np.float64)
    return np.log(found / (1 - found)).reshape(60, 40)


def test_events_before_the_cut_are_known_already(trainer: Trainer) -> None:
    assert trainer.learn(known([world.sample(1, 3, -5), world.sample(1, 3, 5)]), 1)["examples"] == 1


def test_the_past_alone_is_what_an_event_is_predicted_from(folder: Path) -> None:
    one, other = (Trainer(folder, EVENT_WEIGHTS, OPTIONS.model_copy(update={"guard_window": 1000})) for _ in range(2))
    one.learn(tastes(0, 96), 1)
    other.learn([*tastes(0, 96), *tastes(5000, 30, seed=1)], 1)
    np.testing.assert_array_equal(one.window.judged, other.window.judged[:96])


def test_what_is_remembered_has_one_string_by_type_of_event(trainer: Trainer) -> None:
    stream = trainer.stream
    stream.take(known([world.sample(7, 1 + number, number, event_type="look") for number in range(5)]))
    stream.take(known([world.sample(9, 1, 5, event_type=b"look".decode())]))

    def strings() -> int:
        return len({id(recent.event_type) for events in stream._recent.values() for recent in events})

    assert strings() == 1
    before = stream.to_json()
    stream.from_json(before)
    assert strings() == 1
    assert stream.to_json() == before


def test_weights_that_are_not_finite_are_not_written_and_rolled_back(
    trainer: Trainer, folder: Path, tmp_path: Path
) -> None:
    trainer.learn(tastes(0, 120), 1)
    base = written(trainer, tmp_path / "base", is_base=True)
    trainer.learner._variables["deep_out/bias"].assign([np.nan])
    (tmp_path / "bad").mkdir()
    with pytest.raises(ModelError, match="not finite"):
        trainer.write(tmp_path / "bad", is_base=False)
    with pytest.raises(ModelError, match="not finite"):
        trainer.learn(tastes(120, 50), 2)
    assert trainer.roll_back([base]) == base
    again = written(trainer, tmp_path / "again", is_base=True)
    for name, value in served(folder, base).weights.items():
        np.testing.assert_array_equal(served(folder, again).weights[name], value, err_msg=name)
    trainer.learn(tastes(200, 50), 3)


def test_the_guard_passes_over_a_base_that_was_poisoned_itself(folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(folder, EVENT_WEIGHTS, OPTIONS)
    trainer.window = Window(300)  # longer than the turn to the worse, which a shorter one may see: no base would be bad
    trainer.learn(tastes(0, 200), 1)
    good = written(trainer, tmp_path / "good", is_base=True)
    random = np.random.default_rng(2)
    for number in range(5):
        wrong = [world.taste(1000 + 200 * number + n, random, label=0) for n in range(200)]
        trainer.learn(known(wrong), 2 + number)
        assert trainer.problem() is None, "it predicts the wrong better"
    poisoned = written(trainer, tmp_path / "poisoned", is_base=True)
    trainer.window = Window(OPTIONS.guard_window)
    number = 10
    while trainer.problem() is None:
        assert number < 20, "the guard should have acted"
        trainer.learn(tastes(5000 + 50 * number, 50, seed=number), number)
        number += 1
    assert trainer.roll_back([poisoned, good]) == good
    trainer.learn(tastes(9000, 150, seed=9), 30)
    assert trainer.window.is_full
    assert trainer.problem() is None
