"""Nights by Airflow's own scheduler on its own tables: `python airflow_nights.py`, which prints what became of them.

Only the work is left out: an executor of this file ends each task at once, as the story says, and the scheduler
decides all else from the DAG as it is stored.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import airflow.settings
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.executors.base_executor import BaseExecutor
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import func, select

DAG = "nightly"


class Story(BaseExecutor):
    """Ends each task as `outcomes` says (run and task → failed or skipped), all others well."""

    outcomes: dict[tuple[str, str], str] = {}  # noqa: RUF012 - the story goes on
    ran: list[tuple[str, str]] = []  # noqa: RUF012
    at_once: Counter[str] = Counter()  # noqa: RUF012

    def _process_workloads(self, workloads: Sequence[Any]) -> None:
        with create_session() as session:
            self.at_once["most"] = max(self.at_once["most"], len(workloads))
            for workload in workloads:
                key = workload.ti.key
                self.queued_tasks.pop(key, None)
                ti = session.scalars(select(TaskInstance).where(TaskInstance.id == workload.ti.id)).one()
                ti.state = self.outcomes.get(
                    (ti.run_id, ti.task_id), "failed" if ti.task_id == "watcher" else "success"
                )
                ti.start_date = ti.end_date = dt.datetime.now(dt.UTC)
                self.ran.append((ti.run_id, ti.task_id))
                self.running.add(key)
                self.success(key)  # the process has come to its end, whatever the task said

    def end(self) -> None: ...

    def terminate(self) -> None: ...


def trigger(run_id: str) -> None:
    with create_session() as session:
        dag = SerializedDagModel.get_dag(DAG)
        assert dag is not None
        dag.create_dagrun(
            run_id=run_id,
            run_after=dt.datetime.now(dt.UTC),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.QUEUED,
            conf={},
            session=session,
        )


def clear(run_id: str, task_id: str) -> None:
    """A task and what follows it, as Airflow's page does."""
    with create_session() as session:
        dag = SerializedDagModel.get_dag(DAG)
        assert dag is not None
        names = set(dag.partial_subset([task_id], include_downstream=True, include_upstream=False).task_ids)
        here = TaskInstance.run_id == run_id
        clear_task_instances(
            list(session.scalars(select(TaskInstance).where(here, TaskInstance.task_id.in_(names)))), session
        )


def schedule() -> None:
    """The scheduler, until no run is left that has not ended."""
    for _ in range(20):
        SchedulerJobRunner(Job(), num_runs=10, executors=[Story()], scheduler_idle_sleep_time=0)._execute()
        with create_session() as session:
            open_runs = select(func.count()).select_from(DagRun).where(DagRun.state.in_(["queued", "running"]))
            if not session.scalar(open_runs):
                return
        time.sleep(0.1)
    raise AssertionError("runs do not come to their end")


def states(run_id: str) -> dict[str, Any]:
    """The run's state, its tasks', and which tasks ran since the last time."""
    with create_session() as session:
        run = session.scalars(select(DagRun).where(DagRun.run_id == run_id)).one()
        tasks = {ti.task_id: str(ti.state) for ti in run.get_task_instances(session=session)}
        ran = [task for name, task in Story.ran if name == run_id]
        Story.ran[:] = [one for one in Story.ran if one[0] != run_id]
        return {"run": str(run.state), "tasks": tasks, "ran": ran}


def nights() -> dict[str, Any]:
    found: dict[str, Any] = {}
    Story.outcomes |= {("failed", "train_als"): "failed"}
    Story.outcomes |= {("not_due", "training_due"): "skipped"}
    Story.outcomes |= {("thin", name): "skipped" for name in ("train_als", "personal_recommendations", "similar_items")}
    Story.outcomes |= {("no_list", "rank_users"): "failed"}
    # What asks for the run's data set and finds none skips itself.
    Story.outcomes |= {("no_data", "prepare_dataset"): "failed"}
    Story.outcomes |= {
        ("no_data", name): "skipped" for name in ("personal_recommendations", "similar_items", "rank_users", "publish")
    }
    for name in ("good", "failed", "after"):
        trigger(name)  # all at once: they queue up
        time.sleep(0.01)
    schedule()
    order = [run_id for run_id, _ in Story.ran]
    found["order"] = [run_id for n, run_id in enumerate(order) if n == 0 or order[n - 1] != run_id]
    found |= {name: states(name) for name in ("good", "failed", "after")}
    for name in ("not_due", "thin", "no_list", "no_data"):
        trigger(name)
        schedule()
        found[name] = states(name)
    Story.outcomes.clear()
    clear("failed", "train_als")
    schedule()
    found["cleared"] = states("failed")
    clear("good", "default_recommendations")
    schedule()
    found["one_step_again"] = states("good")
    found["at_once"] = Story.at_once["most"]
    return found


def main() -> None:
    airflow.settings.configure_orm()
    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    for bundle in manager.get_all_dag_bundles():
        bundle.initialize()
        sync_bag_to_db(BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name), bundle.name, None)
    with create_session() as session:
        known = set(session.scalars(select(SerializedDagModel.dag_id)))
        assert DAG in known, known
    print("NIGHTS" + json.dumps(nights()))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
