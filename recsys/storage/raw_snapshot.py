"""Schema `raw` as it stands at one moment, out of Postgres as Parquet files.

ADBC turns Postgres' binary COPY into Arrow batches; they are written as they come, so that memory stays small.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from adbc_driver_postgresql import dbapi

STREAMS: Mapping[str, tuple[str, ...]] = {
    "events": ("timestamp", "visitorid", "event", "itemid", "transactionid", "value", "seq"),
    "item_properties": ("timestamp", "itemid", "property", "value"),
    "user_properties": ("timestamp", "visitorid", "property", "value"),
    "category_tree": ("categoryid", "parentid"),
}
_STATE = """
select coalesce(json_agg(row_to_json(i) order by import_id), '[]')::text from (
  select i.*, (select coalesce(json_agg(row_to_json(f) order by stream, file), '[]')
               from raw.import_files f where f.import_id = i.import_id) as files
  from raw.imports i) i
"""
_BATCH_BYTES = 16 << 20


class RawSnapshot:
    """The raw tables as of the start of one transaction, whatever is imported meanwhile."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def imports(self) -> list[dict[str, Any]]:
        """What has been imported: the rows of `raw.imports`, oldest first, each with its `files`."""
        imports: list[dict[str, Any]] = json.loads(self._row(_STATE)[0])
        return imports

    def events(self) -> tuple[int, int | None, int | None]:
        """Number of events, the greatest `seq`, and the last timestamp (milliseconds; None when there is none)."""
        n, last_seq, last = self._row('select count(*), max(seq), max("timestamp") from raw.events')
        return int(n), last_seq, last

    def export(self, folder: Path, before_ms: int) -> dict[str, Path]:
        """Write every stream, cut strictly before `before_ms`, into a Parquet file; stream → path."""
        return {stream: self._export(stream, folder / f"{stream}.parquet", before_ms) for stream in STREAMS}

    def _export(self, stream: str, path: Path, before_ms: int) -> Path:
        columns = ", ".join(f'"{name}"' for name in STREAMS[stream])
        timed = "timestamp" in STREAMS[stream]
        query = f"select {columns} from raw.{stream}"  # noqa: S608 - names from STREAMS alone
        with closing(self._connection.cursor()) as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
            # COPY, which makes this fast, takes no parameters; the bound is an integer
            cursor.execute(query + (f' where "timestamp" < {int(before_ms)}' if timed else ""))
            with cursor.fetch_record_batch() as reader, _writer(path, reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)
        return path

    def _row(self, query: str) -> tuple[Any, ...]:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(query)
            row: tuple[Any, ...] = cursor.fetchone()
            return row


@contextmanager
def raw_snapshot(engine: sa.Engine) -> Iterator[RawSnapshot]:
    """A snapshot of the database that `engine` is connected to.

    A lost connection is raised as psycopg2's OperationalError, as everywhere else (see `engine.with_patience`).
    """
    try:
        with _connected(engine) as snapshot:
            yield snapshot
    except dbapi.OperationalError as error:
        if (error.sqlstate or "08").startswith(("08", "57P")):
            raise psycopg2.OperationalError(str(error)) from error
        raise


@contextmanager
def _connected(engine: sa.Engine) -> Iterator[RawSnapshot]:
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(dbapi.connect(url)) as connection:
        with closing(connection.cursor()) as cursor:
            cursor.execute("set transaction isolation level repeatable read, read only")
            cursor.execute("set synchronize_seqscans = off")  # rows in the order in which they were loaded
        yield RawSnapshot(connection)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="lz4")
