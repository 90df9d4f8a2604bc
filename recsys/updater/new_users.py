"""Keys for users known from events alone, once they are to get a row in the network; see research/decisions/0014."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from recsys.errors import InputError
from recsys.events.log import Transactions
from recsys.serving.ids import JsonType, digest_of, to_external
from recsys.storage import locks
from recsys.storage.last_keys import LAST_SQL
from recsys.updater.store import hold_lease

_TYPE_SQL: Final = "select json_type from id_types where entity = 'user'"
_LOCK_SQL: Final = "select pg_try_advisory_xact_lock($1)"
# `told_at` stays null: no properties of these users were posted, so that the next data set may set them.
_GIVE_SQL: Final = f"""
insert into users (user_key, user_id)
select {LAST_SQL.format(table="users", key="user_key")} + row_number() over (order by place), user_id
from unnest($1::text[], $2::bytea[]) with ordinality as of_log (user_id, digest, place)
where not exists (select from users u where u.user_id = of_log.user_id)
  and not exists (select from erased_users e where e.digest = of_log.digest)
"""  # noqa: S608 - our own names
_KEYS_SQL: Final = "select user_id, user_key from users where user_id = any($1::text[])"


async def give_keys(transactions: Transactions, fence: int, user_ids: Sequence[str]) -> dict[str, int]:
    """Insert users into the catalogue, in order; their keys by id, including existing ones.

    Left out are erased users, ids that are invalid in this catalogue, and all new users while another process holds
    the lock for keys, which is not waited for. LeaseLostError where `fence` is no longer the newest.
    """
    return await transactions.transaction(lambda connection: _give(connection, fence, user_ids))


async def _give(connection: asyncpg.Connection, fence: int, user_ids: Sequence[str]) -> dict[str, int]:
    json_type = await connection.fetchval(_TYPE_SQL)
    ids = [user_id for user_id in user_ids if json_type and _is_own(user_id, json_type)]
    if ids and await connection.fetchval(_LOCK_SQL, locks.KEYS):
        await connection.execute(_GIVE_SQL, ids, [digest_of(user_id) for user_id in ids])
        await hold_lease(connection, fence)  # last: the replacement of the catalogue locks in the same order
    return dict(tuple(row) for row in await connection.fetch(_KEYS_SQL, ids))


def _is_own(user_id: str, json_type: JsonType) -> bool:
    try:
        return str(to_external(user_id, json_type, "user")) == user_id
    except InputError:
        return False
