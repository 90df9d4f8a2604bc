"""DELETE /users/{user_id}: a user is erased everywhere in Postgres, the only place that knows ids.

First the tombstone, in a transaction of its own: whoever writes from then on leaves the user out. Then those are waited
for who began before and may not have seen it. Only then everything goes, in one transaction, so that nothing can come
after it. An erasure that breaks off is sent again, and goes on from where it was.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import asyncpg
import numpy as np
import orjson

from fast_api_service.errors import ApiError
from fast_api_service.postgres import write_pool
from fast_api_service.postgres.write_pool import Writable
from recsys.serving.ids import ExternalId, digest_of, to_external
from recsys.storage import list_checks, locks
from recsys.types import Lists

_LONG_S: Final = 300.0  # the raw tables have no index
_LONG: Final = f"set local statement_timeout = '{_LONG_S:.0f}s'"
_APPENDS_S: Final = 20.0  # more than an append may take
_LOOK_S: Final = 0.02

# Guests' events of a session that the user had are theirs as well. What happened there before the erasure is not taken
# any more (postgres_log); what a guest does there later is a guest's, and nothing leads from it to the user.
_SESSIONS_SQL = """
select session_id from events where user_id = $1 and session_id is not null
union select session_id from predictions where user_id = $1 and session_id is not null
"""
_SESSION_TOMBSTONES_SQL = """
insert into erased_sessions (digest) select sha256(convert_to(session_id, 'UTF8')) from unnest($1::text[]) session_id
on conflict (digest) do update set erased_at = excluded.erased_at
"""
# Transactions that have entered the log to write, see postgres_log: what they add may be of a user whose tombstone they
# have not seen. One that enters later takes its look at the tombstones afterwards.
_APPENDING_SQL = """
select virtualtransaction from pg_locks
where locktype = 'relation' and relation = 'events'::regclass and mode = 'RowExclusiveLock' and granted
  and database = (select oid from pg_database where datname = current_database())
