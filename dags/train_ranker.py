"""Train the ranker when ALS and DeepFM are there for the same data set.

Merges the candidates of all generators over several label windows, joins the features as of each cut, trains
CatBoost, and lets the gate compare the result with the champion on held-out data, per segment.

A refused model is no failure: `report_refusal` runs (it is skipped otherwise), says why in its log, in the notices
and in the asset's event, and `rank_and_publish` goes on with the old champion.

By hand: `dataset` names an older data set, `force` trains again what is there already.
"""

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_service import notices, wiring

with DAG("train_ranker", schedule=wiring.after(wiring.ALS, wiring.DEEPFM), doc_md=__doc__, **wiring.options()):

    @task(outlets=[wiring.RANKER])
    def train_ranker():
        from recsys.steps import train_ranker

        return wiring.announce(wiring.RANKER, train_ranker.run(**wiring.asked()))

    @task
    def report_refusal(result):
        if result["accepted"]:
            raise AirflowSkipException("the ranker was accepted")
        notices.model_refused(result)
        return result["reason"]

    report_refusal(train_ranker())
