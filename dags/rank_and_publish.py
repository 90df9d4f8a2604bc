"""Rank every active user's candidates and publish all lists together.

Starts when the ranker and all lists are there for the same data set. `user_history` writes down what users did, so
that the service shows nobody again what he bought; `rank_users` writes the list version of kind `ranked`; `publish`
checks the invariants (coverage, no empty list, no unavailable item …) and moves the one pointer that readers follow.
What breaks an invariant fails here, and the old publication keeps serving.

By hand: `dataset` names an older data set, `force` ranks again what is there already.
"""

from airflow.sdk import DAG, task

from airflow_service import wiring

EVERYTHING = wiring.after(
    wiring.RANKER, wiring.DEFAULT_LISTS, wiring.PERSONAL_LISTS, wiring.I2I_LISTS, wiring.SIMILAR_LISTS
)

with DAG("rank_and_publish", schedule=EVERYTHING, doc_md=__doc__, **wiring.options()):

    @task
    def user_history():
        from recsys.steps import user_history

        return user_history.run(**wiring.asked())

    @task
    def rank_users():
        from recsys.steps import rank_users

        return rank_users.run(**wiring.asked())

    @task(outlets=[wiring.PUBLICATION])
    def publish(ranked):
        from recsys.steps import publish

        published = publish.run(dataset=ranked["dataset"])
        return wiring.announce(wiring.PUBLICATION, {"dataset": ranked["dataset"], **published})

    ranked = rank_users()
    user_history() >> ranked
    publish(ranked)