"""
# place → statement, in their order; $1 is the id, $2 the sessions of the user where it is used. Readers of the log wait
# for a transaction that has entered it to write, so the log comes last.
_RAW = {
    "raw_events": "delete from raw.events where visitorid = $1",
    "raw_user_properties": "delete from raw.user_properties where visitorid = $1",
}
_SERVED = {
    "event_quarantine": """
        delete from event_quarantine where user_id = $1 or payload ->> 'user_id' = $1
        or (user_id is null and payload ->> 'session_id' = any($2))
    """,
    "predictions": "delete from predictions where user_id = $1 or (user_id is null and session_id = any($2))",
    "user_recent": """
        delete from user_recent where owner = 'user:' || $1
        or owner in (select 'session:' || session_id from unnest($2::text[]) as of_user (session_id))
    """,
    "events": "delete from events where user_id = $1 or (user_id is null and session_id = any($2))",
}
# Whoever attaches a new version leaves out users who are erased by then, see recsys.storage.lists.
_NO_NEW_LISTS: Final = "lock table lists in share update exclusive mode"
_LISTS_SQL = """
delete from lists where owner_key = $1
and list_version_id = any(select list_version_id from list_versions where kind in ('personal', 'ranked', 'history'))
returning list_version_id, item_keys, scores, sources
"""
_CHECKS_SQL = "select checks from list_versions where list_version_id = $1 for update"
_COUNT_SQL = "update list_versions set n_rows = n_rows - 1, checks = $2 where list_version_id = $1"
# The row stays, without anything that was known, so that its key is never given again.
_USER_SQL = """
update users set user_id = null, properties = '{}', first_seen_at = null, told_at = now() where user_key = $1
"""
_TOMBSTONE_SQL = """
insert into erased_users (digest) values ($1) on conflict (digest) do update set digest = excluded.digest
returning erased_at
"""


class Erased(NamedTuple):
    """What an erasure did: the id, when the user was erased first, and rows removed by place."""

    user_id: ExternalId
    erased_at: dt.datetime
    removed: dict[str, int]


async def erase(connections: Writable, user_id: ExternalId) -> Erased:
    """Remove a user, known or not, and remember the SHA-256 of the id and of the user's sessions.

    Raises InputError for an id of the wrong type, ApiError 503 as Writable.transaction does: also while new keys are
    given, or an append takes long. Then the same is to be sent again.
    """

    async def mark_erased(connection: asyncpg.Connection) -> tuple[ExternalId, dt.datetime]:
        id_ = to_external(user_id, (await write_pool.id_types(connection))["user"], "user")
        return id_, await connection.fetchval(_TOMBSTONE_SQL, digest_of(str(id_)))

    async def wait_for_others(connection: asyncpg.Connection) -> list[str]:
        await _appends_end(connection)
        # while it is held nobody writes what was shown; who does later knows user and sessions to be erased
        await write_pool.lock(connection, locks.EXPOSURES)
        sessions = [row["session_id"] for row in await connection.fetch(_SESSIONS_SQL, str(id_))]
        await connection.execute(_SESSION_TOMBSTONES_SQL, sessions)
        return sessions

    async def remove(connection: asyncpg.Connection) -> dict[str, int]:
        await write_pool.lock(connection, locks.KEYS)
        await connection.execute(_LONG)
        removed = await _remove(connection, _RAW, str(id_), sessions)
        await write_pool.lock(connection, locks.CATALOGUE)
        await connection.execute(_NO_NEW_LISTS)
        key = await connection.fetchval("select user_key from users where user_id = $1 for update", str(id_))
        removed |= {"users": 0 if key is None else 1, "lists": 0}
        if key is not None:
            removed["lists"] = await _remove_lists(connection, key)
            await connection.execute(_USER_SQL, key)
        return removed | await _remove(connection, _SERVED, str(id_), sessions)

    id_, erased_at = await connections.transaction(mark_erased)
    try:
        sessions = await connections.transaction(wait_for_others, _APPENDS_S + 5)
        return Erased(id_, erased_at, await connections.transaction(remove, _LONG_S))
    except ApiError as error:
        text = (
            "nothing new of this user is taken any more, but not everything is removed yet: others are writing, new "
            "keys are being given, or Postgres is away; send the same again until the answer is 200"
        )
        raise ApiError(error.code, error.status, text, error.retry_after_s) from None


async def _appends_end(connection: asyncpg.Connection) -> None:
    """Wait until all have ended that were appending to the log; nobody is held up. ApiError 503 when one takes long."""
    waiting_for = {row[0] for row in await connection.fetch(_APPENDING_SQL)}
    deadline = time.monotonic() + _APPENDS_S
    while waiting_for:
        if time.monotonic() > deadline:
            raise ApiError(503, "catalogue_busy", "somebody has been writing to the log for long", 5)
        await asyncio.sleep(_LOOK_S)
        waiting_for &= {row[0] for row in await connection.fetch(_APPENDING_SQL)}


async def _remove(
    connection: asyncpg.Connection, places: Mapping[str, str], user_id: str, sessions: list[str]
) -> dict[str, int]:
    removed = {}
    for place, sql in places.items():
        arguments: tuple[Any, ...] = (user_id, sessions) if "$2" in sql else (user_id,)
        removed[place] = _n(await connection.execute(sql, *arguments))
    return removed


def _n(status: str) -> int:
    return int(status.removeprefix("DELETE "))


async def _remove_lists(connection: asyncpg.Connection, user_key: int) -> int:
    """Remove the user's own lists; what was counted of their versions follows, so that they can still be checked."""
    rows = await connection.fetch(_LISTS_SQL, user_key)
    for version, item_keys, scores, sources in rows:
        checks = orjson.loads(await connection.fetchval(_CHECKS_SQL, version))
        one = Lists(
            np.array([user_key], np.int32),
            np.array([item_keys], np.int32),
            np.array([scores], np.float32),
            np.array([sources], np.int16),
        )
        less = list_checks.without(checks, one)
        await connection.execute(_COUNT_SQL, version, orjson.dumps(less).decode())
    return len(rows)
