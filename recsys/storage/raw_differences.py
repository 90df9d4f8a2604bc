"""Determines by SQL which rows of a file are new when part of it is loaded already, one transaction per file.

The whole file is staged in a temporary table, so that memory is bounded.
"""

# ruff: noqa: S608 - statements have names of our own tables and columns only

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from recsys.storage import raw_tables as raw
from recsys.storage.raw_imports import TABLES, FileProgress, copy
from recsys.storage.raw_seen import Seen

_IDS = ARRAY(sa.BigInteger)


class Staged:
    """The rows of one file in a temporary table, which is dropped at the end of the caller's transaction."""

    def __init__(self, connection: sa.Connection, stream: str) -> None:
        self._connection = connection
        self._table = TABLES[stream]
        self._columns = [column.name for column in self._table.columns if column.name not in ("seq", "file_id")]
        self.n_rows = 0
        self._has_former = False
        connection.execute(sa.text("drop table if exists staged"))
        connection.execute(
            sa.text(
                "create temp table staged on commit drop as "
                f"select 0::bigint as ord, {self._names()} from {self._table.fullname} limit 0"
            )
        )

    def add(self, rows: pa.RecordBatch) -> None:
        """Append rows, in the order of the file."""
        ord_ = pa.array(range(self.n_rows, self.n_rows + rows.num_rows), pa.int64())
        self.n_rows += rows.num_rows
        if rows.num_rows:
            copy(self._connection, "staged", rows.append_column("ord", ord_))

    def against(self, former: Sequence[int]) -> Against:
        """Compare with the rows of the files `former` (ids), as multisets."""
        names = self._names()
        self._has_former = True
        self._run("drop table if exists former_rows")
        self._run(
            f"create temp table former_rows on commit drop as select {names}, count(*) as n "
            f"from {self._table.fullname} where file_id = any(:former) group by {names}",
            former=list(former),
        )
        self._run("analyze staged", "analyze former_rows")
        row: Any = self._run(f"""
            select coalesce(sum(f.n), 0), coalesce(sum(greatest(f.n - coalesce(s.n, 0), 0)), 0),
                   (select max("timestamp") from former_rows), (select min("timestamp") from staged)
            from former_rows f
            left join (select {names}, count(*) as n from staged group by {names}) s on {self._same("f", "s")}
        """).one()
        return Against(int(row[0]), int(row[1]), row[2], row[3])

    def shared(self) -> dict[int, int]:
        """By id of a loaded file, the number of its rows that are in this one, as multisets."""
        names = self._names()
        self._run("analyze staged", "drop table if exists shared_rows")
        bounds: Any = self._run('select min("timestamp"), max("timestamp") from staged').one()
        low, high = bounds
        # Literal bounds: for a subquery the planner has no statistics, and would hash all events instead of these few.
        self._run(f"""
            create temp table shared_rows on commit drop as
            select file_id, {names}, count(*) as n from {self._table.fullname} e
            where "timestamp" between {low or 0} and {high or 0}
              and file_id is not null and exists (select 1 from staged s where {self._same("e", "s")})
            group by file_id, {names}
        """)
        self._run("analyze shared_rows")
        found: Any = self._run(f"""
            select f.file_id, sum(least(f.n, s.n))
            from shared_rows f
            join (select {names}, count(*) as n from staged group by {names}) s on {self._same("f", "s")}
            group by f.file_id
        """)
        return {int(row[0]): int(row[1]) for row in found}

    def n_known(self, seen: Seen) -> int:
        """An upper bound of the number of rows that are loaded already; adds the rows to `seen`."""
        n = seen.n_known(self._connection, "staged")
        seen.add(self._connection, "staged")
        return n

    def insert_new(self, file: FileProgress) -> int:
        """Insert the rows that are not in the files of `against`, or all without such files; the number of rows."""
        if not self._has_former:
            return self._insert(f"select {self._names('s')}, :file_id, s.ord from staged s", file)
        return self._insert(
            f"""
            select {self._names("s")}, :file_id, s.ord
            from (select *, row_number() over (partition by {self._names()} order by ord) as k from staged) s
            left join former_rows f on {self._same("s", "f")} where s.k > coalesce(f.n, 0)
            """,
            file,
        )

    def insert_distinct(self, file: FileProgress) -> int:
        """Insert each distinct row that is not loaded yet; the number of rows."""
        self._run("analyze staged")
        return self._insert(
            f"""
            select {self._names("s")}, :file_id, s.ord
            from (select *, row_number() over (partition by {self._names()} order by ord) as k from staged) s
            where s.k = 1 and not exists (
                select 1 from {self._table.fullname} f where {self._same("s", "f")}
            )
            """,
            file,
        )

    def insert_state(self, file: FileProgress, now_ms: int) -> State:
        """Insert the properties that differ from the newest rows of the stream, with the time of the last event, or
        `now_ms` if that is earlier, so that a data set that ends with the last event has them.

        A property that the file lacks for one owner, but has for others, is emptied.
        """
        owner = self._columns[1]
        self._run("analyze staged")
        self._run("drop table if exists newest")
        self._run(f"""
            create temp table newest on commit drop as
            select distinct on ({owner}, property) {owner}, property, value
            from {self._table.fullname} order by {owner}, property, "timestamp" desc, ctid desc
        """)
        self._run("analyze newest")
        last: int | None = self._run('select max("timestamp") from raw.events').scalar_one()
        at = now_ms if last is None else min(last, now_ms)
        n_changed = self._insert(
            f"""
            select :at, s.{owner}, s.property, s.value, :file_id, s.ord
            from (select distinct on ({owner}, property) * from staged order by {owner}, property, ord desc) s
            left join newest l on l.{owner} = s.{owner} and l.property = s.property
            where l.{owner} is null or l.value is distinct from s.value
            """,
            file,
            at=at,
        )
        n_emptied = self._insert(
            f"""
            select :at, l.{owner}, l.property, null::text, :file_id, 0
            from newest l join (select distinct {owner} from staged) o on o.{owner} = l.{owner}
            where l.value is not null and l.property in (select distinct property from staged)
              and not exists (select 1 from staged s where s.{owner} = l.{owner} and s.property = l.property)
            """,
            file,
            at=at,
        )
        n_missing: int = self._run(f"""
            select count(*) from (select distinct {owner} from newest) l
            where not exists (select 1 from staged s where s.{owner} = l.{owner})
        """).scalar_one()
        return State(n_changed, n_emptied, n_missing)

    def _insert(self, query: str, file: FileProgress, **values: object) -> int:
        into = f"insert into {self._table.fullname} ({self._names()}, file_id)"
        names = ", ".join(f"c{i}" for i in range(len(self._columns) + 1))
        statement = f"{into} select {names} from ({query}) found({names}, ord) order by ord"
        return self._run(statement, file_id=file.file_id, **values).rowcount

    def _run(self, *statements: str, **values: object) -> sa.CursorResult[Any]:
        for statement in statements:
            text = sa.text(statement)
            if "former" in values:
                text = text.bindparams(sa.bindparam("former", type_=_IDS))
            result = self._connection.execute(text, values)
        return result

    def _names(self, alias: str | None = None) -> str:
        return ", ".join(f'{alias}."{name}"' if alias else f'"{name}"' for name in self._columns)

    def _same(self, one: str, other: str) -> str:
        """SQL condition; "=" where a column is not nullable, so that a hash join is possible."""
        nullable = {column.name for column in self._table.columns if column.nullable}
        return " and ".join(
            f'{one}."{name}" {"is not distinct from" if name in nullable else "="} {other}."{name}"'
            for name in self._columns
        )


