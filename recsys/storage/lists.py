"""List versions: written whole or not at all, found again by (kind, version), read back for checking.

A version's rows are copied into a table of their own and attached to `lists` as a partition in the transaction
that marks the version complete. A writer that is killed leaves its row in `list_versions` with status 'writing'
and nothing else; the next writer of the same version takes that row over.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from recsys.errors import NotFoundError, PublicationError
from recsys.storage.list_checks import ListChecks
from recsys.storage.list_format import COLUMNS, Decoder, encode, partition_name
from recsys.storage.tables import LIST_KINDS, list_versions
from recsys.types import Lists

log = logging.getLogger(__name__)

_ROWS_PER_COPY: Final = 10_000


@dataclass(frozen=True)
class ListVersion:
    """A complete list version. `checks`: what was counted while it was written (see ListChecks.finish)."""

    list_version_id: int
    kind: str
    version: str
    dataset: str
    made_by: str
    n_rows: int
    n_items: int
    sources: tuple[str, ...]
    checks: dict[str, Any]
    meta: dict[str, Any]


def find(engine: sa.Engine, kind: str, version: str) -> ListVersion | None:
    """The complete list version of this name; None when there is none (or it is still being written)."""
    with engine.connect() as connection:
        return _find(connection, (list_versions.c.kind == kind) & (list_versions.c.version == version))


def get(connection: sa.Connection, list_version_id: int) -> ListVersion:
    """The complete list version of this id; NotFoundError when there is none."""
    found = _find(connection, list_versions.c.list_version_id == list_version_id)
    if found is None:
        raise NotFoundError(f"there is no complete list version {list_version_id}; run the step that makes it again")
    return found


def write(
    engine: sa.Engine,
    kind: str,
    version: str,
    make: Callable[[], Iterable[Lists]],
    *,
    dataset: str,
    made_by: str,
    sources: Sequence[str],
    meta: Mapping[str, Any] | None = None,
) -> ListVersion:
    """Write the lists that `make()` yields block by block; `make` is not called when the version is complete.

    All rows appear in one transaction. Two writers of one version wait for each other, and the second finds the
    first one's result. Raises PublicationError for a list that breaks a rule of ListChecks and EmptyResultError
    when there is no list at all; then nothing of the version stays.
    """
    if kind not in LIST_KINDS:
        raise PublicationError(f"{kind!r} is no kind of list; there are {', '.join(LIST_KINDS)}")
    found = find(engine, kind, version)
    if found is not None:
        log.info("%s lists %s are there already", kind, version)
        return found
    row = {"kind": kind, "version": version, "dataset": dataset, "made_by": made_by, "sources": list(sources)}
    _announce(engine, row)
    with engine.begin() as connection:
        lock(connection, kind, version)
        found = _find(connection, (list_versions.c.kind == kind) & (list_versions.c.version == version))
        if found is not None:  # another writer was faster
            return found
        connection.execute(sa.text("set local idle_in_transaction_session_timeout = 0"))  # `make` may take its time
        list_version_id = _announced_id(connection, row)
        checks = ListChecks(kind, len(sources))
        _copy(connection, list_version_id, checks, make())
        counts = checks.finish()
        _attach(connection, list_version_id)
        connection.execute(
            sa.update(list_versions)
            .where(list_versions.c.list_version_id == list_version_id)
            .values(
                status="complete",
                n_rows=counts["n_rows"],
                n_items=counts["n_items"],
                item_keys=checks.item_keys.tolist(),
                checks=counts,
                meta=dict(meta or {}),
                created_at=sa.func.now(),
                **row,
            )
        )
        written = get(connection, list_version_id)
    log.info("wrote %d %s lists (%s) with %d items", written.n_rows, kind, version, written.n_items)
    return written


def read(connection: sa.Connection, version: ListVersion, take: Callable[[Lists], None]) -> None:
    """Hand all lists of a version, as they are stored, to `take`: blocks of equal length, shortest lists first.

    Raises PublicationError when a row cannot be a list at all: empty arrays or arrays of unequal length, more
    than one dimension, nulls.
    """
    table = partition_name(version.list_version_id)
    arrays = ("item_keys", "scores", "sources")
    broken = " or ".join(
        ["cardinality(item_keys) = 0"]
        + [f"cardinality({array}) <> cardinality(item_keys)" for array in arrays[1:]]
        + [f"array_ndims({array}) > 1 or array_position({array}, null) is not null" for array in arrays]
    )
    n_broken, owner = connection.execute(
        sa.text(f"select count(*), min(owner_key) from {table} where {broken}")  # noqa: S608 - our own names
    ).one()
    if n_broken:
        raise PublicationError(
            f"{n_broken} {version.kind} lists of {version.version} are empty, or have arrays of unequal length or with "
            f"nulls, e.g. of owner {owner}"
        )
    runs = connection.execute(
        sa.text(f"select cardinality(item_keys), count(*) from {table} group by 1 order by 1")  # noqa: S608
    ).all()
    receiver = _Receiver(Decoder([(length, rows) for length, rows in runs]), take)
    order = "order by cardinality(item_keys)" if len(runs) > 1 else ""  # sorting costs more than reading
    query = f"select {', '.join(COLUMNS)} from {table} {order}"  # noqa: S608
    with closing(connection.connection.cursor()) as cursor:
        cursor.copy_expert(f"copy ({query}) to stdout (format binary)", receiver)


class _Receiver:
    """The file that COPY writes to."""

    def __init__(self, decoder: Decoder, take: Callable[[Lists], None]) -> None:
        self._decoder = decoder
        self._take = take

    def write(self, data: bytes) -> int:
        for block in self._decoder.feed(data):
            self._take(block)
        return len(data)


def _find(connection: sa.Connection, which: sa.ColumnElement[bool]) -> ListVersion | None:
    columns = [list_versions.c[field.name] for field in fields(ListVersion)]
    row = connection.execute(sa.select(*columns).where(which, list_versions.c.status == "complete")).one_or_none()
    return None if row is None else ListVersion(**{**row._mapping, "sources": tuple(row.sources)})


def _announce(engine: sa.Engine, row: Mapping[str, Any]) -> None:
    """Let everybody see that the version is being written."""
    with engine.begin() as connection:
        connection.execute(insert(list_versions).values(status="writing", **row).on_conflict_do_nothing())


def _announced_id(connection: sa.Connection, row: Mapping[str, Any]) -> int:
    """The id of the announced row, which is locked (and made again if somebody cleared it away)."""
    statement = insert(list_versions).values(status="writing", **row)
    return connection.execute(
        statement.on_conflict_do_update(
            index_elements=["kind", "version"], set_={"status": statement.excluded.status}
        ).returning(list_versions.c.list_version_id)
    ).scalar_one()


def lock(connection: sa.Connection, kind: str, version: str) -> None:
    """Wait until no other transaction writes or removes this version, and keep others out until this one ends."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_lock_key(kind, version))))


