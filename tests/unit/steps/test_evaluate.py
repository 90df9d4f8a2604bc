"""Protocol B4 on a small shop with a known structure: every row is there, and the two stages earn their keep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import InputError
from recsys.evaluation import calibration, report
from recsys.evaluation.summary import summary
from recsys.ranking.ranker import RankerParams
from recsys.steps import evaluate
from recsys.steps.evaluate import TWO_STAGE, Outcome, Plan, measure
from recsys.tracking import Run
from recsys.types import Task
from tests.unit.ranking.taste_world import dataset

RANKER = RankerParams(losses=("Logloss",), iterations=60, early_stopping_rounds=20, threads=2, max_negatives=30)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    plan = Plan(generators=["popular", "covisitation"], ranker=RANKER, cuts=2, days=10, training_windows=2)
    return measure(dataset(tmp_path_factory.mktemp("shop") / "world"), plan)


def test_popularity_stands_beside_the_others_also_where_it_is_no_generator(tmp_path: Path) -> None:
    plan = Plan(
        generators=["covisitation"], ranker=RANKER, cuts=1, days=10, training_windows=1, tasks=(Task.DISCOVERY,)
    )
    found = measure(dataset(tmp_path / "world"), plan)
    assert [one.source for one in found.measured] == ["popular", "covisitation", TWO_STAGE]


def test_two_stages_beat_popularity_in_both_tasks_and_every_cut(outcome: Outcome) -> None:
    rows = report.rows_of(outcome.measured)
    means = [row for row in rows if row["cut"] == report.MEAN and row["segment"] == report.ALL]
    systems = {(row["task"], row["system"]) for row in means}
    own = [(str(Task.ALL), "recent")]
    assert systems == {(str(task), s) for task in Task for s in ("popular", "covisitation", TWO_STAGE)} | set(own)
    value = {(row["task"], row["cut"], row["system"]): row["ndcg@10"] for row in rows if row["segment"] == report.ALL}
    for (task, cut, system), ndcg in value.items():
        if system == "popular":
            assert value[task, cut, TWO_STAGE] > 1.2 * ndcg
    assert len(outcome.rankers) == 4  # one for each task and cut
    (pool,) = {row["pool_recall"] for row in means if row["system"] == TWO_STAGE and row["task"] == "discovery"}
    (recall,) = {row["recall@10"] for row in means if row["system"] == TWO_STAGE and row["task"] == "discovery"}
    assert pool > recall  # the pool is the ceiling


def test_every_system_has_all_metrics_and_a_paired_difference(outcome: Outcome) -> None:
    rows = report.rows_of(outcome.measured)
    for row in [row for row in rows if row["cut"] == report.MEAN and row["segment"] == report.ALL]:
        assert all(row[name] is not None for name in ("diversity@10", "serendipity@10", "gini", "personalisation"))
        assert row["best_stage"] != TWO_STAGE
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        if row["system"] == "popular":
            assert row["serendipity@10"] == 0
    assert any("two-stage is best" in line for line in summary(rows))


def test_probabilities_come_true(outcome: Outcome) -> None:
    """The ranker saw 30 of some 200 negatives: corrected for that, its mean is right, and as learned it is not."""
    found = {(row["task"], row["segment"], row["system"]): row for row in calibration.rows_of(outcome.predicted)}
    for task in ("discovery", "all"):
        corrected, learned = (found[task, report.ALL, name] for name in (TWO_STAGE, report.AS_LEARNED))
        assert corrected["predicted"] == pytest.approx(corrected["observed"], rel=0.35)
        assert learned["predicted"] > 3 * learned["observed"]
        assert corrected["ece"] < learned["ece"] / 5


class _Client:
    """Takes what a run logs, by what MLflow would refuse."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.files: list[str] = []

    def log_batch(self, run_id: str, metrics: Any) -> None:
        for one in metrics:
            assert re.fullmatch(r"[\w\-. :/]+", one.key), one.key
            self.metrics[one.key] = one.value

    def log_table(self, run_id: str, columns: dict[str, list[Any]], path: str) -> None:
        assert len({len(column) for column in columns.values()}) == 1
        self.files.append(path)

    def log_figure(self, run_id: str, figure: Any, path: str) -> None:
        self.files.append(path)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self.files.append(path)


def test_all_is_logged(outcome: Outcome) -> None:
    client: Any = _Client()
    rows, calibrated = report.rows_of(outcome.measured), calibration.rows_of(outcome.predicted)
    evaluate._log(Run(client, "1"), outcome, rows, calibrated, summary(rows, calibrated))
    assert {"tables/rows.json", "tables/calibration.json", "plots/calibration.png", "summary.md"} < set(client.files)
    assert {"plots/comparison_discovery.png", "plots/difference_all.png"} < set(client.files)
    for name in ("", ".gini", ".serendipity_at_10", ".pool_recall", ".missed", ".ece"):
        assert client.metrics[f"discovery.two-stage.all{name}"] >= 0


def test_too_little_time_is_an_error_that_says_so(tmp_path) -> None:
    with pytest.raises(InputError, match=r"fewer \(--cuts\) or shorter ones \(--days\)"):
        measure(dataset(tmp_path / "world"), Plan(generators=["popular"], ranker=RANKER, cuts=5, days=20))
