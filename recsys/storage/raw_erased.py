"""Erased users in the raw tables: an import leaves them out, also those who are erased while it runs."""

# ruff: noqa: S608 - statements are of names of our own tables

from __future__ import annotations

from collections.abc import Sequence, Set

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from recsys.storage import raw_tables as raw
from recsys.storage.tables import erased_users

OF_ERASED = "of erased users"  # why rows are left out


def hold_off_erasures(connection: sa.Connection) -> None:
    """Nobody is erased from here until the caller commits; who is being erased is waited for.

    So an erasure either finds what a transaction of an import wrote, or the transaction finds the erasure.
    """
    connection.execute(sa.text(f"lock table {erased_users.fullname} in share mode"))


def remove(connection: sa.Connection, files: Sequence[int], digests: Set[str]) -> None:
    """Remove rows of erased users (see `keys.erased`) that files (ids) brought, and count them there as left out; the
    caller commits."""
    values = {"files": list(files), "digests": [bytes.fromhex(digest) for digest in digests], "reason": OF_ERASED}
    for table in (raw.events, raw.user_properties):
        connection.execute(_REMOVE[table.name], values)


_REMOVE = {
    table.name: sa.text(f"""
        with gone as (
            delete from {table.fullname} where file_id = any(:files)
            and sha256(convert_to(visitorid, 'UTF8')) = any(:digests) returning file_id
        ), counted as (select file_id, count(*) as n from gone group by file_id)
        update raw.import_files f
        set n_loaded = n_loaded - n,
            left_out = left_out || jsonb_build_object(:reason, coalesce((left_out ->> :reason)::bigint, 0) + n)
        from counted c where c.file_id = f.file_id
    """).bindparams(sa.bindparam("files", type_=ARRAY(sa.BigInteger)), sa.bindparam("reason", type_=sa.Text))
    for table in (raw.events, raw.user_properties)
}


def n_there(connection: sa.Connection) -> dict[int, int]:
    """How many events of each file (id) are there: fewer than it brought where users were erased since."""
    counted = sa.select(raw.events.c.file_id, sa.func.count()).group_by(raw.events.c.file_id)
    return {file_id: n for file_id, n in connection.execute(counted) if file_id is not None}
