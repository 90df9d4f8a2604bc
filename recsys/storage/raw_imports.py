"""The record of imports, and the COPY that fills the raw tables.

A batch of rows and the note of how far its file is dealt with are one transaction, so a load that is killed at
any point goes on where the last commit left it, and no row is loaded twice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.csv
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from recsys.errors import RecsysError
from recsys.storage import raw_tables as raw
from recsys.storage import tables
from recsys.storage.engine import is_lock_timeout, with_lock_patience
from recsys.storage.pruning import erase

TABLES = {table.name: table for table in (raw.events, raw.item_properties, raw.user_properties, raw.category_tree)}
MAX_REASONS = 50  # that are told apart for one file
OTHER_REASONS = "other reasons"
_IDS = ARRAY(sa.BigInteger)
LOCK_PATIENCE_S = 60.0  # for who reads what an import replaces
LOCK_MS = 500  # of one attempt to have all of it: so long others may wait behind it
_IMPORT_LOCK = 0x726177  # one import at a time in a database


@dataclass(frozen=True)
class FileProgress:
    """How far one file of an import has been loaded into one stream's table."""

    import_id: int
    stream: str
    file: str
    sha256: str
    position: int
    n_loaded: int
    n_rejected: int
    reasons: dict[str, int]  # of rejected rows
    left_out: dict[str, int]
    complete: bool
    file_id: int


def try_lock(connection: sa.Connection) -> bool:
    """Take the right to import, held as long as the connection; False while another connection has it."""
    return bool(connection.execute(sa.select(sa.func.pg_try_advisory_lock(_IMPORT_LOCK))).scalar_one())


def imports(connection: sa.Connection) -> Sequence[sa.Row[Any]]:
    """All rows of raw.imports, oldest first."""
    return connection.execute(sa.select(raw.imports).order_by(raw.imports.c.import_id)).all()


def files(connection: sa.Connection) -> list[FileProgress]:
    """Every file that was begun, over all imports, in the order in which they were begun; a name may occur again."""
    rows = connection.execute(sa.select(raw.import_files).order_by(raw.import_files.c.file_id)).mappings()
    return [FileProgress(**row) for row in rows]


def again(connection: sa.Connection, file: FileProgress) -> FileProgress:
    """A file as it is noted now."""
    row = connection.execute(sa.select(raw.import_files).where(raw.import_files.c.file_id == file.file_id))
    return FileProgress(**row.mappings().one())


def add_import(
    connection: sa.Connection, values: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]
) -> list[FileProgress]:
    """Note a new import and its files (`stream`, `file`, `sha256`), nothing of them loaded yet; gives these."""
    insert = sa.insert(raw.imports).values({"status": "loading", **values}).returning(raw.imports.c.import_id)
    import_id: int = connection.execute(insert).scalar_one()
    begun = []
    for part in parts:  # one by one: their ids ascend in this order
        file = sa.insert(raw.import_files).values(import_id=import_id, **part).returning(raw.import_files)
        begun.append(FileProgress(**connection.execute(file).mappings().one()))
    return begun


def append(
    connection: sa.Connection,
    progress: FileProgress,
    rows: pa.RecordBatch,
    *,
    end: int,
    reasons: Mapping[str, int],
    left_out: Mapping[str, int],
) -> FileProgress:
    """COPY a batch and note that its file is dealt with up to `end`; the caller commits. Gives the new progress.

    `reasons`: why rows of the batch were rejected → how many. Raises RuntimeError when the file's position is not the
    one in `progress`: somebody else has loaded it.
    """
    # The row's lock comes first: a former loader's last commit is either seen or waited for.
    after = note(connection, progress, end=end, n_loaded=rows.num_rows, reasons=reasons, left_out=left_out)
    if rows.num_rows:
        copy(connection, TABLES[progress.stream].fullname, with_file(rows, progress.file_id))
    return after


