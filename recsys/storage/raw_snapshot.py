"""Exports a snapshot of schema `raw` from Postgres as Parquet files.

ADBC converts Postgres' binary COPY to Arrow batches, which are written as they arrive, so that memory stays small.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from adbc_driver_postgresql import dbapi

from recsys.action import BY_PARAMETER
from recsys.storage.engine import url_of

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
POSTED_SEQ = 1 << 40  # `seq` of posted events are above those of imported ones
_MS = "floor(extract(epoch from occurred_at) * 1000)::bigint"
_NUMBER = "case jsonb_typeof(parameters -> '{name}') when 'number' then (parameters ->> '{name}')::float8 end"
_ACTED = "array[{}]".format(", ".join(f"'{name}'" for name in BY_PARAMETER))
_POSTED = f"""
select {_MS} as "timestamp", user_id as visitorid, event_type as event, item_id as itemid,
       parameters ->> 'transaction_id' as transactionid,
       coalesce({_NUMBER.format(name="price")}, label::float8) as value,
       nullif((parameters || features)::text, '{{{{}}}}') as parameters, {POSTED_SEQ} + position as seq,
       case when parameters ?| {_ACTED} then parameters::text end as acted, label::float8 as label
from events where {_MS} < {{before_ms}}
"""  # noqa: S608 - constants
_CATALOGUE_MS = "floor(extract(epoch from i.told_at) * 1000)::bigint"
_POSTED_PROPERTIES = f"""
select {_CATALOGUE_MS} as "timestamp", i.item_id as itemid, posted.property, posted.value
from items i left join categories c on c.category_key = i.category_key
cross join lateral (
    values ('categoryid', c.category_id), ('available', case when i.available then '1' else '0' end), ('title', i.title)
    union all select key, value from jsonb_each_text(i.properties) where key not in ('categoryid', 'available', 'title')
) posted (property, value)
where posted.value is not null and {_CATALOGUE_MS} < {{before_ms}}
"""  # noqa: S608 - constants
_CATALOGUE_STATE = f"select count(*), max({_CATALOGUE_MS}) from items i where {_CATALOGUE_MS} < {{before_ms}}"  # noqa: S608 - ours
_POSTED_STATE = f"""
select count(*), coalesce(max(position), 0),
       max({_MS}) filter (where user_id is not null and event_type = any({{types}}))
from events where {_MS} < {{before_ms}}
"""  # noqa: S608 - constants
# Runs of events without a long gap, except the one that continues the imported events.
_ISLANDS = f"""
select coalesce(json_agg(json_build_array(first, n) order by first), '[]')::text from (
    select min(ms) as first, count(*) as n from (
        select ms, sum(case when ms - before > {{gap_ms}} then 1 else 0 end)
                   over (order by ms rows unbounded preceding) as island
        from (
            select {_MS} as ms, lag({_MS}, 1, {{after_ms}}::bigint) over (order by {_MS}) as before from events
            where {_MS} > {{after_ms}} and {_MS} < {{before_ms}}
              and user_id is not null and event_type = any({{types}})
        ) beside
    ) numbered where island > 0 group by island
) islands
"""  # noqa: S608 - constants
_WORD = re.compile(r"[A-Za-z0-9_.:-]+\Z")  # as event types of the log


class RawSnapshot:
    """The raw tables as of the start of one transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def imports(self) -> list[dict[str, Any]]:
        """The rows of `raw.imports`, oldest first, each with its `files`."""
        imports: list[dict[str, Any]] = json.loads(self._row(_STATE)[0])
        return imports

    def events(self, until_ms: int) -> tuple[int, int | None, int | None, int]:
        """Number of events, largest `seq`, last timestamp up to `until_ms` (None when there is none), and the number of
        later events."""
        is_later = f'"timestamp" > {int(until_ms)}'
        n, last_seq, last, n_later = self._row(
            f'select count(*), max(seq), max("timestamp") filter (where not {is_later}), '  # noqa: S608 - a number
            f"count(*) filter (where {is_later}) from raw.events"
        )
        return int(n), last_seq, last, int(n_later)

    def posted(self, types: Iterable[str], before_ms: int) -> tuple[int, int, int | None]:
        """Of the log strictly before `before_ms`: number of events, largest position, and last timestamp of the users'
        events of `types` (milliseconds; None when there is none)."""
        query = _POSTED_STATE.format(types=_array(types), before_ms=int(before_ms))
        n, position, last = self._row(query)
        return int(n), int(position), last

    def posted_items(self, before_ms: int) -> tuple[int, int | None]:
        """Number of items last posted before an instant, and the time of the last one (milliseconds)."""
        n, last = self._row(_CATALOGUE_STATE.format(before_ms=int(before_ms)))
        return int(n), last

    def islands(self, types: Iterable[str], after_ms: int, before_ms: int, gap_ms: int) -> list[tuple[int, int]]:
        """Runs of users' posted events of `types` between two instants that start more than `gap_ms` after the previous
        event, or after `after_ms`: first timestamp and number of each, in order."""
        numbers = {"after_ms": int(after_ms), "before_ms": int(before_ms), "gap_ms": int(gap_ms)}
        rows: list[list[int]] = json.loads(self._row(_ISLANDS.format(types=_array(types), **numbers))[0])
        return [(first, n) for first, n in rows]

    def export(self, folder: Path, before_ms: int, posted_before_ms: int) -> dict[str, Path]:
        """Write every stream, the log (`posted_events`) and posted properties (`posted_properties`), each strictly
        before an instant, as Parquet files; stream → path."""
        queries = {stream: _query(stream, before_ms) for stream in STREAMS}
        queries["posted_properties"] = _POSTED_PROPERTIES.format(before_ms=int(before_ms))
        queries["posted_events"] = _POSTED.format(before_ms=int(posted_before_ms))
        return {stream: self._export(query, folder / f"{stream}.parquet") for stream, query in queries.items()}

    def _export(self, query: str, path: Path) -> Path:
        with closing(self._connection.cursor()) as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
            cursor.execute(query)
            with cursor.fetch_record_batch() as reader, _writer(path, reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)
        return path

    def _row(self, query: str) -> tuple[Any, ...]:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(query)
            row: tuple[Any, ...] = cursor.fetchone()
            return row


def _query(stream: str, before_ms: int) -> str:
    """SQL without parameters, which COPY does not support; the bound is an integer."""
    columns = ", ".join(f'"{name}"' for name in STREAMS[stream])
    cut = f' where "timestamp" < {int(before_ms)}' if "timestamp" in STREAMS[stream] else ""
    return f"select {columns} from raw.{stream}{cut}"  # noqa: S608 - names from STREAMS alone


def _array(types: Iterable[str]) -> str:
    """SQL array of the types that can occur in the log."""
    return "array[{}]::text[]".format(", ".join(f"'{name}'" for name in types if _WORD.match(name)))


@contextmanager
def raw_snapshot(engine: sa.Engine) -> Iterator[RawSnapshot]:
    """A snapshot of the database that `engine` is connected to.

    A lost connection raises psycopg2's OperationalError, as everywhere else (see `engine.with_patience`).
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
    with closing(dbapi.connect(url_of(engine))) as connection:
        with closing(connection.cursor()) as cursor:
            cursor.execute("set transaction isolation level repeatable read, read only")
            # Before the snapshot: a table that is truncated after it would look empty.
            cursor.execute(f"lock table {', '.join(f'raw.{name}' for name in STREAMS)} in access share mode")
            cursor.execute("set synchronize_seqscans = off")  # rows in loading order
        yield RawSnapshot(connection)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="lz4")