@dataclass(frozen=True)
class Against:
    """A staged file compared with the earlier files of its name."""

    n_former: int
    n_missing: int  # rows of the earlier files that are not in this one
    last_before: int | None  # milliseconds
    first_now: int | None

    @property
    def is_later(self) -> bool:
        """Whether all rows are later than the earlier ones: then it is an additional file and not a new state."""
        return self.last_before is not None and self.first_now is not None and self.first_now > self.last_before


@dataclass(frozen=True)
class State:
    """How a later state of a catalogue file differs from the stored one."""

    n_changed: int
    n_emptied: int
    n_missing: int  # stored owners that are not in the file


def n_duplicates(connection: sa.Connection, files: Sequence[int]) -> int:
    """The number of events of files (ids) that equal an earlier one in every column."""
    names = ", ".join(f'"{column.name}"' for column in raw.events.columns if column.name not in ("seq", "file_id"))
    query = f"""
        with extent as (
            select min("timestamp") as low, max("timestamp") as high from raw.events where file_id = any(:files)
        )
        select coalesce(sum(n_new - case when n_new = n then 1 else 0 end), 0) from (
            select count(*) as n, count(*) filter (where file_id = any(:files)) as n_new
            from raw.events, extent where "timestamp" between low and high
            group by {names} having count(*) > 1
        ) twice
    """
    text = sa.text(query).bindparams(sa.bindparam("files", type_=_IDS))
    return int(connection.execute(text, {"files": list(files)}).scalar_one())
