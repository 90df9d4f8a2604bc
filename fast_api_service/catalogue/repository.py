"""The catalogue in Postgres, written and read by the API.

New ids get the next free key under the same lock as the nightly preparation's. A row that is written here carries
`told_at`: the preparation leaves it alone from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import asyncpg
import orjson

from fast_api_service.catalogue.objects import Categories, Items, Rows, Users
from fast_api_service.errors import ApiError
from fast_api_service.postgres import write_pool
from fast_api_service.postgres.write_pool import Writable
from recsys.errors import InputError
from recsys.serving.catalogue_changes import ItemState
from recsys.serving.ids import ExternalId, JsonType, stored_id, to_external
from recsys.storage import locks

Entity = Literal["item", "user", "category"]
_ORDER: tuple[Entity, ...] = ("category", "item", "user")  # an item may be of a category that comes with it

_ITEM_SQL = """
select c.category_id, i.available, i.title, i.properties from items i
left join categories c on c.category_key = i.category_key and c.deleted_at is null
where i.item_id = $1 and i.deleted_at is null
"""
_USER_SQL = "select properties from users where user_id = $1"
_CATEGORY_SQL = """
select p.category_id as parent_id from categories c
left join categories p on p.category_key = c.parent_category_key and p.deleted_at is null
where c.category_id = $1 and c.deleted_at is null
"""
_DELETE_ITEM_SQL = """
update items set available = false, deleted_at = now(), told_at = now()
where item_id = $1 and deleted_at is null returning item_key
"""
_CATEGORY_USE_SQL = """
select (select count(*) from items i where i.category_key = c.category_key and i.deleted_at is null) as n_items,
       (select count(*) from categories b where b.parent_category_key = c.category_key and b.deleted_at is null)
           as n_categories
