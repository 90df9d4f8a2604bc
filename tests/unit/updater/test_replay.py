"""What is learned is learned again later: the trainer feeds its buffer, and steps draw from it. Without a network."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recsys.events.event import parse
from recsys.features.deepfm_spec import POPULARITY, FeatureSpec, state_file
from recsys.settings import UpdaterSettings
from recsys.updater.examples import Known
from recsys.updater.trainer import Trainer
from tests.integration import tiny_model

CUT_AT = dt.datetime.fromtimestamp(tiny_model.CUT_AT / 1e6, dt.UTC)


class Recorder:
    """In the place of the network: remembers the items that it is to learn, the observed one of each row."""

    steps: list[np.ndarray]

    def __init__(self, *_: Any) -> None:
        self.steps = []

    def reset(self) -> None:
        self.steps.clear()

    def step(self, inputs: dict[str, np.ndarray], log_q: np.ndarray, *_: Any) -> tuple[np.ndarray, np.ndarray, float]:
        self.steps.append(inputs["item"][:, 0, 0])
        return np.zeros_like(log_q), np.zeros_like(log_q), 0.5

    def shift(self, amount: float) -> None:
        """There is no level to move."""


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    tiny_model.write(tmp_path, "v1")
    folder = tmp_path / "deepfm_serving" / "v1"
    training = {"learning_rate": 0.01, "n_negatives": 3, "uniform_share": 0.2}
    training |= {"min_user_events": 5, "min_item_events": 2}
    dataclasses.replace(FeatureSpec.read(folder), training=training).write(folder)
    np.save(folder / state_file(POPULARITY), np.ones(tiny_model.N_KNOWN))
    monkeypatch.setitem(sys.modules, "recsys.updater.learner", SimpleNamespace(Learner=Recorder))
    return Trainer(
        folder, {"view": 1.0}, UpdaterSettings(step_rows=20, replay_share=0.25, buffer_rows=1000, guard_window=10)
    )


def looks(item: int, n: int, start: int) -> list[Known]:
    samples = [
        {
            "event_id": f"e{item}-{i}",
            "user_id": "1",
            "item_id": str(item),
            "timestamp": CUT_AT + dt.timedelta(seconds=i),
        }
        for i in range(start, start + n)
    ]
    events, rejected = parse(samples, CUT_AT + dt.timedelta(days=1))
    assert not rejected
    return [Known(event, 1, item, 2, 1) for _, event in events]


def test_what_was_learned_comes_again_beside_what_is_new(trainer: Trainer) -> None:
    recorder: Any = trainer.learner
    of_the_night = trainer.buffer.n_seen
    assert trainer.learn(looks(50, 60, 1), 1)["examples"] == 60
    assert trainer.buffer.n_seen == of_the_night + 60
    assert trainer.buffer.examples is not None
    assert len(trainer.buffer.examples) == of_the_night + 60
    recorder.steps.clear()
    assert trainer.learn(looks(30, 60, 100), 2)["examples"] == 60
    rows = np.concatenate(recorder.steps)
    assert (rows == 30).sum() >= 60
    older = (rows == 50).sum()
    assert older > 0, "nothing that was learned before is learned again"
    assert (rows != 30).sum() >= older
    assert {len(step) for step in recorder.steps} == {15 + 16}  # new ones, and the least of older ones
