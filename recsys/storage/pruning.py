"""Making room: partitions of lists that no kept publication needs are dropped. Other rows: `expiry`."""

from __future__ import annotations

import logging
from typing import Final

import sqlalchemy as sa

from recsys.storage import lists as list_store
from recsys.storage.engine import is_lock_timeout, with_lock_patience
from recsys.storage.list_format import partition_name
from recsys.storage.tables import event_settings, list_versions, predictions, publication_pointer, publications

log = logging.getLogger(__name__)

_LOCK_MS: Final = 300  # readers wait behind a drop that waits; so it gives up early and tries again
_PATIENCE_S: Final = 5.0


def prune(engine: sa.Engine, keep: int, *, dry_run: bool = False) -> list[int]:
    """Keep the current publication and `keep` others, the newest; drop the lists that none of these needs.

    Versions newer than the current publication's of their kind stay, because somebody may be about to publish
    them. Gives the ids of the list versions that were dropped (or would be): none when readers or writers held the
    table all the time, then the next call drops them.
    """

    def once() -> list[int]:
        with engine.connect() as connection, connection.begin() as transaction:
            dropped = _prune(connection, keep, dry_run=dry_run)
            if dry_run:
                transaction.rollback()
            return dropped

    try:
        dropped = with_lock_patience(once, _PATIENCE_S)
    except sa.exc.DBAPIError as error:
        if not is_lock_timeout(error):
            raise
        log.warning("the lists were in use all the time; older ones are dropped next time")
        return []
    if dropped and not dry_run:
        log.info("dropped list versions %s", dropped)
    return dropped


def erase(connection: sa.Connection) -> None:
    """Drop all lists, publications and exposures in the caller's transaction: another source's data take their place.

    Keys are given anew, so what was shown would name other items. The fence goes on rising, so publishers of the old
    data are shut out.
    """
    connection.execute(sa.delete(predictions))
    connection.execute(sa.delete(event_settings))
    connection.execute(
        sa.update(publication_pointer).values(
            publication_id=None, moved_at=sa.func.now(), fence=publication_pointer.c.fence + 1
        )
    )
    connection.execute(sa.delete(publications))
    complete = sa.select(list_versions.c.list_version_id).where(list_versions.c.status == "complete")
    _drop(connection, list(connection.scalars(complete)))
    connection.execute(sa.delete(list_versions))


def _prune(connection: sa.Connection, keep: int, *, dry_run: bool) -> list[int]:
    pointed_to = connection.execute(sa.select(publication_pointer.c.publication_id).with_for_update()).scalar_one()
    rows = connection.execute(
        sa.select(publications.c.publication_id, publications.c.manifest)
        .where(publications.c.status != "pruned")
        .order_by(publications.c.publication_id.desc())
    ).all()
    others = [row for row in rows if row.publication_id != pointed_to]
    serving = [row for row in rows if row.publication_id == pointed_to]
    needed = {i for row in [*serving, *others[:keep]] for i in row.manifest.values()}
    out = [row.publication_id for row in others[keep:]]
    connection.execute(sa.update(publications).where(publications.c.publication_id.in_(out)).values(status="pruned"))
    dropped = _unneeded(connection, needed, serving[0].manifest if serving else {})
    if dry_run:
        return dropped
    connection.execute(sa.text(f"set local lock_timeout = '{_LOCK_MS}ms'"))
    _clear_abandoned(connection)
    _drop(connection, dropped)
    connection.execute(sa.delete(list_versions).where(list_versions.c.list_version_id.in_(dropped)))
    return dropped


def _unneeded(connection: sa.Connection, needed: set[int], serving: dict[str, int]) -> list[int]:
    """Complete versions that are not needed and older than the serving one (else the newest one) of their kind."""
    versions = connection.execute(
        sa.select(list_versions.c.list_version_id, list_versions.c.kind)
        .where(list_versions.c.status == "complete")
        .order_by(list_versions.c.list_version_id)
    ).all()
    newest = {row.kind: row.list_version_id for row in versions}
    return [
        row.list_version_id
        for row in versions
        if row.list_version_id not in needed and row.list_version_id < serving.get(row.kind, newest[row.kind])
    ]


def _clear_abandoned(connection: sa.Connection) -> None:
    """Delete rows that killed writers left behind: those that nobody is writing now."""
    rows = connection.execute(
        sa.select(list_versions.c.list_version_id, list_versions.c.kind, list_versions.c.version).where(
            list_versions.c.status == "writing"
        )
    ).all()
    for row in rows:
        if list_store.try_lock(connection, row.kind, row.version):
            connection.execute(
                sa.delete(list_versions).where(
                    list_versions.c.list_version_id == row.list_version_id, list_versions.c.status == "writing"
                )
            )


def _drop(connection: sa.Connection, list_version_ids: list[int]) -> None:
    if list_version_ids:
        tables = ", ".join(partition_name(i) for i in list_version_ids)
        connection.execute(sa.text(f"drop table if exists {tables}"))