from categories c where c.category_id = $1 and c.deleted_at is null
"""
_DELETE_CATEGORY_SQL = "update categories set deleted_at = now(), told_at = now() where category_id = $1"


class Change(NamedTuple):
    """One object as a client posted it: its id, and the fields that were given."""

    entity: Entity
    id: ExternalId
    fields: dict[str, Any]


@dataclass
class Outcome:
    """What became of one object: a result ("created", "updated", "unchanged") or the reason why it was rejected."""

    entity: Entity
    id: ExternalId
    result: str = ""
    reason: str = ""


class CatalogueStore:
    """Every call is one transaction. All raise ApiError 503 as Writable.transaction does."""

    def __init__(self, connections: Writable, lookups: Writable | None = None) -> None:
        """`lookups`: connections that only read; the same where there are no others."""
        self._connections, self._lookups = connections, lookups or connections

    async def put(self, changes: Sequence[Change]) -> list[Outcome]:
        """Store objects; the outcome of each, in order. Categories come first, then items, then users."""
        return await self._connections.transaction(lambda connection: _put(connection, changes))

    async def item(self, item_id: ExternalId) -> dict[str, Any] | None:
        """An item as it is told to clients; None where there is none. InputError for an id of the wrong type."""

        async def read(connection: asyncpg.Connection) -> dict[str, Any] | None:
            types = await write_pool.id_types(connection)
            id_ = to_external(item_id, types["item"], "item")
            row = await connection.fetchrow(_ITEM_SQL, str(id_))
            if row is None:
                return None
            return item_object(id_, row, types)

        return await self._lookups.transaction(read)

    async def user(self, user_id: ExternalId) -> dict[str, Any] | None:
        """A user as clients are shown them; None where there is none. InputError for an id of the wrong type."""

        async def read(connection: asyncpg.Connection) -> dict[str, Any] | None:
            types = await write_pool.id_types(connection)
            id_ = to_external(user_id, types["user"], "user")
            properties = await connection.fetchval(_USER_SQL, str(id_))
            return None if properties is None else {"user_id": id_, "properties": _json(properties)}

        return await self._lookups.transaction(read)

    async def category(self, category_id: ExternalId) -> dict[str, Any] | None:
        """A category as it is told to clients; None where there is none. InputError for an id of the wrong type."""

        async def read(connection: asyncpg.Connection) -> dict[str, Any] | None:
            json_type = (await write_pool.id_types(connection))["category"]
            id_ = to_external(category_id, json_type, "category")
            row = await connection.fetchrow(_CATEGORY_SQL, str(id_))
            if row is None:
                return None
            return {"category_id": id_, "parent_id": stored_id(row["parent_id"], json_type)}

        return await self._lookups.transaction(read)

    async def delete(self, entity: Entity, id_: ExternalId) -> tuple[ExternalId, bool]:
        """Take an item or an empty category away for ever; its id, and whether there was one.

        Raises InputError for an id of the wrong type, ApiError 409 for a category that holds something.
        """

        async def work(connection: asyncpg.Connection) -> tuple[ExternalId, bool]:
            own = to_external(id_, (await write_pool.id_types(connection))[entity], entity)
            await write_pool.lock(connection, locks.CATALOGUE)
            return own, await delete_one(connection, entity, own)

        return await self._connections.transaction(work)


def item_object(id_: ExternalId, row: asyncpg.Record, types: dict[str, JsonType]) -> dict[str, Any]:
    """A row of an item as it is told to clients."""
    state = ItemState.stored(row["category_id"], row["available"], row["title"], _json(row["properties"]))
    category = state.category_id
    return {
        "item_id": id_,
        "category_id": stored_id(category, types["category"]),
        "available": state.available,
        "title": state.title,
        "price": state.price,
        "properties": dict(state.properties),
    }


async def delete_one(connection: asyncpg.Connection, entity: Entity, id_: ExternalId) -> bool:
    """Delete an item or a category under the lock of the catalogue; whether there was one. ApiError 409."""
    if entity == "item":
        return await connection.fetchval(_DELETE_ITEM_SQL, str(id_)) is not None
    use = await connection.fetchrow(_CATEGORY_USE_SQL, str(id_))
    if use is None:
        return False
    if use["n_items"] or use["n_categories"]:
        contents = f"{use['n_items']} items and {use['n_categories']} categories"
        raise ApiError(409, "category_in_use", f"category {id_!r} holds {contents}; move or delete them first")
    await connection.execute(_DELETE_CATEGORY_SQL, str(id_))
    return True


async def _put(connection: asyncpg.Connection, changes: Sequence[Change]) -> list[Outcome]:
    types = await write_pool.id_types(connection)
    categories = Categories(types["category"])
    rows: dict[Entity, Rows] = {"category": categories, "item": Items(categories), "user": Users()}
    outcomes = [Outcome(one.entity, one.id) for one in changes]
    wanted: dict[Entity, set[str]] = {entity: set() for entity in _ORDER}
    for one, outcome in zip(changes, outcomes, strict=True):
        try:
            outcome.id = to_external(one.id, types[one.entity], one.entity)
            wanted[one.entity].add(str(outcome.id))
        except InputError as error:
            outcome.reason = str(error)
    if any([await rows[entity].lacks(connection, ids) for entity, ids in wanted.items() if ids]):
        await write_pool.lock(connection, locks.KEYS)
    await write_pool.lock(connection, locks.CATALOGUE)
    named = [str(one.fields["category_id"]) for one in changes if one.fields.get("category_id") is not None]
    await categories.look_up(connection, None if wanted["category"] else named)
    for entity in _ORDER:
        if wanted[entity]:
            await rows[entity].load(connection, wanted[entity])
        for one, outcome in zip(changes, outcomes, strict=True):
            if one.entity == entity and not outcome.reason:
                try:
                    outcome.result = rows[entity].take(str(outcome.id), one.fields)
                except InputError as error:
                    outcome.reason = str(error)
    for entity in _ORDER:
        await rows[entity].write(connection)
    return outcomes


def _json(text: str) -> dict[str, Any]:
    value: dict[str, Any] = orjson.loads(text)
    return value
