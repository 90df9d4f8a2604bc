"""What all DAGs share: the assets that tie them, their options, and how references travel.

Every asset event carries the data set's reference as its partition key and the step's whole result as `extra`.
A DAG that waits for several assets starts when all of them have come for the *same* data set, so that a night
that failed half way can never mix its results with those of the next one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from airflow.sdk import (
    Asset,
    AssetAll,
    ExceptionRetryPolicy,
    Param,
    PartitionedAssetTimetable,
    RetryAction,
    RetryRule,
    get_current_context,
)

from airflow_service import notices

DATASET = Asset("dataset", group="recsys")
ALS = Asset("als", group="recsys")
DEEPFM = Asset("deepfm", group="recsys")
DEFAULT_LISTS = Asset("default_lists", group="recsys")
PERSONAL_LISTS = Asset("personal_lists", group="recsys")
I2I_LISTS = Asset("i2i_lists", group="recsys")
SIMILAR_LISTS = Asset("similar_lists", group="recsys")
RANKER = Asset("ranker", group="recsys")
PUBLICATION = Asset("publication", group="recsys")

# What a step says about its input, and a mistake in its code, stay true when it is asked again; all else (a lost
# database, a killed process, a full disk) deserves patience.
_RETRY_POLICY = ExceptionRetryPolicy(
    [
        RetryRule("recsys.errors.RecsysError", RetryAction.FAIL, reason="the same input would be refused again"),
        RetryRule([TypeError, NameError, ImportError], RetryAction.FAIL, reason="a mistake in the code"),
    ]
)

FORCE = Param(False, type="boolean", description="Make the result again although it is there.")
BY_DATASET = {
    "dataset": Param(
        None,
        type=["null", "string"],
        description="Reference of a prepared data set (dataset/…); left empty, the newest one.",
    ),
    "force": FORCE,
}
BY_TIME = {
    "as_of": Param(
        None,
        type=["null", "string"],
        format="date-time",
        description="Use only events before this instant; left empty, all events of the interval.",
    ),
    "force": FORCE,
}


def after(*assets: Asset) -> PartitionedAssetTimetable:
    """Start when all of `assets` have come for one and the same data set."""
    return PartitionedAssetTimetable(assets=AssetAll(*assets))


def options(params: Mapping[str, Param] = BY_DATASET) -> dict[str, Any]:
    """The arguments that every DAG here passes to `DAG(…)` beside its own."""
    return {
        "params": dict(params),
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["recsys"],
        "on_failure_callback": notices.run_failed,
        "on_success_callback": notices.run_succeeded,
        "default_args": {
            "retries": 4,
            "retry_delay": dt.timedelta(seconds=15),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": dt.timedelta(minutes=10),
            "retry_policy": _RETRY_POLICY,
            "execution_timeout": dt.timedelta(hours=6),
        },
    }


def asked() -> dict[str, Any]:
    """What this run is about, as arguments of a step: `dataset` and `force`.

    The data set is the one named by hand, else the one whose events started this run, else (a run by hand that
    names none) None, the newest.
    """
    context = get_current_context()
    params = context["params"]
    return {"dataset": params["dataset"] or context["dag_run"].partition_key, "force": params["force"]}


def asked_of_time() -> dict[str, Any]:
    """The same for the step that makes the data set: `as_of` (by hand, else the end of a planned run) and `force`."""
    context = get_current_context()
    params, dag_run = context["params"], context["dag_run"]
    as_of = params["as_of"]
    if as_of is None and dag_run.run_type in ("scheduled", "backfill") and dag_run.data_interval_end is not None:
        as_of = dag_run.data_interval_end.isoformat()
    return {"as_of": as_of, "force": params["force"]}


def announce(asset: Asset, result: dict[str, Any]) -> dict[str, Any]:
    """Attach what a step made to the asset's event, under the data set it was made for; gives `result` back."""
    event = get_current_context()["outlet_events"][asset]
    event.extra = result
    event.add_partitions(result["dataset"])
    return result