def try_lock(connection: sa.Connection, kind: str, version: str) -> bool:
    """The same without waiting: False when another transaction has the lock."""
    return bool(connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_lock_key(kind, version)))).scalar_one())


def _lock_key(kind: str, version: str) -> sa.ColumnElement[int]:
    return sa.func.hashtextextended(f"list version {kind}/{version}", 0)


def _copy(connection: sa.Connection, list_version_id: int, checks: ListChecks, blocks: Iterable[Lists]) -> None:
    """Create the table of the version and copy all blocks into it, each checked before."""
    table = partition_name(list_version_id)
    connection.execute(
        sa.text(
            # Its own columns, not `like lists`: that would lock `lists` against pruning for as long as `blocks` takes.
            f"create table {table} (list_version_id bigint not null check (list_version_id = {list_version_id}),"
            " owner_key integer not null, item_keys integer[] not null, scores real[] not null,"
            " sources smallint[] not null)"
            " with (toast_tuple_target = 8160)"  # lists of up to some 700 items stay in the row, uncompressed
        )
    )
    command = f"copy {table} ({', '.join(COLUMNS)}) from stdin (format binary, freeze)"
    with closing(connection.connection.cursor()) as cursor:
        for block in blocks:
            checks.add(block)
            for start in range(0, len(block), _ROWS_PER_COPY):
                data = encode(list_version_id, block.take(slice(start, start + _ROWS_PER_COPY)))
                cursor.copy_expert(command, io.BytesIO(data), 1 << 20)


def _attach(connection: sa.Connection, list_version_id: int) -> None:
    """Make the table of the version a partition of `lists`; readers are not held up."""
    table = partition_name(list_version_id)
    connection.execute(sa.text(f"alter table {table} add primary key (list_version_id, owner_key)"))
    connection.execute(sa.text(f"alter table lists attach partition {table} for values in ({list_version_id})"))
