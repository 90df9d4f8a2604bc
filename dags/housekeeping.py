"""Housekeeping: end what grows.

Deletes artifacts, lists, rows, logs and MLflow runs that the settings keep no longer, every day.

By hand: `dry_run` only says what would go, and how much it is.
"""

import datetime as dt

from airflow.sdk import DAG, CronTriggerTimetable, Param, get_current_context, task

from airflow_service import wiring

with DAG(
    "housekeeping",
    schedule=CronTriggerTimetable(wiring.HOUSEKEEPING, timezone="UTC", run_immediately=dt.timedelta(0)),
    params={"dry_run": Param(False, type="boolean", description="Say what would go, and delete nothing.")},
    doc_md=__doc__,
    **wiring.options(),
):

    @task
    def housekeeping():
        from recsys.steps import housekeeping

        return housekeeping.run(dry_run=get_current_context()["params"]["dry_run"])

    housekeeping()
