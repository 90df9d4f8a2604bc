"""Reads items from Postgres: the whole catalogue, and changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import Any, Final, NamedTuple

import asyncpg
import numpy as np
import orjson

from fast_api_service.runtime import unreadable_rows
from recsys.columns import RECOMMENDATION_WEIGHT as WEIGHT
from recsys.errors import InputError
from recsys.serving.catalogue import NO_CATEGORY, ItemDictionary, ItemRows
from recsys.serving.ids import JsonType
from recsys.serving.item_numbers import ALWAYS, MAX_NAMES, MISSING, NUMBER, ItemNumbers, number, numbers_in, numbers_of

ROWS_A_TIME: Final = 250  # changes, between which requests are answered
_VALUES: Final = 24_000  # of items of a full load, likewise: some 5 ms
# The properties of 20,000 items, evenly spread over the keys (of all items, where there are not more), and for how many
# they are numbers; those of ALWAYS first. Looking at all properties of all items would take longer than all else.
_SAMPLE_SQL: Final = f"""
select p.key as name, count(*) as n, count(*) filter (where p.value ~ '^{NUMBER}$') as n_numbers,
       k.step = 1 as is_whole
from (select 1 + max(item_key) / 20000 as step, max(item_key) as last from items) k,
     generate_series(0, k.last, k.step) s join items i on i.item_key = s and i.deleted_at is null,
     jsonb_each_text(i.properties) p
group by p.key, k.step order by p.key not in {ALWAYS}, n_numbers desc, p.key
"""  # noqa: S608 - our own words
_TEXT_OF: Final = 1000  # items of the sample; one that is no number for so many and a number for none is not looked for
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
    """All items that are not deleted, with their numeric properties, a block at a time."""
    sample = await connection.fetch(_SAMPLE_SQL)
    names = [row["name"] for row in sample if row["n_numbers"]][:MAX_NAMES]
    items = ItemDictionary(json_type, ItemNumbers(names))
    others: list[str] | None = None  # properties that are no numbers, where further ones are looked for
    if len(names) < MAX_NAMES and not (sample and sample[0]["is_whole"]):
        others = [row["name"] for row in sample if not row["n_numbers"] and row["n"] >= _TEXT_OF]
    names = [*(name for name in ALWAYS if name not in names), *names]  # rare, and not in the sample
    statement = await connection.prepare(_block_sql(len(names), are_all_known=others is None))
    known = [] if others is None else [names + others]
    block = await statement.fetchrow(-1, *names, *known)
    while block["last"] is not None:  # Postgres reads the next block while this one is taken
        block, _ = await asyncio.gather(statement.fetchrow(block["last"], *names, *known), _take(block, names, items))
    unreadable_rows.log_once("item", items.unreadable)
    return items


def _block_sql(n_names: int, are_all_known: bool) -> str:
    """One row of the columns of the next items after key $1. $2 and so on: names of properties; the last parameter,
    unless all are known: names of those that need not be looked at.

    Numbers are big-endian bytes, texts are separated by NUL, which no text in Postgres has.
    """
    numbers = "".join(
        rf""", string_agg(textsend(coalesce(properties ->> ${n}, '{MISSING}')), '\x00') as number_{n}"""
        for n in range(2, 2 + n_names)
    )
    rest = "'{}'::jsonb" if are_all_known else f"properties - ${2 + n_names}::text[]"
    return rf"""
        select max(item_key) as last, string_agg(int4send(item_key), '') as item_keys,
               string_agg(textsend(item_id), '\x00') as item_ids,
               string_agg(int4send(coalesce(category_key, {NO_CATEGORY})), '') as category_keys,
               string_agg(boolsend(available), '') as available,
               array_agg(item_key) filter (where properties ->> '{WEIGHT}' is not null) as weighted,
               array_agg(item_key) filter (where rest <> '{{}}') as rest_keys,
               array_agg(rest) filter (where rest <> '{{}}') as rests{numbers}
        from (
            select item_key, item_id, category_key, available, properties, {rest} as rest
            from items where item_key > $1 and deleted_at is null order by item_key limit {_VALUES // (3 + n_names)}
        ) block
    """  # noqa: S608 - our own words


async def _take(block: asyncpg.Record, names: list[str], items: ItemDictionary) -> None:
    item_keys = np.frombuffer(block["item_keys"], ">i4").astype(np.int32)
    numbers = {name: numbers_of(block[f"number_{n}"].decode()) for n, name in enumerate(names, 2)}
    for key, rest in zip(block["rest_keys"] or (), block["rests"] or (), strict=True):
        for name, value in numbers_in(_object(rest)).items():
            if name not in numbers:
                numbers[name] = np.full(len(item_keys), np.nan)
            numbers[name][np.searchsorted(item_keys, key)] = value
    rows = ItemRows(
        item_keys,
        block["item_ids"].decode().split("\0"),
        np.frombuffer(block["category_keys"], ">i4").astype(np.int32),
        np.frombuffer(block["available"], np.bool_),
        numbers,
    )
    items.add_all(rows)
    weighted = np.array(block["weighted"] or (), dtype=np.int32)
    is_weight = numbers[WEIGHT][np.searchsorted(item_keys, weighted)] >= 0  # NaN is none
    _note_badly_weighted(items, weighted[~is_weight].tolist())


def apply(change: ItemChange, items: ItemDictionary) -> None:
    """Update an item from its row."""
    if change.deleted:
        items.remove(change.item_key)
        return
    try:
        properties = _object(change.properties) if change.properties != "{}" else {}
        items.add(change.item_key, change.item_id, change.category_key, change.available, numbers_in(properties))
        items.badly_weighted.discard(change.item_key)
        if (weight := properties.get(WEIGHT)) is not None and not _is_weight(weight):
            _note_badly_weighted(items, [change.item_key])
    except InputError:
        unreadable_rows.log_once("item", [change.item_key])


def _is_weight(value: Any) -> bool:
    found = number(value)
    return found is not None and found >= 0


def _note_badly_weighted(items: ItemDictionary, item_keys: Collection[int]) -> None:
    """Such items are not drawn by their weight, and all else goes on."""
    items.badly_weighted.update(key for key in item_keys if items.id_or_none(key) is not None)
    unreadable_rows.log_badly_weighted(item_keys)


def _object(text: str) -> dict[str, Any]:
    """A JSON object from Postgres, whose numbers may have any number of digits; empty where it is nested too deeply."""
    try:
        found: dict[str, Any] = orjson.loads(text)
    except orjson.JSONDecodeError:  # a number beyond the range of a float, or many levels
        try:
            found = json.loads(text, parse_int=float)
        except RecursionError:
            return {}
    return found
