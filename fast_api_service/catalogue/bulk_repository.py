"""The catalogue, many objects at a time: read page by page in the order of their keys, and deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg
import orjson

from fast_api_service.catalogue.repository import Entity, delete_one, item_object
from fast_api_service.errors import ApiError
from fast_api_service.postgres import write_pool
from fast_api_service.postgres.write_pool import Writable
from fast_api_service.runtime import unreadable_rows
from recsys.errors import InputError
from recsys.serving.ids import ExternalId, JsonType, stored_id, to_external
from recsys.storage import locks

_ITEMS_SQL = """
select i.item_key as key, i.item_id as id, c.category_id, i.available, i.title, i.properties from items i
left join categories c on c.category_key = i.category_key and c.deleted_at is null
where i.deleted_at is null and i.item_key > $1 order by i.item_key limit $2
"""
_USERS_SQL = """
select user_key as key, user_id as id, properties from users
where user_id is not null and user_key > $1 order by user_key limit $2
"""
_CATEGORIES_SQL = """
select c.category_key as key, c.category_id as id, p.category_id as parent_id from categories c
left join categories p on p.category_key = c.parent_category_key and p.deleted_at is null
where c.deleted_at is null and c.category_key > $1 order by c.category_key limit $2
"""
_PAGE_SQL: dict[Entity, str] = {"item": _ITEMS_SQL, "user": _USERS_SQL, "category": _CATEGORIES_SQL}
_KEY_SQL: dict[Entity, str] = {
    "item": "select item_key from items where item_id = $1",
    "user": "select user_key from users where user_id = $1",
    "category": "select category_key from categories where category_id = $1",
}


class Page(NamedTuple):
    """Some objects as they are told to clients, and the id after which the next ones come; None at the end."""

    objects: list[dict[str, Any]]
    next: ExternalId | None
    unreadable: list[int]  # keys of rows that were passed over, as their ids are none


async def page(connections: Writable, entity: Entity, after: ExternalId | None, limit: int) -> Page:
    """The next `limit` objects after the one with the id `after`, the first ones where it is None.

    Raises InputError for an id that is not known, ApiError 503 as Writable.transaction does.
    """

    async def read(connection: asyncpg.Connection) -> Page:
        types = await write_pool.id_types(connection)
        key: int | None = -1
        if after is not None:
            key = await connection.fetchval(_KEY_SQL[entity], str(to_external(after, types[entity], entity)))
            if key is None:
                raise InputError(f"after: there is no {entity} {after!r}; begin again without it")
        objects: list[dict[str, Any]] = []
        passed_over: list[int] = []
        while len(objects) <= limit:
            rows = await connection.fetch(_PAGE_SQL[entity], key, limit + 1)
            for row in rows:
                id_ = stored_id(row["id"], types[entity])
                if id_ is None:
                    passed_over.append(row["key"])
                else:
                    objects.append(_as_object(entity, id_, row, types))
            if len(rows) <= limit:
                break
            key = rows[-1]["key"]
        unreadable_rows.log_once(entity, passed_over)
        is_more = len(objects) > limit
        return Page(objects[:limit], objects[limit - 1][f"{entity}_id"] if is_more else None, passed_over)

    return await connections.transaction(read)


def _as_object(entity: Entity, id_: ExternalId, row: asyncpg.Record, types: dict[str, JsonType]) -> dict[str, Any]:
    if entity == "category":
        return {"category_id": id_, "parent_id": stored_id(row["parent_id"], types[entity])}
    if entity == "user":
        return {"user_id": id_, "properties": orjson.loads(row["properties"])}
    return item_object(id_, row, types)


class Gone(NamedTuple):
    """What became of objects that were to be deleted; `rejected`: the place and the reason of each."""

    deleted: list[ExternalId]
    absent: list[ExternalId]
    rejected: list[dict[str, Any]]


async def delete(connections: Writable, entity: Entity, ids: Sequence[ExternalId]) -> Gone:
    """Take items or categories away for ever, in one transaction and in the order that is given, so that a category
    can follow those below it. ApiError 503 as Writable.transaction does."""

    async def work(connection: asyncpg.Connection) -> Gone:
        json_type = (await write_pool.id_types(connection))[entity]
        await write_pool.lock(connection, locks.CATALOGUE)
        gone = Gone([], [], [])
        for index, given in enumerate(ids):
            try:
                id_ = to_external(given, json_type, entity)
                was_there = await delete_one(connection, entity, id_)
            except InputError as error:
                gone.rejected.append({"index": index, "reason": str(error)})
            except ApiError as error:  # a category in use
                gone.rejected.append({"index": index, "reason": error.error})
            else:
                (gone.deleted if was_there else gone.absent).append(id_)
        return gone

    return await connections.transaction(work)
