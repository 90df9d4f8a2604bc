"""The catalogue in a worker's memory, and its incremental update from Postgres: one transaction per poll."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from asyncpg.pool import PoolConnectionProxy as Connection

from fast_api_service.runtime import item_rows, unreadable_rows
from fast_api_service.runtime.item_rows import ItemChange
from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.ids import JsonType

_KEYS_A_TIME: Final = 10_000
_KEYS_SQL: Final = f"""
select string_agg(int4send(item_key), '' order by item_key) from (
    select item_key from items where item_key > $1 and deleted_at is null order by item_key limit {_KEYS_A_TIME}
) block
"""  # noqa: S608 - our own words
_EPOCH: Final = """
    (
        select format('%s:%s:%s:%s', system_identifier, timeline_id, oid, (
            select max(oid) from pg_trigger where tgrelid = to_regclass('items')
        )) from pg_control_system(), pg_control_checkpoint(), pg_database where datname = current_database()
    ) as server,
    coalesce((select emptied from catalogue_epoch), 0) as emptied,
    coalesce((select json_type from id_types where entity = 'user'), 'string') as user_type,
    coalesce((select json_type from id_types where entity = 'item'), 'string') as item_type,
    coalesce((select json_type from id_types where entity = 'category'), 'string') as category_type
"""
# $1 is a transaction snapshot of Postgres: rows changed by transactions not visible in it are new to us. A row changed
# by a transaction id beyond this server's comes from another server, and was read with the full load.
_IS_NEW: Final = """changed_xid >= pg_snapshot_xmin($1::text::pg_snapshot)
                    and changed_xid < pg_snapshot_xmax(pg_current_snapshot())
                    and not pg_visible_in_snapshot(changed_xid, $1::text::pg_snapshot)"""
# `order by … limit 1` makes Postgres use the index.
_PULSE_SQL: Final = f"""
select {_EPOCH}, coalesce((select deleted from catalogue_epoch), 0) as n_deleted,
       pg_current_snapshot()::text as seen,
       pg_snapshot_xmax($1::text::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot()) is true as went_back,
       (select true from items where {_IS_NEW} order by changed_xid limit 1) is not null as items_changed,
       (select true from categories where {_IS_NEW} order by changed_xid limit 1) is not null as categories_changed
"""  # noqa: S608 - our own words
_CHANGED_ITEMS_SQL: Final = item_rows.CHANGED_SQL.format(is_new=_IS_NEW)
_EPOCH_SQL: Final = f"select {_EPOCH}"
_CATEGORIES_SQL: Final = (
    "select category_key, category_id, parent_category_key from categories where deleted_at is null"
)


class Epoch(NamedTuple):
    """Within an epoch, a key always means the same item. Data of different epochs must not be mixed."""

    # Server, timeline and database; and the triggers, which a restore adds last: rows that it loads before are not
    # marked as changed.
    server: str
    emptied: int  # how often the catalogue was truncated
    user_type: JsonType
    item_type: JsonType
    category_type: JsonType


class Pulse(NamedTuple):
    """The version of the catalogue, to detect changes."""

    epoch: Epoch
    n_deleted: int  # how often rows were deleted
    seen: str  # the transaction snapshot
    went_back: bool  # transaction ids went back: the server was restored, or failed over
    items_changed: bool  # since the caller's snapshot
    categories_changed: bool


@dataclass(frozen=True)
class Catalogue:
    """Items change in place, so that changes take effect at once; all else is replaced."""

    epoch: Epoch
    n_deleted: int
    seen: str  # see Pulse
    items: ItemDictionary
    categories: CategoryTree


async def follow(connection: Connection, former: Catalogue | None, pulse: Pulse) -> Catalogue:
    """The catalogue of the caller's transaction, to which `pulse` belongs: `former`, updated in place, or a full load
    where that is of another epoch."""
    if former is None or pulse.epoch != former.epoch or pulse.went_back:
        items = await item_rows.load(connection, pulse.epoch.item_type)
        tree = await _categories(connection, pulse.epoch.category_type)
        return Catalogue(pulse.epoch, pulse.n_deleted, pulse.seen, items, tree)
    deleted = pulse.n_deleted != former.n_deleted
    if deleted:
        await _forget_deleted(connection, former.items)
    if pulse.items_changed:
        await _apply_changes(connection, former)
    tree = former.categories
    if deleted or pulse.categories_changed:
        tree = await _categories(connection, pulse.epoch.category_type)
    return replace(former, n_deleted=pulse.n_deleted, seen=pulse.seen, categories=tree)


async def pulse(connection: Connection, seen: str | None) -> Pulse:
    """The version of the catalogue. `seen`: `Pulse.seen` of the catalogue in memory, None without one."""
    row = await connection.fetchrow(_PULSE_SQL, seen)
    return Pulse(Epoch(*row[:5]), *row[5:])


async def epoch(connection: Connection) -> Epoch:
    """The epoch of the caller's transaction."""
    return Epoch(*await connection.fetchrow(_EPOCH_SQL))


async def _apply_changes(connection: Connection, former: Catalogue) -> None:
    await connection.execute("set local plan_cache_mode = force_custom_plan")  # the number of rows depends on `seen`
    cursor = await connection.cursor(_CHANGED_ITEMS_SQL, former.seen)
    while portion := await cursor.fetch(item_rows.ROWS_A_TIME):
        for row in portion:
            item_rows.apply(ItemChange(*row), former.items)


async def _forget_deleted(connection: Connection, items: ItemDictionary) -> None:
    """Remove items whose rows were deleted."""
    n = max(len(items.id_by_key), max(items.unreadable, default=-1) + 1)
    exists = np.zeros(n, dtype=bool)
    last = -1
    while block := await connection.fetchval(_KEYS_SQL, last):
        keys = np.frombuffer(block, ">i4")
        last = int(keys[-1])
        exists[keys[keys < n]] = True
    gone = np.flatnonzero(~exists).tolist()
    for start in range(0, len(gone), _KEYS_A_TIME):
        for key in gone[start : start + _KEYS_A_TIME]:
            items.remove(key)
        await asyncio.sleep(0)  # requests are answered in between


async def _categories(connection: Connection, json_type: JsonType) -> CategoryTree:
    rows = await connection.fetch(_CATEGORIES_SQL)
    ids = {row["category_key"]: row["category_id"] for row in rows}
    tree = CategoryTree(json_type, ids, {row["category_key"]: row["parent_category_key"] for row in rows})
    unreadable_rows.log_once("category", tree.unreadable)
    return tree
