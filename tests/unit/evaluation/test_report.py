from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy.sparse import csr_array

from recsys.evaluation import report, report_tables
from recsys.evaluation.metrics import Labels
from recsys.evaluation.pools import EVERY, UNKNOWN, PoolHits
from recsys.evaluation.report import ALL, MEAN, Ground, Measured
from recsys.types import MICROSECONDS_PER_DAY as DAY

LABELS = Labels.from_pairs(np.array([1, 1, 2, 3]), np.array([5, 6, 5, 7]))
SEGMENTS = {"light": np.array([True, False, True]), "heavy": np.array([False, True, False])}


def ground(day: int) -> Ground:
    return Ground("discovery", day * DAY, LABELS, SEGMENTS, np.full(10, 2), 4, 10)


def lists(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.int32)


GOOD = lists([5, 6], [5, 1], [7, 1])
BAD = lists([1, 5], [1, 5], [-1, -1])
COUNTS = [
    {EVERY: np.array(every), UNKNOWN: np.array(unknown), "new items": np.zeros(3, dtype=int)}
    for every, unknown in (([2, 1, 1], [0, 0, 1]), ([1, 1, 0], [0, 0, 0]))
]
MEASURED = [
    *(Measured(ground(10), name, found, 2.0) for name, found in (("popular", BAD), ("two-stage", GOOD))),
    *(Measured(ground(24), name, found, 4.0) for name, found in (("popular", GOOD), ("two-stage", GOOD))),
]


def rows_where(**wanted: str) -> list[report.Row]:
    return [row for row in report.rows_of(MEASURED) if all(row[name] == value for name, value in wanted.items())]


def test_a_row_for_each_task_cut_segment_and_system() -> None:
    assert len(report.rows_of(MEASURED)) == (2 + 1) * 3 * 2  # cuts and mean, segments and all, systems
    (row,) = rows_where(cut="1970-01-11", segment=ALL, system="popular")
    assert row["users"] == 3
    assert row["precision@5"] == pytest.approx((1 + 1 + 0) / 5 / 3)
    assert row["user_coverage"] == pytest.approx(2 / 3)
    assert row["item_coverage"] == pytest.approx(2 / 10)
    assert row["novelty@5"] == pytest.approx(1.0)  # every item is with half of the users; no list has no novelty
    assert row["ndcg@10_low"] <= row["ndcg@10"] <= row["ndcg@10_high"]


def test_means_average_the_cuts_alike() -> None:
    first, second = (rows_where(cut=cut, segment="light", system="popular")[0] for cut in ("1970-01-11", "1970-01-25"))
    (mean,) = rows_where(cut=MEAN, segment="light", system="popular")
    assert mean["ndcg@10"] == pytest.approx((first["ndcg@10"] + second["ndcg@10"]) / 2)
    assert mean["seconds"] == 3.0
    assert mean["users"] == 4


def test_beaten_everywhere_needs_every_cut() -> None:
    rows = report.rows_of(MEASURED)
    assert report.beaten_everywhere(rows, "two-stage") == {"discovery": False}  # a draw in the second cut
    assert report.beaten_everywhere(report.rows_of(MEASURED[:2]), "two-stage") == {"discovery": True}


def test_the_report_can_be_printed_and_read_back(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = report.rows_of(MEASURED)
    report_tables.show(rows, console=Console(width=200))
    printed = capsys.readouterr().out
    assert "two-stage" in printed
    assert "1970-01-25" in printed
    report.write(rows, tmp_path / "out", {"dataset": "dataset/x"})
    assert json.loads((tmp_path / "out" / "report.json").read_text())["rows"][0]["system"] == "popular"
    with (tmp_path / "out" / "report.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_means_have_intervals_and_paired_differences_to_the_best_single_stage() -> None:
    (mean,) = rows_where(cut=MEAN, segment=ALL, system="two-stage")
    assert mean["best_stage"] == "popular"
    popular = rows_where(cut=MEAN, segment=ALL, system="popular")[0]
    assert mean["difference"] == pytest.approx(mean["ndcg@10"] - popular["ndcg@10"])
    assert 0 <= mean["difference_low"] <= mean["difference"] <= mean["difference_high"]
    assert (popular["difference"], popular["difference_low"], popular["difference_high"]) == (0.0, 0.0, 0.0)
    for name in ("precision@5", "recall@10", "map@10", "novelty@5"):
        assert mean[f"{name}_low"] <= mean[name] <= mean[f"{name}_high"]


def test_all_rows_have_the_same_columns() -> None:
    assert len({tuple(row) for row in report.rows_of(MEASURED)}) == 1


def test_what_is_beyond_accuracy_is_in_the_rows_and_what_is_unknown_is_left_out() -> None:
    (bare,) = rows_where(cut=MEAN, segment=ALL, system="two-stage")
    assert "serendipity@10" not in bare
    assert 0 < bare["gini"] < 1
    known = replace(
        ground(10), expected=BAD, owners=csr_array(np.eye(10, dtype=np.float32)), category=np.array([-1, *[1] * 9])
    )
    row = Measured(known, "two-stage", GOOD, 1.0, PoolHits(*COUNTS)).row(ALL, np.ones(3, dtype=bool), 0)
    assert row["diversity@10"] == 1.0  # nobody has two items
    assert row["category_diversity@10"] == 0.0
    assert row["serendipity@10"] == pytest.approx((1 / 10 + 0 + 1 / 10) / 3)  # 6 of the first, 7 of the third user
    assert row["pool_recall"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert row["missed"] == pytest.approx(2 / 4)
    assert row["missed_new_items"] is None
    assert row["unknown_items"] == pytest.approx(1 / 4)
