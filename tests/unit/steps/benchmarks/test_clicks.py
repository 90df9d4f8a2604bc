"""Protocol B3 on small generated files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from recsys import settings
from recsys.errors import InputError
from recsys.steps.benchmarks import clicks
from recsys.steps.benchmarks.click_data import ITEM, USER, Clicks
from recsys.steps.benchmarks.result import Result

SIZES = {"user": 60, "item": 120, "weekday": 7}
N_LIKED = 12


def liked(user: np.ndarray) -> np.ndarray:
    """The first item of those that a user starts: N_LIKED neighbours on a circle."""
    return user * 2 % SIZES["item"]


def rows(n: int, rng: np.random.Generator, *, is_positive: bool) -> np.ndarray:
    user = rng.integers(0, SIZES["user"], n)
    step = rng.integers(0, N_LIKED, n) if is_positive else rng.integers(N_LIKED, SIZES["item"], n)
    return np.stack([user, (liked(user) + step) % SIZES["item"], rng.integers(0, 7, n)], axis=1)


def write(folder: Path) -> Path:
    starts, rng = np.cumsum([0, *SIZES.values()]), np.random.default_rng(3)
    lines = [f"{number},{field},x" for number, field in enumerate(np.repeat(list(SIZES), list(SIZES.values())))]
    with gzip.open(folder / "feature_map.csv.gz", "wt") as file:
        file.write("\n".join(["feature,field,value", *lines]))
    everything = np.unique(rows(6_000, rng, is_positive=True), axis=0)
    positives = np.split(rng.permutation(everything), [1_600, 2_100, 2_600])
    for name, positive, n_negatives in zip(("train_positives", "validation", "test"), positives, (0, 1_000, 1_000)):  # noqa: B905
        both = [("1", positive), ("-1", rows(n_negatives, rng, is_positive=False))]
        with gzip.open(folder / f"small.{name}.libfm.gz", "wt") as file:
            for label, part in both:
                file.writelines(f"{label} {' '.join(f'{one}:1' for one in row)}\n" for row in part + starts[:-1])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clicks"))


def test_the_files_are_read_and_negatives_are_apps_that_the_user_has_not_started(folder: Path) -> None:
    found = Clicks.read(folder)
    assert list(found.fields) == list(SIZES)
    assert list(found.sizes) == list(SIZES.values())
    assert (len(found.positives), int(found.test.label.sum()), len(found.test)) == (1_600, 500, 1_500)
    training = found.training(1)
    assert len(training) == 3 * 1_600
    negatives = training.rows[~training.label]
    assert np.array_equal(np.delete(negatives, ITEM, axis=1), np.delete(np.repeat(found.positives, 2, 0), ITEM, axis=1))
    started = set(map(tuple, found.positives[:, [USER, ITEM]].tolist()))
    assert not started & set(map(tuple, negatives[:, [USER, ITEM]].tolist()))
    assert np.array_equal(found.training(1).rows, training.rows)
    assert not np.array_equal(found.training(2).rows, training.rows)


def test_a_user_who_has_started_all_apps_has_no_negatives(folder: Path) -> None:
    found = Clicks.read(folder)
    every = np.stack([np.zeros(120), np.arange(120), np.zeros(120)], axis=1).astype(np.int32)
    with pytest.raises(InputError, match="nearly all"):
        Clicks(found.fields, found.sizes, every, found.validation, found.test).training(1)


def test_a_folder_without_the_files_and_lines_of_another_form_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="libfm"):
        Clicks.read(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with gzip.open(tmp_path / "small.test.libfm.gz", "wt") as out:
        out.write("1 100:1 61:1 181:1\n")
    with pytest.raises(InputError, match="not of its field"):
        Clicks.read(tmp_path)


@pytest.mark.slow
def test_the_quick_form_finds_what_is_there_and_checks_itself(folder: Path) -> None:
    result: Result = clicks.run(settings.load(), folder, quick=True)
    assert [text for text, _ in result.checks if "shuffled" in text or "planted" in text]
    found = {row["system"]: row for row in result.tables["Measured"]}
    assert found[clicks.PAIRS]["AUC"] > 0.9 > found[clicks.POPULARITY]["AUC"]
    assert found[clicks.STACKED]["AUC"] > found[clicks.LINEAR]["AUC"]
    assert found[clicks.DEEPFM]["AUC - DeepFM"] == 0
    for row in found.values():
        assert row["AUC low"] <= row["AUC"] <= row["AUC high"]
        assert row["ECE"] >= 0
        assert row["log loss"] > 0
    assert len([row for row in result.tables["Each seed"] if row["system"] == clicks.DEEPFM]) == clicks.QUICK_SEEDS
