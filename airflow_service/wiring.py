"""What the DAGs share: options, retries, parameters, and how a step of `recsys.steps` becomes a task.

A run has one data set: `prepare_dataset` gives its reference, and every other task takes it from there and never
"the newest", so a run cannot mix its results with those of another one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from airflow.sdk import Asset, Param, RetryDecision, RetryPolicy, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_service import notices
from recsys import settings
from recsys.errors import RecsysError

PUBLICATION: Final = Asset("publication", group="recsys")
NIGHTLY: Final = settings.load().nightly_schedule
HOUSEKEEPING: Final = settings.load().housekeeping_schedule
WITH_SEQUENCE: Final = "sequence" in settings.load().generators  # its training has no other use
TRAINING: Final = ("training_due", "train_als", "train_deepfm", "train_sequence", "train_ranker")
STEPS: Final = (
    "prepare_dataset",
    *TRAINING,
    "default_recommendations",
    "i2i_recommendations",
    "index_sessions",
    "personal_recommendations",
    "similar_items",
    "user_history",
    "rank_users",
    "publish",
)
ANYWAY: Final = "all_done"  # a task that also runs when what comes before it was skipped or has failed
RETRIES_FOR_IMPORTS: Final = 12  # an import may still be under way: more than an hour, with the pauses of `options`

PARAMS: Final = {
    "as_of": Param(
        None,
        type=["null", "string"],
        format="date-time",
        description="Use only events before this instant; left empty, all events of the interval.",
    ),
    "dataset": Param(
        None,
        type=["null", "string"],
        description="Reference of a data set that is there (dataset/…), instead of preparing one.",
    ),
    "force": Param(
        [],
        type="array",
        items={"type": "string", "enum": list(STEPS)},
        examples=list(STEPS),
        description="Steps that make their results again although they are there, with all steps that follow them; "
        "`publish` puts older data in place of newer.",
    ),
}


class Patience(RetryPolicy):
    """Try again what may go well the next time; what a step refuses, and a mistake in its code, stay as they are."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """The decision; all that is no error of this project (a lost database, a full disk) is tried again."""
        if isinstance(exception, RecsysError) and not exception.transient:
            return RetryDecision.fail("the same input would be refused again")
        if isinstance(exception, TypeError | NameError | ImportError):
            return RetryDecision.fail("a mistake in the code")
        return RetryDecision.retry(reason="it may be over soon")


def options(*more_tags: str) -> dict[str, Any]:
    """The arguments that every DAG here passes to `DAG(…)` beside its own; `more_tags` make it findable."""
    return {
        "catchup": False,
        "is_paused_upon_creation": False,
        "max_active_runs": 1,
        "max_active_tasks": settings.load().tasks_at_once,
        "tags": ["recsys", *more_tags],
        "on_failure_callback": notices.run_failed,
        "on_success_callback": notices.run_succeeded,
        "default_args": {
            "retries": 4,
            "retry_delay": dt.timedelta(seconds=15),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": dt.timedelta(minutes=10),
            "retry_policy": Patience(),
            "execution_timeout": dt.timedelta(hours=6),
            "on_failure_callback": notices.step_failed,
        },
    }


def step(name: str, trigger_rule: str = "all_success", **arguments: Any) -> Any:
    """A task that calls `run` of `recsys.steps.<name>` for the run's data set; its id is the step's name."""

    @task(task_id=name, trigger_rule=trigger_rule, **arguments)
    def call() -> dict[str, Any]:
        return done(import_module(f"recsys.steps.{name}").run(**run_arguments()))

    return call()


def run_arguments() -> dict[str, Any]:
    """What the running task is about, as arguments of a step: `dataset` and `force`.

    Skips the task when the run has no data set, because its preparation has failed.
    """
    context = get_current_context()
    prepared = context["ti"].xcom_pull(task_ids=STEPS[0])
    if not prepared:
        raise AirflowSkipException("this run has no data set: see its task prepare_dataset")
    return {"dataset": prepared["dataset"], "force": _is_forced(context)}


def time_arguments() -> dict[str, Any]:
    """The same for the step that makes the data set: `as_of` (by hand, else the end of a planned run) and `force`."""
    context = get_current_context()
    params, dag_run = context["params"], context["dag_run"]
    as_of = params["as_of"]
    if as_of is None and dag_run.run_type in ("scheduled", "backfill") and dag_run.data_interval_end is not None:
        as_of = dag_run.data_interval_end.isoformat()
    return {"as_of": as_of, "force": _is_forced(context)}


def named_dataset() -> dict[str, Any] | None:
    """The data set that was named by hand, None when none was; NotFoundError when it is not there."""
    ref = get_current_context()["params"]["dataset"]
    if ref is None:
        return None
    from recsys.steps.context import Context

    Context.open().dataset(ref)
    return {"dataset": ref}


def done(result: dict[str, Any]) -> dict[str, Any]:
    """A step's result as the task's, and as what its asset's event says.

    A step that had nothing to do says why under "skipped": so does its task then, which holds nothing up.
    """
    context = get_current_context()
    if reason := result.get("skipped"):
        context["ti"].xcom_push(key="return_value", value=result)
        raise AirflowSkipException(reason)
    if dropped := result.get("dropped"):
        notices.lists_dropped(result["dataset"], dropped)
    for asset in context["task"].outlets:
        context["outlet_events"][asset].extra = result
    return result


def _is_forced(context: Mapping[str, Any]) -> bool:
    """Whether the running task, or one before it, was named in `force`.

    Training is also due when a training was named. Only its own name makes `publish` replace newer data.
    """
    this = context["task"]
    before = set() if this.task_id == "publish" else set(this.get_flat_relative_ids(upstream=True))
    if this.task_id == "training_due":
        before |= set(TRAINING)
    return bool({this.task_id, *before} & set(context["params"]["force"]))
