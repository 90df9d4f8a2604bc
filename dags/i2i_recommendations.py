"""Write the item-to-item lists: what is bought or viewed together.

Neighbours by co-visitation with time and order. Writes a list version of kind `i2i` into Postgres; it goes live
with the next publication.

By hand: `dataset` names an older data set, `force` writes the lists again.
"""

from airflow.sdk import DAG, task

from airflow_service import wiring

with DAG("i2i_recommendations", schedule=wiring.after(wiring.DATASET), doc_md=__doc__, **wiring.options()):

    @task(outlets=[wiring.I2I_LISTS])
    def i2i_recommendations():
        from recsys.steps import i2i_recommendations

        return wiring.announce(wiring.I2I_LISTS, i2i_recommendations.run(**wiring.asked()))

    i2i_recommendations()
