"""Keys and the catalogue in Postgres: what each external id is inside, and what the service knows of it.

A key once given is never changed and never removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import sqlalchemy as sa

from recsys.errors import RecsysError
from recsys.storage import locks
from recsys.storage.tables import categories, erased_users, id_types, items, users

# table → its key, its id, and the columns that a newer data set brings up to date
_ENTITIES: Mapping[str, tuple[sa.Table, str, str, tuple[str, ...]]] = {
    "categories": (categories, "category_key", "category_id", ("parent_category_key",)),
    "items": (items, "item_key", "item_id", ("category_key", "available", "title", "properties", "first_seen_at")),
    "users": (users, "user_key", "user_id", ("first_seen_at", "properties")),
}


def lock(connection: sa.Connection) -> None:
    """Wait until no other process gives keys; held until the connection's transaction ends."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(locks.KEYS)))


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


def erased(connection: sa.Connection) -> frozenset[str]:
    """SHA-256 (hexadecimal) of the ids of all users who have been erased."""
    return frozenset(digest.hex() for digest in connection.scalars(sa.select(erased_users.c.digest)))


def store_id_types(connection: sa.Connection, json_types: Mapping[str, str]) -> None:
    """Note the JSON types of external ids: entity ("user", "item", "category") → "integer" or "string"."""
    connection.execute(id_types.delete())
    connection.execute(id_types.insert(), [{"entity": e, "json_type": t} for e, t in json_types.items()])


def store(connection: sa.Connection, entity: str, rows: pa.Table, *, update: bool) -> int:
    """Add the rows whose key is new, and with `update` bring the others up to date; how many were written.

    A row that was written or deleted through the API, or a user who was erased, stays as it is (`told_at`).
    `rows`: columns as in the table of `entity` (`properties` as JSON text). Raises RecsysError when an id has
    another key already, or a key another id; then nothing is written.
    """
    table, key, id_, attributes = _ENTITIES[entity]
    columns = (key, id_, *attributes)
    cursor = _cursor(connection)
    staged = f"staged_{table.name}"
    cursor.execute(f"create temp table {staged} (like {table.name} including defaults) on commit drop")
    _copy(cursor, staged, columns, rows)
    cursor.execute(f"analyze {staged}")
    _refuse_changed_keys(cursor, table.name, staged, key, id_)
    names = ", ".join(columns)
    cursor.execute(
        f"insert into {table.name} ({names}) select {names} from {staged} s"  # noqa: S608 - our own names
        f" where not exists (select from {table.name} t where t.{key} = s.{key}) order by {key}"
    )
    n_written = cursor.rowcount
    if update:
        assignments = ", ".join(f"{name} = s.{name}" for name in attributes)
        old, new = (", ".join(f"{alias}.{name}" for name in attributes) for alias in "ts")
        cursor.execute(
            f"update {table.name} t set {assignments} from {staged} s"  # noqa: S608 - our own names
            f" where t.{key} = s.{key} and t.told_at is null and ({old}) is distinct from ({new})"
        )
        n_written += cursor.rowcount
    cursor.execute(f"analyze {table.name}")
    return int(n_written)


def _refuse_changed_keys(cursor: Any, table: str, staged: str, key: str, id_: str) -> None:
    for same, other in ((key, id_), (id_, key)):
        cursor.execute(
            f"select s.{id_}, s.{key}, t.{id_}, t.{key} from {staged} s"  # noqa: S608 - our own names
            f" join {table} t on t.{same} = s.{same} where t.{other} <> s.{other} limit 1"
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
