"""A night whose tasks Airflow's own task runner runs: `python airflow_steps.py`, which prints what became of it.

The steps are those of this file, and do nothing but note what they were asked and answer as the story says.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import airflow.settings
from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

import recsys.steps
from airflow_service import wiring
from recsys.errors import FencedError, ModelError

DATASET = "dataset/20260301T020000-aaaaaaaaaa"
arguments_by_step: dict[str, dict[str, Any]] = {}
tries: Counter[str] = Counter()


def answer(name: str) -> dict[str, Any]:
    if name == "train_deepfm":
        raise ModelError("the network is not finite")
    if name == "publish" and tries[name] == 1:
        raise FencedError("somebody else has published")
    if name == "similar_items":
        return {"dataset": DATASET, "skipped": "ALS knows no neighbours yet"}
    return {"dataset": DATASET, "accepted": True, "reason": "", "made_by": name}


def step_named(name: str) -> Any:
    def run(**arguments: Any) -> dict[str, Any]:
        tries[name] += 1
        arguments_by_step[name] = arguments
        return answer(name)

    return SimpleNamespace(run=run)


def main() -> None:
    for name in wiring.STEPS:
        sys.modules[f"recsys.steps.{name}"] = step_named(name)
        setattr(recsys.steps, name, sys.modules[f"recsys.steps.{name}"])
    airflow.settings.configure_orm()
    dag = DagBag(airflow.settings.DAGS_FOLDER).dags["nightly"]
    run = dag.test(run_conf={"force": ["train_als"]})
    with create_session() as session:
        states = {ti.task_id: str(ti.state) for ti in run.get_task_instances(session=session)}
        events = [event.extra for event in session.scalars(select(AssetEvent))]
        results = session.scalars(select(XComModel.task_id).where(XComModel.key == "return_value")).all()
    result = {"run": str(run.state), "states": states, "arguments": arguments_by_step, "tries": tries, "events": events}
    print("NIGHTS" + json.dumps(result | {"results": sorted(results)}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
