"""Train ALS on every new data set.

Fits implicit's ALS on everything (for serving) and on the history before each of the ranker's label windows, and
writes each as an artifact `als/<version>` with its run in MLflow.

By hand: `dataset` names an older data set, `force` trains again what is there already.
"""

from airflow.sdk import DAG, task

from airflow_service import wiring

with DAG("train_als", schedule=wiring.after(wiring.DATASET), doc_md=__doc__, **wiring.options()):

    @task(outlets=[wiring.ALS])
    def train_als():
        from recsys.steps import train_als

        return wiring.announce(wiring.ALS, train_als.run(**wiring.asked()))

    train_als()
