"""Housekeeping: end what grows and nobody needs any more.

Artifacts, half-written files, exposures, idle sessions, quarantine, logs and MLflow runs go by the days that the
settings keep them (`recsys/README.md` has the table). Trigger a run with `dry_run` to see what would go, and how
much it is: the task's log and result say so.
"""

import datetime as dt

from airflow.sdk import DAG, CronTriggerTimetable, Param, get_current_context, task

from airflow_service import wiring

with DAG(
    "housekeeping",
    schedule=CronTriggerTimetable(wiring.HOUSEKEEPING, timezone="UTC", run_immediately=dt.timedelta(0)),
    params={"dry_run": Param(False, type="boolean", description="Only say what would go, and how much it is.")},
    doc_md=__doc__,
    **wiring.options("maintenance"),
):

    @task
    def housekeeping():
        from recsys.steps import housekeeping

        return housekeeping.run(dry_run=get_current_context()["params"]["dry_run"])

    housekeeping()
