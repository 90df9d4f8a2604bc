"""Write the personal lists: ALS' best items for every active user.

They answer for users without a ranked list. Writes a list version of kind `personal` into Postgres; it goes live
with the next publication.

By hand: `dataset` names an older data set, `force` writes the lists again.
"""

from airflow.sdk import DAG, task

from airflow_service import wiring

with DAG("personal_recommendations", schedule=wiring.after(wiring.ALS), doc_md=__doc__, **wiring.options()):

    @task(outlets=[wiring.PERSONAL_LISTS])
    def personal_recommendations():
        from recsys.steps import personal_recommendations

        return wiring.announce(wiring.PERSONAL_LISTS, personal_recommendations.run(**wiring.asked()))

    personal_recommendations()
