"""Train DeepFM on every new data set.

Fits the network on everything (for serving) and on the history before each of the ranker's label windows, and
writes each as an artifact `deepfm/<version>` with its run in MLflow.

By hand: `dataset` names an older data set, `force` trains again what is there already.
"""

from airflow.sdk import DAG, task

from airflow_service import wiring

with DAG("train_deepfm", schedule=wiring.after(wiring.DATASET), doc_md=__doc__, **wiring.options()):

    @task(outlets=[wiring.DEEPFM])
    def train_deepfm():
        from recsys.steps import train_deepfm

        return wiring.announce(wiring.DEEPFM, train_deepfm.run(**wiring.asked()))

    train_deepfm()
