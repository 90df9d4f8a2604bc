"""Keys and the catalogue in Postgres: what each external id is inside, and what the service knows of it.

A key once given is never changed and never removed. The lock under which keys are given is held for the moment of the
insert alone: a preparation places its new ids after the keys that it has read, and where others have given keys since
then, it learns here which ones its ids have got.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.csv
import sqlalchemy as sa

from recsys.errors import RecsysError
from recsys.storage import locks
from recsys.storage.last_keys import LAST_SQL
from recsys.storage.tables import categories, erased_users, id_types, items, users

# table → its key, its id, and the columns that a newer data set brings up to date
_ENTITIES: Mapping[str, tuple[sa.Table, str, str, tuple[str, ...]]] = {
    "categories": (categories, "category_key", "category_id", ("parent_category_key",)),
    "items": (items, "item_key", "item_id", ("category_key", "available", "title", "properties", "first_seen_at")),
    "users": (users, "user_key", "user_id", ("first_seen_at", "properties")),
}


_KEYS_PER_UPDATE: Final = 20_000  # keys of one transaction: who writes one of these rows by API waits so long


class Stored(NamedTuple):
    """How many rows were written, and which keys came out as others than were asked for."""

    n_written: int
    moved: dict[int, int]


def known_keys(connection: sa.Connection, entity: str) -> pa.Table:
    """All keys of "items", "users" or "categories": `id` (text, null where the user was erased), `key` (int32)."""
    table, key, id_, _ = _ENTITIES[entity]
    sql = f"copy (select {key}, {id_} from {table.name} order by {key}) to stdout (format csv)"  # noqa: S608 - our names
    with tempfile.TemporaryFile() as file:
        _cursor(connection).copy_expert(sql, file)
        if not file.tell():
            return pa.table({"id": pa.array([], pa.string()), "key": pa.array([], pa.int32())})
        file.seek(0)
        read = pyarrow.csv.read_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(column_names=["key", "id"]),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={"key": pa.int32(), "id": pa.string()},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        )
    return read.select(["id", "key"])


def of_erased(connection: sa.Connection) -> set[int]:
    """Keys of users who have been erased, or are just being erased; looks at every user."""
    dead = sa.text(
        "select user_key from users where user_id is null"
        " or sha256(convert_to(user_id, 'UTF8')) in (select digest from erased_users)"
    )
    return set(connection.scalars(dead))


def erased(connection: sa.Connection) -> frozenset[str]:
    """SHA-256 (hexadecimal) of the ids of all users who have been erased."""
    return frozenset(digest.hex() for digest in connection.scalars(sa.select(erased_users.c.digest)))


def store_id_types(connection: sa.Connection, json_types: Mapping[str, str]) -> None:
    """Note the JSON types of external ids: entity ("user", "item", "category") → "integer" or "string"."""
    connection.execute(id_types.delete())
    connection.execute(id_types.insert(), [{"entity": e, "json_type": t} for e, t in json_types.items()])


def store(
    engine: sa.Engine,
    entity: str,
    rows: pa.Table,
    *,
    top: int,
    update: bool,
    before: Callable[[sa.Connection], None] = lambda _: None,
) -> Stored:
    """Give their keys to the ids of `rows`, and with `update` bring the rows of all others up to date.

    `rows`: columns as in the table of `entity` (`properties` as JSON text); keys above `top`, the greatest one when
    keys were read, are asked for and may come out as others. A row that was written or deleted through the API, or a
    user who was erased, stays as it is (`told_at`), and no user who was erased gets a key.
    `before` is called first in every transaction, none of which is long: rows are brought up to date in portions.
    Raises RecsysError when an id that had a key has another one now, or a key another id; then nothing is written.
    """
    table, key, id_, attributes = _ENTITIES[entity]
    staged = f"staged_{table.name}"
    columns = (key, id_, *attributes)
    with engine.connect() as connection:
        connection.detach()  # its temporary table goes with it
        with closing(_cursor(connection)) as cursor:
            with connection.begin():
                before(connection)
                cursor.execute(f"create temp table {staged} (like {table.name} including defaults)")
                _copy(cursor, staged, columns, rows)
                cursor.execute(f"create index on {staged} ({key})")
                cursor.execute(f"analyze {staged}")
            with connection.begin():
                before(connection)
                cursor.execute("select pg_advisory_xact_lock(%s)", [locks.KEYS])
                _refuse_changed_keys(cursor, table.name, staged, key, id_, top)
                moved = _place(cursor, table.name, staged, key, id_, top)
                n_written = _insert(cursor, table.name, staged, key, columns)
            if update:
                for low in range(0, _greatest(cursor, staged, key) + 1, _KEYS_PER_UPDATE):
                    with connection.begin():
                        before(connection)
                        n_written += _update(cursor, table.name, staged, key, attributes, low)
            with connection.begin():
                cursor.execute(f"analyze {table.name}")
    return Stored(n_written, moved)


def _place(cursor: Any, table: str, staged: str, key: str, id_: str, top: int) -> dict[int, int]:
    """Settle the keys that are asked for; of those that come out as others, the new one."""
    cursor.execute(f"select {LAST_SQL.format(table=table, key=key)}")
    now = cursor.fetchone()[0]
    if now <= top:
        return {}
    cursor.execute(
        f"select s.{key}, coalesce(t.{key}, %s + row_number() over (partition by t.{key} is null order by s.{key}))"  # noqa: S608
        f" from {staged} s left join {table} t on t.{id_} = s.{id_} where s.{key} > %s",
        [now, top],
    )
    moved = {former: given for former, given in cursor.fetchall() if former != given}
    arguments = [list(moved), list(moved.values())]
    for column in (key, "parent_category_key") if table == categories.name else (key,):
        cursor.execute(
            f"update {staged} s set {column} = m.given from unnest(%s::integer[], %s::integer[]) m (former, given)"  # noqa: S608
            f" where s.{column} = m.former",
            arguments,
        )
    return moved


def _insert(cursor: Any, table: str, staged: str, key: str, columns: Sequence[str]) -> int:
    names = ", ".join(columns)
    living = "and not exists (select from erased_users e where e.digest = sha256(convert_to(s.user_id, 'UTF8')))"
    cursor.execute(
        f"insert into {table} ({names}) select {names} from {staged} s"  # noqa: S608 - our own names
        f" where not exists (select from {table} t where t.{key} = s.{key}) {living if table == users.name else ''}"
        f" order by {key}"
    )
    return int(cursor.rowcount)


def _update(cursor: Any, table: str, staged: str, key: str, attributes: Sequence[str], low: int) -> int:
    """Bring those of a range of keys up to date."""
    assignments = ", ".join(f"{name} = s.{name}" for name in attributes)
    old, new = (", ".join(f"{alias}.{name}" for name in attributes) for alias in "ts")
    cursor.execute(
        f"update {table} t set {assignments} from {staged} s where s.{key} >= %s and s.{key} < %s"  # noqa: S608
        f" and t.{key} = s.{key} and t.told_at is null and ({old}) is distinct from ({new})",
        [low, low + _KEYS_PER_UPDATE],
    )
    return int(cursor.rowcount)


def _greatest(cursor: Any, table: str, key: str) -> int:
    cursor.execute(f"select coalesce(max({key}), 0) from {table}")  # noqa: S608 - our own names
    return int(cursor.fetchone()[0])


def _refuse_changed_keys(cursor: Any, table: str, staged: str, key: str, id_: str, top: int) -> None:
    for same, other in ((key, id_), (id_, key)):
        cursor.execute(
            f"select s.{id_}, s.{key}, t.{id_}, t.{key} from {staged} s"  # noqa: S608 - our own names
            f" join {table} t on t.{same} = s.{same} where t.{other} <> s.{other} and s.{key} <= %s limit 1",
            [top],
        )
        row = cursor.fetchone()
        if row:
            raise RecsysError(
                f"{table}: id {row[0]!r} with key {row[1]} contradicts id {row[2]!r} with key {row[3]}, given "
                "before; prepare the data set again with --force"
            )


def _copy(cursor: Any, staged: str, columns: Sequence[str], rows: pa.Table) -> None:
    with tempfile.TemporaryFile() as file:
        pyarrow.csv.write_csv(
            rows.select(list(columns)), file, pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
        )
        file.seek(0)
        cursor.copy_expert(f"copy {staged} ({', '.join(columns)}) from stdin (format csv)", file)


def _cursor(connection: sa.Connection) -> Any:
    return connection.connection.cursor()
