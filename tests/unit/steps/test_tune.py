"""A tuning finds what was planted, ends when its budget does, and never sees a test part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from recsys.candidates import registry
from recsys.data import sequences
from recsys.errors import InputError, ModelError, NotFoundError, NothingToDoError
from recsys.evaluation.comparison import PerUser
from recsys.settings import Settings
from recsys.steps import tune
from recsys.steps.benchmarks.sessions import TRAINING
from recsys.steps.tuning import sets, sources, space
from recsys.steps.tuning.search import Budget, Figures, Search, search
from recsys.types import MICROSECONDS_PER_DAY, Task
from tests.unit.ranking.taste_world import dataset

SPACE: space.Space = {"x": space.Real(0, 10)}


def figures(values: list[float]) -> Figures:
    return Figures(PerUser(np.arange(len(values), dtype=np.int32), np.array(values)))


class Clock:
    """Time that passes when something is measured."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        return self.now

    def measure(self, of_set: str, params: Mapping[str, Any]) -> Figures:
        """Best at x = 7 on both sets, one of which is ten times harder."""
        self.now += self.seconds
        value = 1 - abs(params["x"] - 7) / 10
        return figures([value] * 3 if of_set == "easy" else [value / 10] * 3)


def run_search(clock: Clock, minutes: float, trials: int) -> Search:
    budget = Budget(minutes, trials, clock(), clock)
    return search(["easy", "hard"], clock.measure, SPACE, {"x": 1.0}, budget, seed=1)


# ---- the search


def test_the_planted_value_is_found() -> None:
    found = run_search(Clock(1), minutes=60, trials=40)
    assert found.defaults.params == {"x": 1.0}
    assert found.best.params["x"] == pytest.approx(7, abs=0.7)
    assert found.ranks.min() == found.ranks[found.tried.index(found.best)] == 1
    assert len(found.tried) == 40
    assert found.why_ended == "all trials are done"


def test_the_budget_is_honoured() -> None:
    clock = Clock(10)  # so that a configuration takes 20 s
    found = run_search(clock, minutes=1.1, trials=1000)
    assert len(found.tried) == 3
    assert clock.now <= 66
    assert found.why_ended == "the time is up"


def test_too_little_time_for_the_defaults_is_an_error_that_says_so() -> None:
    with pytest.raises(InputError, match=r"0\.1 minutes are too few to measure the defaults; give more by --minutes"):
        run_search(Clock(10), minutes=0.1, trials=5)


def test_a_configuration_that_fails_is_counted_and_a_set_that_cannot_be_measured_is_left_out() -> None:
    clock = Clock(1)

    def measure(of_set: str, params: Mapping[str, Any]) -> Figures:
        if of_set == "hard":
            raise InputError("too many items")
        if params["x"] > 5:
            raise ModelError("not finite")
        return clock.measure(of_set, params)

    found = search(["easy", "hard"], measure, SPACE, {"x": 1.0}, Budget(60, 20, 0, clock), seed=1)
    assert found.left_out == {"hard": "too many items"}
    assert found.n_failed > 0
    assert len(found.tried) + found.n_failed == 20
    assert found.best.params["x"] <= 5

    def nothing(of_set: str, params: Mapping[str, Any]) -> Figures:
        raise InputError("too many items")

    with pytest.raises(NothingToDoError, match="none of the data sets: easy: too many items"):
        search(["easy"], nothing, SPACE, {"x": 1.0}, Budget(60, 20, 0, clock), seed=1)


def test_the_choice_is_by_mean_rank_and_not_by_the_largest_gain() -> None:
    """One configuration wins a little on two sets of three, another one much on the third."""
    by_x = {0.0: (0.5, 0.5, 0.1), 1.0: (0.51, 0.51, 0.1), 2.0: (0.49, 0.49, 0.9)}
    names = ["a", "b", "c"]
    found = Search()
    for x, means in by_x.items():
        one = {name: figures([mean]) for name, mean in zip(names, means, strict=True)}
        found.tried.append(tune.Tried({"x": x}, one, 1.0))
    assert found.best.params == {"x": 1.0}
    assert found.gains.argmax() == 2


