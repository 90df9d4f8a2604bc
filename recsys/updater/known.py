"""Resolves the ids of events to the keys of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from recsys.events.event import Event
from recsys.events.log import Transactions
from recsys.updater.examples import Known

_ITEMS_SQL: Final = """
select i.item_id, i.item_key, coalesce(i.category_key, -1) as category_key,
       coalesce(c.parent_category_key, -1) as parent_category_key
from items i left join categories c using (category_key) where i.item_id = any($1::text[]) and i.deleted_at is null
"""
_USERS_SQL: Final = "select user_id, user_key from users where user_id = any($1::text[])"


async def known(transactions: Transactions, events: Sequence[Event]) -> list[Known]:
    """The events whose item is in the catalogue, in order; the others are dropped. Users may have no key."""

    async def look_up(connection: asyncpg.Connection) -> tuple[list[asyncpg.Record], list[asyncpg.Record]]:
        items = await connection.fetch(_ITEMS_SQL, list({event.item_id for event in events}))
        return items, await connection.fetch(_USERS_SQL, list({event.user_id for event in events if event.user_id}))

    items, users = await transactions.transaction(look_up)
    item_by_id = {row["item_id"]: tuple(row)[1:] for row in items}
    user_by_id = dict(tuple(row) for row in users)
    return [
        Known(event, user_by_id.get(event.user_id), *item_by_id[event.item_id])
        for event in events
        if event.item_id in item_by_id
    ]
