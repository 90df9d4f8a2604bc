"""The night: from the raw tables to a publication.

Prepares a data set, trains on it when training is due, writes all lists, and publishes them together. A training
that is not due, was refused by its gate or has failed leaves the current champions in place: the lists are written
with those. A list step that has failed leaves its kind as it is published now, until that is too old. Whatever has
failed makes the run red.

By hand: clear a task with all that follows it, or trigger a run. `as_of` cuts the events at an instant of the past;
`dataset` takes a data set that is there; `force` names steps that make their results again, with all that follows
them.
"""

import datetime as dt

from airflow.sdk import DAG, CronTriggerTimetable, TaskGroup, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_service import notices, wiring

with DAG(
    "nightly",
    # No run for a night that was over before this DAG was there.
    schedule=CronTriggerTimetable(wiring.NIGHTLY, timezone="UTC", run_immediately=dt.timedelta(0)),
    params=wiring.PARAMS,
    doc_md=__doc__,
    **wiring.options(*wiring.STEPS),
):

    @task(retries=wiring.RETRIES_FOR_IMPORTS)
    def prepare_dataset():
        from recsys.steps import prepare_dataset

        return wiring.named_dataset() or wiring.done(prepare_dataset.run(**wiring.time_arguments()))

    prepared = prepare_dataset()

    with TaskGroup("training", prefix_group_id=False):
        due = wiring.step("training_due")
        als, deepfm = wiring.step("train_als"), wiring.step("train_deepfm")
        models = [als, deepfm, *([wiring.step("train_sequence")] if wiring.WITH_SEQUENCE else [])]
        ranker = wiring.step("train_ranker")

        @task
        def report_refusal(result):
            if result["accepted"]:
                raise AirflowSkipException("the ranker was accepted")
            notices.model_refused(result)
            return result["reason"]

        reported = report_refusal(ranker)
        prepared >> due >> models >> ranker

    with TaskGroup("lists", prefix_group_id=False):
        popular, i2i, sessions = (
            wiring.step(name) for name in ("default_recommendations", "i2i_recommendations", "index_sessions")
        )
        personal, similar = (wiring.step(name, wiring.ANYWAY) for name in ("personal_recommendations", "similar_items"))
        prepared >> [popular, i2i, sessions]
        als >> [personal, similar]

    with TaskGroup("rank_and_publish", prefix_group_id=False):
        history = wiring.step("user_history")
        ranked = wiring.step("rank_users", wiring.ANYWAY)
        published = wiring.step("publish", wiring.ANYWAY, outlets=[wiring.PUBLICATION])
        prepared >> history
        [ranker, history] >> ranked
        [popular, i2i, sessions, personal, similar, history, ranked] >> published

    @task(trigger_rule="one_failed", retries=0)
    def watcher():
        raise AirflowFailException("a step has failed (the red one); what could be published without it is published")

    trained = [due, *models, ranker, reported]
    [prepared, *trained, popular, i2i, sessions, personal, similar, history, ranked, published] >> watcher()