def note(
    connection: sa.Connection,
    progress: FileProgress,
    *,
    end: int,
    n_loaded: int,
    reasons: Mapping[str, int],
    left_out: Mapping[str, int],
) -> FileProgress:
    """Note what became of the next records of a file, those up to `end`; the caller commits."""
    after = replace(
        progress,
        position=end,
        n_loaded=progress.n_loaded + n_loaded,
        n_rejected=progress.n_rejected + sum(reasons.values()),
        reasons=_summed(progress.reasons, reasons),
        left_out=_summed(progress.left_out, left_out),
    )
    noted = {name: getattr(after, name) for name in ("position", "n_loaded", "n_rejected", "reasons", "left_out")}
    changed = connection.execute(
        sa.update(raw.import_files)
        .where(raw.import_files.c.file_id == progress.file_id, raw.import_files.c.position == progress.position)
        .values(noted)
    )
    if changed.rowcount != 1:
        raise RuntimeError(f"{progress.file} was loaded past record {progress.position} by another process")
    return after


def mark_file_complete(connection: sa.Connection, progress: FileProgress) -> None:
    """Note that a file has been read to its end."""
    connection.execute(
        sa.update(raw.import_files).where(raw.import_files.c.file_id == progress.file_id).values(complete=True)
    )


def mark_complete(connection: sa.Connection) -> set[int]:
    """Note that all files of the imports under way are loaded; gives the imports' ids."""
    loading = sa.update(raw.imports).where(raw.imports.c.status == "loading")
    done = loading.values(status="complete", completed_at=sa.func.now()).returning(raw.imports.c.import_id)
    return set(connection.scalars(done))


def say_complete(connection: sa.Connection, until: dt.datetime) -> None:
    """Note with the newest import that before an instant all events of its types are there; the caller commits."""
    newest = sa.select(sa.func.max(raw.imports.c.import_id)).scalar_subquery()
    connection.execute(sa.update(raw.imports).where(raw.imports.c.import_id == newest).values(complete_until=until))


def take_back(connection: sa.Connection, files: Sequence[FileProgress]) -> None:
    """Remove every row that came from files, the files, and imports that have none left; the caller commits."""
    for stream in {file.stream for file in files}:
        _remove_rows(connection, TABLES[stream], [file.file_id for file in files if file.stream == stream])
    ids = sa.any_(sa.literal([file.file_id for file in files], _IDS))
    gone = sa.delete(raw.import_files).where(raw.import_files.c.file_id == ids).returning(raw.import_files.c.import_id)
    touched = list(set(connection.scalars(gone)))
    has_files = sa.exists().where(raw.import_files.c.import_id == raw.imports.c.import_id)
    mine = raw.imports.c.import_id == sa.any_(sa.literal(touched, _IDS))
    connection.execute(sa.delete(raw.imports).where(mine, ~has_files))
    rest = sa.exists().where(raw.import_files.c.import_id == raw.imports.c.import_id, ~raw.import_files.c.complete)
    connection.execute(sa.update(raw.imports).where(mine, ~rest).values(status="complete", completed_at=sa.func.now()))


def begin_again(connection: sa.Connection, file: FileProgress) -> FileProgress:
    """Remove the rows of a file that is half loaded; the caller commits."""
    _remove_rows(connection, TABLES[file.stream], [file.file_id])
    anew = {"position": 0, "n_loaded": 0, "n_rejected": 0, "reasons": {}, "left_out": {}}
    connection.execute(sa.update(raw.import_files).where(raw.import_files.c.file_id == file.file_id).values(anew))
    return replace(file, **anew)  # type: ignore[arg-type]


