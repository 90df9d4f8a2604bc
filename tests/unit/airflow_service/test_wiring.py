"""What a task of a step sees of its run, what it hands on, and what is tried again."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowSkipException

from airflow_service import wiring
from recsys import errors
from recsys.events.log import LogAwayError

D1 = "dataset/20111209T125000-1a2b3c4d5e"
MIDNIGHT = dt.datetime(2026, 3, 1, 2, tzinfo=dt.UTC)


class OutletEvent:
    extra: dict[str, Any] = {}  # noqa: RUF012 - assigned, never changed in place


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set what the running task sees of its DAG run; gives the context, and what the task pushes as its result."""

    def set_context(
        task_id: str,
        *,
        upstream: tuple[str, ...] = (),
        prepared: dict[str, Any] | None = None,
        run_type: str = "manual",
        outlets: tuple[Any, ...] = (),
        **params: Any,
    ) -> dict[str, Any]:
        pushed: dict[str, Any] = {}
        ti = SimpleNamespace(
            xcom_pull=lambda task_ids: prepared if task_ids == "prepare_dataset" else None,
            xcom_push=lambda key, value: pushed.update({key: value}),
        )
        context = {
            "params": {"as_of": None, "dataset": None, "force": []} | params,
            "dag_run": SimpleNamespace(run_type=run_type, data_interval_end=MIDNIGHT),
            "ti": ti,
            "task": SimpleNamespace(
                task_id=task_id, outlets=outlets, get_flat_relative_ids=lambda upstream: set(all_before)
            ),
            "outlet_events": {wiring.PUBLICATION: OutletEvent()},
            "pushed": pushed,
        }
        all_before = upstream
        monkeypatch.setattr(wiring, "get_current_context", lambda: context)
        return context

    return set_context


def test_a_task_takes_the_data_set_of_its_run(run: Any) -> None:
    run("train_als", prepared={"dataset": D1})
    assert wiring.run_arguments() == {"dataset": D1, "force": False}


def test_without_a_data_set_nothing_falls_back_to_the_newest(run: Any) -> None:
    run("publish")
    with pytest.raises(AirflowSkipException, match="no data set"):
        wiring.run_arguments()


@pytest.mark.parametrize(
    ("task_id", "upstream", "named", "expected"),
    [
        ("train_als", ("prepare_dataset",), ["train_als"], True),
        ("train_als", ("prepare_dataset",), ["prepare_dataset"], True),
        ("train_als", ("prepare_dataset",), ["train_deepfm"], False),
        ("training_due", ("prepare_dataset",), ["train_ranker"], True),
        ("training_due", ("prepare_dataset",), ["rank_users"], False),
        ("publish", ("prepare_dataset", "rank_users"), ["prepare_dataset", "rank_users"], False),
        ("publish", ("prepare_dataset", "rank_users"), ["publish"], True),
    ],
)
def test_force_is_handed_down(
    run: Any, task_id: str, upstream: tuple[str, ...], named: list[str], expected: bool
) -> None:
    run(task_id, upstream=upstream, prepared={"dataset": D1}, force=named)
    assert wiring.run_arguments()["force"] is expected


@pytest.mark.parametrize(
    ("run_type", "by_hand", "expected"),
    [
        ("scheduled", None, MIDNIGHT.isoformat()),
        ("backfill", None, MIDNIGHT.isoformat()),
        ("manual", None, None),
        ("manual", "2011-12-01T00:00:00Z", "2011-12-01T00:00:00Z"),
        ("backfill", "2011-12-01T00:00:00Z", "2011-12-01T00:00:00Z"),
    ],
)
def test_instant_of_a_run(run: Any, run_type: str, by_hand: str | None, expected: str | None) -> None:
    run("prepare_dataset", run_type=run_type, as_of=by_hand)
    assert wiring.time_arguments() == {"as_of": expected, "force": False}


def test_a_result_is_the_tasks_and_its_assets(run: Any) -> None:
    context = run("publish", outlets=(wiring.PUBLICATION,))
    result = {"dataset": D1, "publication_id": 3}
    assert wiring.done(result) is result
    assert context["outlet_events"][wiring.PUBLICATION].extra == result


def test_a_step_with_nothing_to_do_skips_its_task_and_says_why(run: Any) -> None:
    context = run("publish", outlets=(wiring.PUBLICATION,))
    result = {"dataset": D1, "skipped": "newer data are published"}
    with pytest.raises(AirflowSkipException, match="newer data are published"):
        wiring.done(result)
    assert context["pushed"] == {"return_value": result}, "whoever looks finds the reason"
    assert context["outlet_events"][wiring.PUBLICATION].extra == {}


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (errors.ImportUnderWayError("the import of day2.csv is not finished"), RetryAction.RETRY),
        (errors.DatabaseAwayError("the embedded Postgres did not start"), RetryAction.RETRY),
        (errors.FencedError("another publisher was faster"), RetryAction.RETRY),
        (LogAwayError("Kafka does not answer"), RetryAction.RETRY),
        (ConnectionError("lost"), RetryAction.RETRY),
        (OSError(28, "No space left on device"), RetryAction.RETRY),
        (errors.InputError("as_of is no instant"), RetryAction.FAIL),
        (errors.TooFewLabelsError("too few"), RetryAction.FAIL),
        (errors.PublicationError("refused"), RetryAction.FAIL),
        (errors.EmptyResultError("no lists"), RetryAction.FAIL),
        (TypeError("'NoneType' object is not subscriptable"), RetryAction.FAIL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_may_pass_is_tried_again(error: Exception, action: RetryAction) -> None:
    assert wiring.Patience().evaluate(error, 1, 4).action is action
