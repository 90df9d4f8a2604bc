"""List versions: written whole or not at all, found again by (kind, version), read back for checking.

Lists are computed into a temporary file while no transaction is open; then a short one copies them into a table of
their own, attaches it to `lists` as a partition and marks the version complete. A writer that is killed leaves its row
in `list_versions` with status 'writing' and nothing else; the next writer of the same version takes that row over.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any, BinaryIO, Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from recsys.errors import NotFoundError, PublicationError, ShopReplacedError
from recsys.storage import list_checks
from recsys.storage.list_checks import ListChecks
from recsys.storage.list_format import COLUMNS, Decoder, encode, partition_name
from recsys.storage.tables import LIST_KINDS, list_versions
from recsys.types import Lists

log = logging.getLogger(__name__)

OF_USERS: Final = ("personal", "ranked", "history")  # kinds whose owners are users

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
    with engine.connect() as connection, tempfile.TemporaryFile() as file:
        connection.detach()  # the lock lasts as long as the connection, which is idle while `make` computes
        with connection.begin():
            connection.execute(sa.select(sa.func.pg_advisory_lock(_lock_key(kind, version))))
        with connection.begin():
            found = _find(connection, (list_versions.c.kind == kind) & (list_versions.c.version == version))
            if found is not None:  # another writer was faster
                return found
            list_version_id = _announce(connection, row)
        checks = ListChecks(kind, len(sources))
        sizes = _spool(file, list_version_id, checks, make())
        counts = checks.finish()
        with connection.begin():
            _hold(connection, list_version_id)
            _load(connection, list_version_id, file, sizes)
            _attach(connection, list_version_id)
            if kind in OF_USERS:
                counts = _without_erased(connection, list_version_id, counts)
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


def tell(engine: sa.Engine, version: ListVersion, more: Mapping[str, Any]) -> None:
    """Add to what the version's `meta` says."""
    with engine.begin() as connection:
        meta = list_versions.c.meta.op("||")(sa.cast(dict(more), JSONB))
        which = list_versions.c.list_version_id == version.list_version_id
        connection.execute(sa.update(list_versions).where(which).values(meta=meta))


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


def _announce(connection: sa.Connection, row: Mapping[str, Any]) -> int:
    """Let everybody see that the version is being written; its id, that of a killed writer where there was one."""
    statement = insert(list_versions).values(status="writing", **row)
    return connection.execute(
        statement.on_conflict_do_update(
            index_elements=["kind", "version"], set_={"status": statement.excluded.status}
        ).returning(list_versions.c.list_version_id)
    ).scalar_one()


def _hold(connection: sa.Connection, list_version_id: int) -> None:
    """Lock the announced row; ShopReplacedError where it is gone, with the shop that the lists were made for."""
    announced = sa.select(list_versions.c.status).where(list_versions.c.list_version_id == list_version_id)
    if connection.execute(announced.with_for_update()).scalar_one_or_none() != "writing":
        raise ShopReplacedError("the database was emptied while these lists were made; run the step again")


def try_lock(connection: sa.Connection, kind: str, version: str) -> bool:
    """Keep writers of this version out until the transaction ends; False when one is at work."""
    return bool(connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_lock_key(kind, version)))).scalar_one())


def _lock_key(kind: str, version: str) -> sa.ColumnElement[int]:
    return sa.func.hashtextextended(f"list version {kind}/{version}", 0)


def _spool(file: BinaryIO, list_version_id: int, checks: ListChecks, blocks: Iterable[Lists]) -> list[int]:
    """Write all blocks, each checked before, as portions of COPY's binary format; the length of each portion."""
    sizes: list[int] = []
    for block in blocks:
        checks.add(block)
        portions = (block.take(slice(at, at + _ROWS_PER_COPY)) for at in range(0, len(block), _ROWS_PER_COPY))
        sizes.extend(file.write(encode(list_version_id, portion)) for portion in portions)
    file.seek(0)
    return sizes


def _load(connection: sa.Connection, list_version_id: int, file: BinaryIO, sizes: Sequence[int]) -> None:
    """Create the table of the version and copy all portions into it."""
    table = partition_name(list_version_id)
    connection.execute(
        sa.text(
            # Its own columns, not `like lists`: that would lock `lists` against pruning for as long as the copy takes.
            f"create table {table} (list_version_id bigint not null check (list_version_id = {list_version_id}),"
            " owner_key integer not null, item_keys integer[] not null, scores real[] not null,"
            " sources smallint[] not null)"
            " with (toast_tuple_target = 8160)"  # lists of up to some 700 items stay in the row, uncompressed
        )
    )
    command = f"copy {table} ({', '.join(COLUMNS)}) from stdin (format binary, freeze)"
    with closing(connection.connection.cursor()) as cursor:
        for size in sizes:
            cursor.copy_expert(command, io.BytesIO(file.read(size)), 1 << 20)


def _attach(connection: sa.Connection, list_version_id: int) -> None:
    """Make the table of the version a partition of `lists`; readers are not held up."""
    table = partition_name(list_version_id)
    connection.execute(sa.text(f"alter table {table} add primary key (list_version_id, owner_key)"))
    connection.execute(sa.text(f"alter table lists attach partition {table} for values in ({list_version_id})"))


def _without_erased(connection: sa.Connection, list_version_id: int, counts: dict[str, Any]) -> dict[str, Any]:
    """Remove the lists of users who were erased while they were made; what is counted without them.

    The version is attached already: an erasure that begins later waits for that lock, and removes its user's lists.
    """
    rows = connection.execute(
        sa.text(
            f"delete from {partition_name(list_version_id)}"  # noqa: S608 - our own names
            " where owner_key in (select user_key from users where user_id is null)"
            f" returning {', '.join(COLUMNS[1:])}"
        )
    ).all()
    for owner, *arrays in rows:
        keys, scores, sources = (np.array([array]) for array in arrays)
        gone = Lists(np.array([owner], np.int32), keys.astype(np.int32), scores.astype(np.float32), sources)
        counts = list_checks.without(counts, gone)
    return counts
