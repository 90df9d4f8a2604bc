"""MLflow through its door, on a real SQLite store."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.tracking import Tracker

pytestmark = [
    pytest.mark.slow,
    # MLflow and its dependencies warn of their own future changes on import and on first use.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("mlflow")
    return Tracker(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"))


def test_a_run_keeps_parameters_metrics_and_plots(tracker: Tracker, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    with tracker.run("als", "first", params={"als": {"factors": 64}}, tags={"dataset": "dataset/1"}) as run:
        run.metrics({"ndcg@10": 0.25, "share_top_1%": 0.5, "broken": float("nan"), "app's rate, 5é.auc": 0.9})
        run.curve("loss", [3.0, 2.0, 1.0])
        run.figure("curve", Figure())
        run.table("rows", [{"source": "als", "ndcg": 0.25}, {"source": "popular", "ndcg": 0.1}])
    stored = tracker._client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"als.factors": "64"}
    expected = {"ndcg_at_10": 0.25, "share_top_1_percent": 0.5, "loss": 1.0, "app_s rate_ 5_.auc": 0.9}
    assert stored.data.metrics == expected
    assert [m.value for m in tracker._client.get_metric_history(run.run_id, "loss")] == [3.0, 2.0, 1.0]
    assert {a.path for a in tracker._client.list_artifacts(run.run_id, "plots")} == {"plots/curve.png"}


def test_a_run_that_raises_is_marked_failed_and_says_why(tracker: Tracker) -> None:
    with pytest.raises(RuntimeError, match="no luck"), tracker.run("als", "second") as run:
        raise RuntimeError("no luck")
    stored = tracker._client.get_run(run.run_id)
    assert stored.info.status == "FAILED"
    assert stored.data.tags["error"] == "RuntimeError: no luck"


def test_aliases_move_from_challenger_to_champion(tracker: Tracker) -> None:
    assert tracker.champion("ranker") is None
    with tracker.run("ranker", "a") as run:
        first = tracker.register("ranker", "ranker/a-1", run.run_id)
    assert tracker.champion("ranker") is None
    tracker.promote("ranker", first)
    assert tracker.champion("ranker") == "ranker/a-1"
    with tracker.run("ranker", "b") as run:
        second = tracker.register("ranker", "ranker/b-1", run.run_id)
    tracker.refuse("ranker", second, "worse for light users")
    assert tracker.champion("ranker") == "ranker/a-1"
    assert tracker._client.get_model_version("ranker", second).tags["refused"] == "worse for light users"
