"""The plots show what they were given; a picture is not compared, its lines and bars are."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.evaluation import plots
from recsys.evaluation.calibration import Reliability


def test_learning_curve_has_a_line_per_name() -> None:
    axes = plots.learning_curve({"train": [3, 2, 1], "validation": [3, 2.5, 2.4]}, y_label="loss").axes[0]
    assert [line.get_label() for line in axes.lines] == ["train", "validation"]
    assert list(axes.lines[1].get_ydata()) == [3, 2.5, 2.4]


def test_feature_importance_keeps_the_greatest() -> None:
    axes = plots.feature_importance({f"f{i}": float(i) for i in range(50)}, top=5).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [45, 46, 47, 48, 49]


def test_popularity_curve_of_one_item_for_all_rises_at_once() -> None:
    one_for_all = np.zeros((10, 1), dtype=np.int32)
    even = np.arange(10, dtype=np.int32).reshape(10, 1)
    lines = plots.popularity_curve({"one": one_for_all, "even": even}, n_items=10).axes[0].lines
    assert lines[0].get_ydata()[1] == 1.0
    assert lines[1].get_ydata()[1] == pytest.approx(0.1)


def test_coverage_counts_each_item_once_at_its_first_position() -> None:
    lists = np.array([[0, 1, -1], [0, 2, 1]], dtype=np.int32)
    line = plots.coverage_curve({"als": lists}, n_items=4).axes[0].lines[0]
    assert list(line.get_ydata()) == [25.0, 75.0, 75.0]


def test_comparison_draws_every_source() -> None:
    axes = plots.comparison({"a": 0.1, "b": 0.2}, metric="ndcg@10", intervals={"a": (0.05, 0.2)}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.1]


def test_no_whiskers_without_an_interval() -> None:
    bare = plots.comparison({"a": 0.1, "b": 0.2}, metric="ndcg@10", intervals={}).axes[0]
    assert list(bare.collections) == list(bare.lines) == []
    one = plots.comparison({"a": 0.1, "b": 0.2}, metric="ndcg@10", intervals={"a": (0.05, 0.2)}).axes[0]
    (whiskers,) = [found for found in one.collections if found.get_segments()]
    assert [segment.tolist() for segment in whiskers.get_segments()] == [[[0.05, 1.0], [0.2, 1.0]]]


def test_differences_have_a_point_and_an_interval_each() -> None:
    axes = plots.differences({"a": (0.1, 0.05, 0.2), "b": (-0.1, -0.2, 0.0)}, metric="ndcg@10", reference="ease").axes[
        0
    ]
    assert axes.lines[0].get_xdata().tolist() == [-0.1, 0.1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]


def test_the_reliability_diagram_has_a_panel_for_each_task_and_leaves_empty_bins_out() -> None:
    bins = Reliability(np.array([0.001, 0.1]), np.array([0.0, 0.2]), np.array([5, 5]))
    panels = plots.reliability_diagram({"discovery": {"x, all": bins}, "all": {}}).axes
    assert [axes.get_title() for axes in panels] == ["Calibration: discovery", "Calibration: all"]
    assert panels[0].lines[0].get_ydata().tolist() == [0.2]