def _remove_rows(connection: sa.Connection, table: sa.Table, files: list[int]) -> None:
    ids = sa.any_(sa.literal(files, _IDS))
    if not connection.scalar(sa.select(sa.exists().where(table.c.file_id == ids))):
        return
    if table is raw.events:
        connection.execute(sa.delete(table).where(table.c.file_id == ids))
        return
    # The order of rows is their order in time: no later row may fill the place of one that went.
    kept = sa.select(table).where(table.c.file_id.is_(None) | ~(table.c.file_id == ids))
    name = table.fullname
    connection.execute(sa.text(f"create temp table kept on commit drop as select * from {name} limit 0"))  # noqa: S608
    into = sa.table("kept", *(sa.column(column.name) for column in table.c))
    connection.execute(sa.insert(into).from_select([column.name for column in table.c], kept))
    connection.execute(sa.text(f"truncate {name}"))
    connection.execute(sa.text(f"insert into {name} select * from kept"))  # noqa: S608 - a table of ours
    connection.execute(sa.text("drop table kept"))


def empty_raw(connection: sa.Connection) -> None:
    """Empty the raw tables and the record of imports; the caller commits. Until then preparations wait, and other
    readers see what was there."""
    connection.execute(sa.text(f"truncate {', '.join(table.fullname for table in TABLES.values())}"))
    connection.execute(sa.delete(raw.imports))  # not truncated: the service reads them all the time


def start_over(connection: sa.Connection) -> None:
    """Empty keys, lists, publications and the record of runs, all made of other raw tables; the caller commits, soon:
    readers of these wait."""
    _lock_out_readers(connection)
    erase(connection)
    connection.execute(sa.text(f"truncate {', '.join(table.fullname for table in _KEYED)}"))
    connection.execute(sa.update(tables.catalogue_epoch).values(last_item_key=0, last_category_key=0, last_user_key=0))
    state = tables.training_state  # an updater that works on the old data is shut out
    connection.execute(sa.update(state).values(fence=state.c.fence + 1, holder=None))


def _lock_out_readers(connection: sa.Connection) -> None:
    """Have the tables of keys alone. While somebody reads one of them for long, none is held: all others read on.

    Raises RecsysError where that lasts.
    """
    names = ", ".join(table.fullname for table in (*_KEYED, tables.lists))

    def once() -> None:
        with connection.begin_nested():
            connection.execute(sa.text(f"set local lock_timeout = '{LOCK_MS}ms'"))
            connection.execute(sa.text(f"lock table {names} in access exclusive mode"))
            connection.execute(sa.text("set local lock_timeout = 0"))

    try:
        with_lock_patience(once, LOCK_PATIENCE_S)
    except sa.exc.DBAPIError as error:
        if not is_lock_timeout(error):
            raise
        raise RecsysError(
            f"somebody reads the tables of items and users for more than {LOCK_PATIENCE_S:.0f} s, so that they "
            "cannot be replaced; nothing was changed. End that transaction (pg_stat_activity), and import again"
        ) from error


_KEYED = (
    tables.id_types,
    tables.categories,
    tables.items,
    tables.users,
    tables.training_runs,
    tables.events,  # of the other source's users and items; user_recent even holds their keys
    tables.event_quarantine,
    tables.user_recent,
    tables.model_updates,  # that say how far the log is learned
)


def with_file(rows: pa.RecordBatch, file_id: int) -> pa.RecordBatch:
    """Rows of a stream with the column that says which file they are from."""
    return rows.append_column("file_id", pa.array([file_id] * rows.num_rows, pa.int64()))


def copy(connection: sa.Connection, table: str, rows: pa.RecordBatch) -> None:
    """COPY rows into a table of our own naming; the caller commits."""
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(rows, sink, pa.csv.WriteOptions(include_header=False))  # quotes texts, leaves nulls bare
    columns = ", ".join(f'"{name}"' for name in rows.schema.names)
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.copy_expert(f"copy {table} ({columns}) from stdin (format csv)", pa.BufferReader(sink.getvalue()))


def _summed(before: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Counts by reason; beyond MAX_REASONS the rest are counted together."""
    total = dict(before)
    for reason, n in more.items():
        name = reason if reason in total or len(total) < MAX_REASONS else OTHER_REASONS
        total[name] = total.get(name, 0) + n
    return total
