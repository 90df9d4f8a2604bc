"""Write the lists of similar items: neighbours by ALS' item factors.

Writes a list version of kind `similar` into Postgres; it goes live with the next publication.

By hand: `dataset` names an older data set, `force` writes the lists again.
"""

from airflow.sdk import DAG, task

from airflow_service import wiring

with DAG("similar_items", schedule=wiring.after(wiring.ALS), doc_md=__doc__, **wiring.options()):

    @task(outlets=[wiring.SIMILAR_LISTS])
    def similar_items():
        from recsys.steps import similar_items

        return wiring.announce(wiring.SIMILAR_LISTS, similar_items.run(**wiring.asked()))

    similar_items()