@pytest.mark.parametrize(
    ("name", "settings", "shipped", "best", "expected"),
    [
        (
            "als",
            {"generator_params": {"als": {"factors": 32, "seed": 7}, "ease": {"l2": 100.0}}},
            {"factors": 64, "alpha": 1.0},
            {"factors": 64, "alpha": 3.0},
            'RECSYS_GENERATOR_PARAMS={"als": {"seed": 7, "alpha": 3.0}, "ease": {"l2": 100.0}}',
        ),
        (
            "ranker",
            {"ranker_params": {"depth": 8, "iterations": 20}},
            {"depth": 6, "l2_leaf_reg": 10.0},
            {"depth": 6, "l2_leaf_reg": 3.0},
            'RECSYS_RANKER_PARAMS={"iterations": 20, "l2_leaf_reg": 3.0}',
        ),
    ],
)
def test_the_line_to_paste_makes_what_was_measured(
    name: str, settings: dict[str, Any], shipped: dict[str, Any], best: dict[str, Any], expected: str
) -> None:
    found = Search()
    for params, mean in ((shipped, 0.1), (best, 0.2)):
        found.tried.append(tune.Tried(params, {"shop": figures([mean])}, 1.0))
    assert tune.line_of(name, found, Settings(**settings)) == expected


# ---- the ranges


def test_there_is_a_range_around_every_default() -> None:
    assert set(space.SPACES) == {*registry.NAMES, space.RANKER}
    for name, ranges in space.SPACES.items():
        for parameter, value in space.defaults_of(name).items():
            one = ranges[parameter]
            inside = value in one.values if isinstance(one, space.OneOf) else one.low <= value <= one.high
            assert inside, f"{name}.{parameter} = {value}"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"nothing to tune is called 'alss'; there are popular, .*, and ranker"):
        tune.run("alss")


# ---- the data sets


def fads() -> list[str]:
    """Sequences of classics, a fad, a classic, and a last item that nobody may see: what is recent misleads."""
    rng = np.random.default_rng(5)
    lines = []
    for user in range(300):
        classics = rng.permutation(30)[:11]
        before = " ".join(f"classic{item}" for item in classics[:10])
        lines.append(f"u{user} {before} fad{rng.integers(5)} classic{classics[10]} secret{rng.integers(3)}")
    return lines


@pytest.fixture
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    own = Settings(
        local_dir=tmp_path,
        mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        generators=["popular", "covisitation"],
        ranker_params={"iterations": 20, "threads": 2},
        n_label_windows=2,
    )
    monkeypatch.setattr(tune.settings_module, "load", lambda: own)
    monkeypatch.delenv("RECSYS_DATA_DIR", raising=False)
    return own


def without_own(loaded: Settings, dataset: str | None) -> sets.TuningSet:
    raise NotFoundError("no data set is prepared yet")


def test_sequences_are_validated_by_their_second_last_items(tmp_path: Path) -> None:
    table = sequences.parse(fads())
    one = sets.last_items("fads", table, tmp_path / "fads", seed=1)
    (part,) = one.parts(Task.DISCOVERY)
    ids = np.array(table.item_ids)
    assert not [name for name in ids[one.interactions.item_key] if name.startswith("secret")]
    assert all(name.startswith("classic") for name in ids[part.labels.item_key])
    assert len(part.history) == 300 * 11
    assert part.mask(part.labels.user_key).sum() == 300 * 11


def test_a_shop_ends_where_its_test_begins(tmp_path: Path) -> None:
    one = sets.shop("shop", dataset(tmp_path / "shop"), days=14, seed=1)
    assert one.until == (100 - 4 * 14) * MICROSECONDS_PER_DAY
    assert one.interactions.occurred_at.max() < one.until
    assert [window.end_at <= one.until for window in one.windows(3)] == [True] * 3
    assert len(one.parts(Task.DISCOVERY)) == 2  # the third has less than a window before it
    with pytest.raises(InputError, match="spans too little time"):
        sets.shop("shop", dataset(tmp_path / "short", days=(0, 30)), days=14, seed=1)


def test_sessions_are_validated_by_the_last_click_of_the_newest() -> None:
    clicks = [np.array(one, dtype=np.int32) for one in ([1, 2, 3], [2, 3, 4], [3, 4], [1, 2, 4], [4, 1, 3, 2])]
    one = sets.sessions("sessions", clicks, seed=1)
    (part,) = one.parts(Task.DISCOVERY)
    assert part.labels.item_key.tolist() == [2]
    assert part.history.item_key.tolist() == [1, 2, 3, 2, 3, 4, 3, 4, 1, 2, 4]
    assert part.inputs is not None
    assert part.inputs.item_key.tolist() == [4, 1, 3]
    assert part.mask(np.array([0])).nonzero()[1].tolist() == [1, 3, 4]


