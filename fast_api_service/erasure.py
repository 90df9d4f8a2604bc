"""DELETE /users/{user_id}: a user is erased everywhere in Postgres, in one transaction."""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

import asyncpg
import numpy as np
import orjson

from fast_api_service import writable
from fast_api_service.writable import Writable
from recsys.serving.ids import ExternalId, digest_of, to_external
from recsys.storage import list_checks, locks
from recsys.types import Lists

_LONG = "set local statement_timeout = '5min'"  # the raw tables have no index

# Guests' events of a session that the user had are his as well.
_SESSIONS_SQL = """
select session_id from events where user_id = $1 and session_id is not null
union select session_id from predictions where user_id = $1 and session_id is not null
"""
_SHOWN_SQL = "delete from predictions where user_id = $1 or (user_id is null and session_id = any($2))"
# place → statement; $1 is the id, $2 the sessions of the user where it is used
_REMOVALS = {
    "raw_events": "delete from raw.events where visitorid = $1",
    "raw_user_properties": "delete from raw.user_properties where visitorid = $1",
    "events": "delete from events where user_id = $1 or (user_id is null and session_id = any($2))",
    "event_quarantine": "delete from event_quarantine where user_id = $1 or payload ->> 'user_id' = $1",
    "user_recent": """
        delete from user_recent where owner = 'user:' || $1
        or owner in (select 'session:' || session_id from unnest($2::text[]) as of_user (session_id))
    """,
}
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
    """Remove a user, known or not, and remember the SHA-256 of the id.

    Raises InputError for an id of the wrong type, ApiError 503 as Writable.transaction does: also while the nightly
    preparation runs, because it would bring back what it has read before.
    """

    async def work(connection: asyncpg.Connection) -> Erased:
        id_ = to_external(user_id, (await writable.id_types(connection))["user"], "user")
        await writable.lock(connection, locks.KEYS)
        await connection.execute(_LONG)
        sessions = [row["session_id"] for row in await connection.fetch(_SESSIONS_SQL, str(id_))]
        removed = await _remove(connection, str(id_), sessions)
        await writable.lock(connection, locks.CATALOGUE)
        key = await connection.fetchval("select user_key from users where user_id = $1 for update", str(id_))
        removed |= {"users": 0 if key is None else 1, "lists": 0}
        if key is not None:
            removed["lists"] = await _remove_lists(connection, key)
            await connection.execute(_USER_SQL, key)
        # from here to the end nobody writes what was shown, and afterwards the user is known to be erased
        await writable.lock(connection, locks.EXPOSURES)
        removed["predictions"] = _n(await connection.execute(_SHOWN_SQL, str(id_), sessions))
        erased_at = await connection.fetchval(_TOMBSTONE_SQL, digest_of(str(id_)))
        return Erased(id_, erased_at, removed)

    return await connections.transaction(work)


async def _remove(connection: asyncpg.Connection, user_id: str, sessions: list[str]) -> dict[str, int]:
    removed = {}
    for place, sql in _REMOVALS.items():
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
