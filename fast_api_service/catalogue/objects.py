"""The catalogue rows of one request: read with a lock, changed in memory object by object, written at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import asyncpg
import orjson

from recsys.errors import InputError
from recsys.serving.catalogue_changes import ItemState, Properties, cycle, updated_properties
from recsys.serving.ids import ExternalId, JsonType, digest_of, to_external
from recsys.storage.last_keys import LAST_SQL

_FIRST_KEY = 1  # as in recsys.data.keys; 0 owns the default list of all items


class Rows(ABC):
    """The rows of one table in a request, by external id as text.

    The order of calls: `lacks`, then the locks, then `load`, `take` for each object, and `write`.
    """

    table: ClassVar[str]
    key: ClassVar[str]
    id: ClassVar[str]
    load_sql: ClassVar[str]  # reads and locks the rows of $1, an array of ids
    write_sql: ClassVar[str]  # writes rows: $1 their keys, $2 their ids, then `_columns`

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self._gone: set[str] = set()  # deleted ids, which cannot be reused
        self._changed: dict[str, None] = {}  # in order
        self._unchanged: set[str] = set()  # posted without a change
        self._next_key = _FIRST_KEY

    async def lacks(self, connection: asyncpg.Connection, ids: set[str]) -> bool:
        """Whether an id would need a new key."""
        sql = f"select count(*) from {self.table} where {self.id} = any($1)"  # noqa: S608 - our own names
        return int(await connection.fetchval(sql, list(ids))) < len(ids)

    async def load(self, connection: asyncpg.Connection, ids: set[str]) -> None:
        """Read and lock the rows of these ids."""
        for row in await connection.fetch(self.load_sql, sorted(ids)):
            self.keys[row[self.id]] = row[self.key]
            self._remember(row)
        if len(ids - self.keys.keys()):
            sql = f"select {LAST_SQL.format(table=self.table, key=self.key)}"
            self._next_key = max(await connection.fetchval(sql) + 1, _FIRST_KEY)

    def take(self, id_: str, fields: dict[str, Any]) -> str:
        """Change or add one object: "created", "updated" or "unchanged"; InputError where it is invalid."""
        if id_ in self._gone:
            raise InputError(self._refusal(id_))
        is_new = id_ not in self.keys
        if not self._change(id_, fields, is_new):
            self._unchanged.add(id_)
            return "unchanged"
        if is_new:
            self.keys[id_] = self._next_key
            self._next_key += 1
        self._changed[id_] = None
        return "created" if is_new else "updated"

    async def write(self, connection: asyncpg.Connection) -> None:
        """Write the changed rows, and mark the others as posted."""
        if self._changed:
            ids = list(self._changed)
            await connection.execute(self.write_sql, [self.keys[id_] for id_ in ids], ids, *self._columns(ids))
        known = [self.keys[id_] for id_ in sorted(self._unchanged - self._changed.keys())]
        if known:
            sql = f"update {self.table} set told_at = now() where {self.key} = any($1) and told_at is null"  # noqa: S608
            await connection.execute(sql, known)

    @abstractmethod
    def _remember(self, row: asyncpg.Record) -> None:
        """Remember a stored row."""

    @abstractmethod
    def _change(self, id_: str, fields: dict[str, Any], is_new: bool) -> bool:
        """Change a remembered row; False where nothing changes. After an InputError nothing is changed."""

    @abstractmethod
    def _columns(self, ids: Sequence[str]) -> list[list[Any]]:
        """The arrays $3, $4, … of `write_sql`."""

    def _refusal(self, id_: str) -> str:
        return f"{id_!r} was deleted, and a deleted id is not used again; take a new one"


class Categories(Rows):
    table, key, id = "categories", "category_key", "category_id"
    _SELECT = """
        select c.category_key, c.category_id, p.category_id as parent_id, c.deleted_at from categories c
        left join categories p on p.category_key = c.parent_category_key
    """
    load_sql = _SELECT + "where c.category_id = any($1) order by c.category_key for update of c"
    write_sql = """
        insert into categories (category_key, category_id, parent_category_key, told_at)
        select key, id, parent, now() from unnest($1::int[], $2::text[], $3::int[]) as posted (key, id, parent)
        on conflict (category_key) do update set
            parent_category_key = excluded.parent_category_key, told_at = excluded.told_at
    """

    def __init__(self, json_type: JsonType) -> None:
        super().__init__()
        self._json_type = json_type
        self._parents: dict[str, str | None] = {}

    async def look_up(self, connection: asyncpg.Connection, ids: Iterable[str] | None) -> None:
        """Read these categories, or all of them, to resolve the categories of items and to detect cycles."""
        if ids is None:
            rows = await connection.fetch(self._SELECT)
        else:
            rows = await connection.fetch(self._SELECT + "where c.category_id = any($1)", sorted(set(ids)))
        for row in rows:
            self.keys[row["category_id"]] = row["category_key"]
            self._remember(row)

    def key_of(self, category_id: ExternalId) -> tuple[str, int]:
        """The canonical id and its key; InputError where there is no such category."""
        id_ = str(to_external(category_id, self._json_type, "category"))
        if id_ not in self.keys or id_ in self._gone:
            raise InputError(f"there is no category {category_id!r}; store it first")
        return id_, self.keys[id_]

    def _remember(self, row: asyncpg.Record) -> None:
        if row["deleted_at"] is not None:
            self._gone.add(row["category_id"])
        self._parents[row["category_id"]] = row["parent_id"]

    def _change(self, id_: str, fields: dict[str, Any], is_new: bool) -> bool:
        former = self._parents.get(id_)
        parent = former
        if "parent_id" in fields:
            parent = None if fields["parent_id"] is None else self.key_of(fields["parent_id"])[0]
            way = cycle(self._parents, id_, parent)
            if way and parent != former:
                raise InputError(f"parent_id: a cycle of categories, {' → '.join(way)}")
        self._parents[id_] = parent
        return is_new or parent != former

    def _columns(self, ids: Sequence[str]) -> list[list[Any]]:
        parents = [self._parents[id_] for id_ in ids]
        return [[None if parent is None else self.keys[parent] for parent in parents]]


class Items(Rows):
    table, key, id = "items", "item_key", "item_id"
    load_sql = """
        select i.item_key, i.item_id, c.category_key, c.category_id, i.available, i.title, i.properties,
               i.deleted_at
        from items i left join categories c on c.category_key = i.category_key and c.deleted_at is null
        where i.item_id = any($1) order by i.item_key for update of i
    """
    write_sql = """
        insert into items (item_key, item_id, category_key, available, title, properties, first_seen_at, told_at)
        select key, id, category, available, title, properties::jsonb, now(), now()
        from unnest($1::int[], $2::text[], $3::int[], $4::bool[], $5::text[], $6::text[])
            as posted (key, id, category, available, title, properties)
        on conflict (item_key) do update set category_key = excluded.category_key,
            available = excluded.available, title = excluded.title, properties = excluded.properties,
            told_at = excluded.told_at
    """

    def __init__(self, categories: Categories) -> None:
        super().__init__()
        self._categories = categories
        self._states: dict[str, ItemState] = {}

    def _remember(self, row: asyncpg.Record) -> None:
        if row["deleted_at"] is not None:
            self._gone.add(row["item_id"])
        if row["category_id"] is not None:
            self._categories.keys[row["category_id"]] = row["category_key"]
        properties = orjson.loads(row["properties"])
        self._states[row["item_id"]] = ItemState.stored(row["category_id"], row["available"], row["title"], properties)

    def _change(self, id_: str, fields: dict[str, Any], is_new: bool) -> bool:
        if fields.get("category_id") is not None:
            fields = fields | {"category_id": self._categories.key_of(fields["category_id"])[0]}
        former = self._states.get(id_, ItemState())
        after = former.updated(fields)
        self._states[id_] = after
        return is_new or after != former

    def _columns(self, ids: Sequence[str]) -> list[list[Any]]:
        states = [self._states[id_] for id_ in ids]
        return [
            [None if state.category_id is None else self._categories.keys[state.category_id] for state in states],
            [state.available for state in states],
            [state.title for state in states],
            [orjson.dumps(state.stored_properties).decode() for state in states],
        ]


class Users(Rows):
    table, key, id = "users", "user_key", "user_id"
    load_sql = """
        select user_key, user_id, properties from users where user_id = any($1) order by user_key for update
    """
    write_sql = """
        insert into users (user_key, user_id, properties, first_seen_at, told_at)
        select key, id, properties::jsonb, now(), now()
        from unnest($1::int[], $2::text[], $3::text[]) as posted (key, id, properties)
        on conflict (user_key) do update set properties = excluded.properties, told_at = excluded.told_at
    """

    def __init__(self) -> None:
        super().__init__()
        self._properties: dict[str, Properties] = {}

    async def load(self, connection: asyncpg.Connection, ids: set[str]) -> None:
        digests = {digest_of(id_): id_ for id_ in ids}
        rows = await connection.fetch("select digest from erased_users where digest = any($1)", list(digests))
        self._gone = {digests[row["digest"]] for row in rows}
        await super().load(connection, ids)

    def _remember(self, row: asyncpg.Record) -> None:
        self._properties[row["user_id"]] = orjson.loads(row["properties"])

    def _change(self, id_: str, fields: dict[str, Any], is_new: bool) -> bool:
        former = self._properties.get(id_, {})
        after = updated_properties(former, fields.get("properties") or {})
        self._properties[id_] = after
        return is_new or after != former

    def _columns(self, ids: Sequence[str]) -> list[list[Any]]:
        return [[orjson.dumps(self._properties[id_]).decode() for id_ in ids]]

    def _refusal(self, id_: str) -> str:
        return f"user {id_!r} was erased, and an erased id is not used again; take a new one"
