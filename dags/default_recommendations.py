"""Write the default lists: what is popular, overall and by category.

They answer for users whom no model knows. Writes a list version of kind `default` into Postgres; it goes live
with the next publication.

By hand: `dataset` names an older data set, `force` writes the lists again.
"""

from airflow.sdk import DAG, task

from airflow_service import wiring

with DAG("default_recommendations", schedule=wiring.after(wiring.DATASET), doc_md=__doc__, **wiring.options()):

    @task(outlets=[wiring.DEFAULT_LISTS])
    def default_recommendations():
        from recsys.steps import default_recommendations

        return wiring.announce(wiring.DEFAULT_LISTS, default_recommendations.run(**wiring.asked()))

    default_recommendations()
