"""The record of imports, and the COPY that fills the raw tables.

A batch of rows and the note of how far its file is dealt with are one transaction, so a load that is killed at
any point goes on where the last commit left it, and no row is loaded twice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import sqlalchemy as sa

from recsys.storage import raw_tables as raw
from recsys.storage import tables
from recsys.storage.pruning import erase

TABLES = {table.name: table for table in (raw.events, raw.item_properties, raw.user_properties, raw.category_tree)}
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
    left_out: dict[str, int]
    complete: bool


def try_lock(connection: sa.Connection) -> bool:
    """Take the right to import, held as long as the connection; False while another connection has it."""
    return bool(connection.execute(sa.select(sa.func.pg_try_advisory_lock(_IMPORT_LOCK))).scalar_one())


def imports(connection: sa.Connection) -> Sequence[sa.Row[Any]]:
    """All rows of raw.imports, oldest first."""
    return connection.execute(sa.select(raw.imports).order_by(raw.imports.c.import_id)).all()


def files(connection: sa.Connection) -> dict[tuple[str, str], FileProgress]:
    """Progress by (stream, file), over all imports."""
    rows = connection.execute(sa.select(raw.import_files)).mappings()
    return {(row["stream"], row["file"]): FileProgress(**row) for row in rows}


def add_import(connection: sa.Connection, values: Mapping[str, Any], parts: Sequence[Mapping[str, str]]) -> int:
    """Note a new import and its files (`stream`, `file`, `sha256`), nothing of them loaded yet; gives its id."""
    insert = sa.insert(raw.imports).values(status="loading", **values).returning(raw.imports.c.import_id)
    import_id: int = connection.execute(insert).scalar_one()
    connection.execute(sa.insert(raw.import_files), [{"import_id": import_id, **part} for part in parts])
    return import_id


def append(
    connection: sa.Connection,
    progress: FileProgress,
    rows: pa.RecordBatch,
    *,
    end: int,
    n_rejected: int,
    left_out: Mapping[str, int],
) -> FileProgress:
    """COPY a batch and note that its file is dealt with up to `end`; the caller commits. Gives the new progress.

    Raises RuntimeError when the file's position is not the one in `progress`: somebody else has loaded it.
    """
    total = {reason: progress.left_out.get(reason, 0) + n for reason, n in left_out.items()}
    after = FileProgress(
        progress.import_id,
        progress.stream,
        progress.file,
        progress.sha256,
        end,
        progress.n_loaded + rows.num_rows,
        progress.n_rejected + n_rejected,
        {**progress.left_out, **total},
        False,
    )
    # The row's lock comes first: a former loader's last commit is either seen or waited for.
    changed = connection.execute(
        sa.update(raw.import_files)
        .where(*_is(progress), raw.import_files.c.position == progress.position)
        .values(position=end, n_loaded=after.n_loaded, n_rejected=after.n_rejected, left_out=after.left_out)
    )
    if changed.rowcount != 1:
        raise RuntimeError(f"{progress.file} was loaded past record {progress.position} by another process")
    if progress.stream == raw.events.name:
        rows = rows.append_column("import_id", pa.array([progress.import_id] * rows.num_rows, pa.int64()))
    if rows.num_rows:
        _copy(connection, TABLES[progress.stream], rows)
    return after


def mark_file_complete(connection: sa.Connection, progress: FileProgress) -> None:
    """Note that a file has been read to its end."""
    connection.execute(sa.update(raw.import_files).where(*_is(progress)).values(complete=True))


def mark_complete(connection: sa.Connection, import_id: int) -> None:
    """Note that all files of an import are loaded."""
    connection.execute(
        sa.update(raw.imports)
        .where(raw.imports.c.import_id == import_id)
        .values(status="complete", completed_at=sa.func.now())
    )


def say_complete(connection: sa.Connection, until: dt.datetime) -> None:
    """Note with the newest import that before an instant all events of its types are there; the caller commits."""
    newest = sa.select(sa.func.max(raw.imports.c.import_id)).scalar_subquery()
    connection.execute(sa.update(raw.imports).where(raw.imports.c.import_id == newest).values(complete_until=until))


def start_over(connection: sa.Connection) -> None:
    """Empty raw tables, keys, lists, publications and the record of runs; the caller commits."""
    erase(connection)
    emptied = [*TABLES.values(), raw.imports, raw.import_files, *_KEYED]
    connection.execute(sa.text(f"truncate {', '.join(table.fullname for table in emptied)}"))
    state = tables.training_state  # an updater that works on the old data is shut out
    connection.execute(sa.update(state).values(fence=state.c.fence + 1, holder=None))


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


def _is(progress: FileProgress) -> tuple[sa.ColumnElement[bool], ...]:
    at = raw.import_files.c
    return at.import_id == progress.import_id, at.stream == progress.stream, at.file == progress.file


def _copy(connection: sa.Connection, table: sa.Table, rows: pa.RecordBatch) -> None:
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(rows, sink, pa.csv.WriteOptions(include_header=False))  # quotes texts, leaves nulls bare
    columns = ", ".join(f'"{name}"' for name in rows.schema.names)
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.copy_expert(
            f"copy {table.fullname} ({columns}) from stdin (format csv)", pa.BufferReader(sink.getvalue())
        )
