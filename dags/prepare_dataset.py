"""Prepare a data set from the raw tables: the start of the nightly chain.

Reads schema `raw`, writes the artifact `dataset/<version>` (Parquet) and the key tables in Postgres. Runs every
night; everything else follows from it by assets.

By hand: `as_of` cuts the events at an instant of the past, and the chain then runs for that data set; `force`
makes a version again that is there already.
"""

import datetime as dt

from airflow.sdk import DAG, CronTriggerTimetable, task

from airflow_service import wiring

with DAG(
    "prepare_dataset",
    # No run for a night that was over before this DAG was switched on.
    schedule=CronTriggerTimetable("0 2 * * *", timezone="UTC", run_immediately=dt.timedelta(0)),
    doc_md=__doc__,
    **wiring.options(wiring.BY_TIME),
):

    @task(outlets=[wiring.DATASET])
    def prepare_dataset():
        from recsys.steps import prepare_dataset

        return wiring.announce(wiring.DATASET, prepare_dataset.run(**wiring.asked_of_time()))

    prepare_dataset()
