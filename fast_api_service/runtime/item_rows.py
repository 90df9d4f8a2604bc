"""Reads items from Postgres: the whole catalogue, and changes."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import asyncpg
import orjson

from fast_api_service.runtime import unreadable_rows
from recsys.errors import InputError
from recsys.serving.catalogue import ItemDictionary
from recsys.serving.ids import JsonType
from recsys.serving.item_numbers import MAX_NAMES, NUMBER, PRICE, ItemNumbers, number, numbers_in

ROWS_A_TIME = 250  # requests are answered between two portions of a large catalogue
# The price first, then the properties that are numbers for the most items, over all items: a property that gets a
# column later is then one that no other item has.
_NAMES_SQL = f"""
select p.key from items i, jsonb_each_text(i.properties) p
where i.deleted_at is null and p.value ~ '^{NUMBER}$'
group by p.key order by p.key <> '{PRICE}', count(*) desc, p.key limit {MAX_NAMES}
"""  # noqa: S608 - our own words
CHANGED_SQL = """
select item_key, item_id, category_key, available, deleted_at is not null as deleted, properties::text as properties
from items where {is_new}
"""


class ItemChange(NamedTuple):
    """The current row of an item."""

    item_key: int
    item_id: str
    category_key: int | None
    available: bool
    deleted: bool
    properties: str  # JSON


async def load(connection: asyncpg.pool.PoolConnectionProxy, json_type: JsonType) -> ItemDictionary:
    """All items that are not deleted, with their numeric properties."""
    names = [row[0] for row in await connection.fetch(_NAMES_SQL)]
    items = ItemDictionary(json_type, ItemNumbers(names))
    values = ", ".join(f"properties ->> ${n}" for n in range(1, len(names) + 1))
    cursor = await connection.cursor(
        f"select item_key, item_id, category_key, available, array[{values}]::text[] from items"  # noqa: S608
        " where deleted_at is null order by item_key",
        *names,
    )
    while portion := await cursor.fetch(ROWS_A_TIME):
        for key, id_, category_key, available, texts in portion:
            with suppress(InputError):  # an invalid row, written by hand: skip it
                items.add(key, id_, category_key, available, _numbers(names, texts))
    unreadable_rows.log_once("item", items.unreadable)
    return items


def apply(change: ItemChange, items: ItemDictionary) -> None:
    """Update an item from its row."""
    if change.deleted:
        items.remove(change.item_key)
        return
    numbers = numbers_in(orjson.loads(change.properties)) if change.properties != "{}" else {}
    try:
        items.add(change.item_key, change.item_id, change.category_key, change.available, numbers)
    except InputError:
        unreadable_rows.log_once("item", [change.item_key])


def _numbers(names: list[str], texts: list[str | None]) -> dict[str, float]:
    found = ((name, number(text)) for name, text in zip(names, texts, strict=True) if text is not None)
    return {name: value for name, value in found if value is not None}
