"""One waiting run for each DAG and data set, also when two of its assets come at the same instant.

Airflow keeps a row for each DAG and partition key that waits for more assets, and looks for it before it adds one.
Up to 3.3.2 at least, that search is guarded by a lock on the asset: events of two different assets do not wait for
each other, both find nothing, and two rows wait for ever, each for the asset that the other one has
(https://github.com/apache/airflow/issues/71070). Here train_als and train_deepfm, or two list DAGs, end together
often enough to see it. This asset manager (`[core] asset_manager_class`) guards the search by one lock for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.assets.manager import AssetManager
from sqlalchemy import func, select

if TYPE_CHECKING:
    from airflow.models.asset import AssetPartitionDagRun
    from sqlalchemy.orm import Session

_LOCK = 0x646174617365  # any number that all API servers agree on


class OneRunPerDataset(AssetManager):
    """Airflow's asset manager, with that one lock. It ends with the transaction, which is short."""

    @classmethod
    def _get_or_create_apdr(cls, *, session: Session, **arguments: Any) -> AssetPartitionDagRun:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        return super()._get_or_create_apdr(session=session, **arguments)