def test_without_data_the_error_says_how_to_give_some(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sources, "_own", without_own)
    with pytest.raises(InputError, match="no data set to tune on; give one by --data NAME=FILE"):
        sources.sets_of(own_settings, {}, None, tmp_path)
    with pytest.raises(NotFoundError, match="no data set is prepared"):
        sources.sets_of(own_settings, {}, "dataset/none", tmp_path)
    with pytest.raises(InputError, match="--data a=nowhere: there is no such file; expected is a text of lines"):
        sources.sets_of(own_settings, {"a": "nowhere"}, None, tmp_path)
    for name in ("own", "../a", "/a", "."):
        with pytest.raises(InputError, match="name a data set by letters"):
            sources.sets_of(own_settings, {name: "nowhere"}, None, tmp_path)
    with pytest.raises(InputError, match="holds neither"):
        sources.sets_of(own_settings, {"a": str(tmp_path)}, None, tmp_path)


def test_the_form_of_a_file_is_seen_by_what_is_in_it(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sources, "_own", without_own)
    (tmp_path / "fads.txt").write_text("\n".join(fads()))
    (tmp_path / "clicks").mkdir()
    pd.DataFrame({"items": [[1, 2, 3]] * 10}).to_parquet(tmp_path / "clicks" / TRAINING)
    rows = {"UserID": [1] * 4 + [2] * 4, "MovieID": [1, 2, 3, 4] * 2, "pos_in_user": [0, 1, 2, 3] * 2}
    pd.DataFrame(rows).to_parquet(tmp_path / "films.parquet")
    dataset(tmp_path / "shop")
    given = {name: str(tmp_path / file) for name, file in
             (("a", "fads.txt"), ("b", "clicks"), ("c", "films.parquet"), ("d", "shop"))}  # fmt: skip
    (tmp_path / "made").mkdir()
    found = sources.sets_of(own_settings, given, None, tmp_path / "made")
    assert [(one.name, type(one)) for one in found] == [
        ("a", sets.WindowedSet),
        ("b", sets.SessionSet),
        ("c", sets.WindowedSet),
        ("d", sets.WindowedSet),
    ]


# ---- the whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's and its dependencies' warnings about themselves
def test_a_better_half_life_is_found_logged_and_printed(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "_own", without_own)
    (tmp_path / "fads.txt").write_text("\n".join(fads()))
    data = {"fads": str(tmp_path / "fads.txt")}
    tuned = tune.run("popular", data=data, trials=15, minutes=5, console=Console(width=180))
    shown = capsys.readouterr().out
    best, defaults = tuned.search.best, tuned.search.defaults
    assert best.by_set["fads"].mean > 1.2 * defaults.by_set["fads"].mean
    assert best.params["half_life_days"] > 5 or best.params["all_time_share"] > 0.02
    (row,) = next(iter(tuned.result.tables.values()))
    assert 0 < row["95 % from"] < row["difference"] < row["to"]
    assert tuned.line is not None
    assert tuned.line in shown
    variable, _, value = tuned.line.partition("=")
    assert variable == "RECSYS_GENERATOR_PARAMS"
    registry.make("popular", json.loads(value)["popular"])

    from mlflow import MlflowClient

    client = MlflowClient(own_settings.mlflow_tracking_uri)
    experiment = client.get_experiment_by_name("tune")
    assert experiment is not None
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.data.params["name"] == "popular"
    assert len(client.get_metric_history(logged.info.run_id, "gain")) == 15
    files = {one.path for folder in ("tables", "plots") for one in client.list_artifacts(logged.info.run_id, folder)}
    assert files == {"tables/trials.json", "tables/best_and_defaults.json", "plots/gain.png"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_ranker_is_tuned_on_shops_and_sessions_are_left_out(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sources, "_own", without_own)
    dataset(tmp_path / "shop")
    (tmp_path / "clicks").mkdir()
    pd.DataFrame({"items": [[1, 2, 3]] * 10}).to_parquet(tmp_path / "clicks" / TRAINING)
    data = {"shop": str(tmp_path / "shop"), "clicks": str(tmp_path / "clicks")}
    tuned = tune.run("ranker", data=data, trials=3, minutes=10)
    assert len(tuned.search.tried) == 3
    assert list(tuned.search.left_out) == ["clicks"]
    assert tuned.search.defaults.by_set["shop"].mean > 0
    assert tuned.line is None or tuned.line.startswith('RECSYS_RANKER_PARAMS={"iterations": 20')
