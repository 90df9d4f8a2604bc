"""The event log in Postgres: one transaction a batch, acknowledged when it is committed.

A batch leaves the same tables whatever came before, after or twice: events are rows by `event_id`, and what users did
of late is computed anew from them for everybody in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson

from recsys.online.event import Event
from recsys.serving.ids import digest_of
from recsys.serving.recent import DEFAULT_BOUGHT

N_RECENT: Final = 50  # events kept in user_recent
N_BOUGHT: Final = 1_000  # items by type of event that are kept beside those because they were bought

# Owners in one order, so that two batches cannot wait for each other; the rows are locked until the end.
_LOCK_SQL = """
insert into user_recent (owner, item_keys, event_types, occurred_ms)
select owner, '{}', '{}', '{}' from unnest($1::text[]) owner order by owner
on conflict (owner) do update set updated_at = now()
"""
_INSERT_SQL = """
insert into events (event_id, user_id, session_id, item_id, event_type, occurred_at, label, parameters, features,
                    version, digest)
select event_id, user_id, session_id, item_id, event_type, occurred_at, label, parameters::jsonb, features::jsonb,
       version, digest
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::real[], $8::text[],
            $9::text[], $10::text[], $11::bytea[], $12::text[])
     with ordinality as t (event_id, user_id, session_id, item_id, event_type, occurred_at, label, parameters,
                           features, version, digest, retry_of, place)
where not exists (select from events e where e.event_id = t.retry_of)
order by place
on conflict (event_id) do nothing
returning event_id, position
"""
_ERASED_SQL = "select digest from erased_users where digest = any($1::bytea[])"
_FOUND_SQL = "select event_id, digest from events where event_id = any($1::text[])"
_QUARANTINE_SQL = """
insert into event_quarantine (event_id, user_id, reason, payload)
select event_id, user_id, 'conflict: the same event_id came before with another payload', payload::jsonb
from unnest($1::text[], $2::text[], $3::text[]) t (event_id, user_id, payload)
"""
# What counts as bought, by the data's source and by the configuration in force. Views are kept no longer than others.
_BOUGHT_SQL = """
    select unnest(coalesce((
        select bought_event_types from raw.imports where status = 'complete' order by import_id desc limit 1
    ), $3::text[]))
    union
    select jsonb_path_query(config, '$.bought[*].event_type') #>> '{}'
    from (select config from config_versions order by config_id desc limit 1) newest
"""
_RECENT_SQL = """
insert into user_recent (owner, item_keys, event_types, occurred_ms)
select o.owner, coalesce(array_agg(e.item_key order by e.place) filter (where e.place is not null), '{{}}'),
       coalesce(array_agg(e.event_type order by e.place) filter (where e.place is not null), '{{}}'),
       coalesce(array_agg(e.ms order by e.place) filter (where e.place is not null), '{{}}')
from unnest($1::text[], $2::text[]) o (owner, id)
left join lateral (
    select item_key, event_type, (extract(epoch from occurred_at) * 1000)::bigint as ms,
           row_number() over (order by occurred_at desc, event_id) as place
    from (
        (
            select i.item_key, e.event_type, e.occurred_at, e.event_id
            from events e join items i on i.item_id = e.item_id
            where e.{column} = o.id order by e.occurred_at desc, e.event_id limit {n_recent}
        ) union (
            select * from (
                select distinct on (i.item_key, e.event_type) i.item_key, e.event_type, e.occurred_at, e.event_id
                from events e join items i on i.item_id = e.item_id
                where e.{column} = o.id and e.event_type = any(array({bought})) and e.event_type <> 'view'
                order by i.item_key, e.event_type, e.occurred_at desc, e.event_id
            ) bought order by occurred_at desc, event_id limit {n_bought}
        )
    ) kept
) e on true
group by o.owner
on conflict (owner) do update
set item_keys = excluded.item_keys, event_types = excluded.event_types, occurred_ms = excluded.occurred_ms,
    updated_at = now()
"""
_RECENT_BY_COLUMN = {
    column: _RECENT_SQL.format(column=column, n_recent=N_RECENT, n_bought=N_BOUGHT, bought=_BOUGHT_SQL)
    for column in ("user_id", "session_id")
}
_EVENTS_SQL = """
select e.event_id, e.item_id, e.event_type, e.occurred_at, e.session_id, e.label, e.parameters
from events e where e.user_id = $1 order by e.occurred_at desc, e.event_id limit $2
"""


@dataclass(frozen=True)
class Appended:
    """What became of a batch, by position in it. Everything in it is in the log, now or since before."""

    accepted: list[int]
    duplicates: list[int]
    conflicts: list[int]  # the id is in the log with another payload: the first stays, this one is in quarantine
    position: int | None  # the greatest one that this batch was given


async def append(connection: asyncpg.Connection, events: Sequence[Event]) -> Appended:
    """Write a batch within the caller's transaction, at its end or alone; asyncpg's errors pass through."""
    owners = sorted({owner for event in events for owner in owners_of(event)})
    await connection.execute(_LOCK_SQL, owners)
    rows = await connection.fetch(_INSERT_SQL, *_columns(events))
    position_by_id = {row["event_id"]: row["position"] for row in rows}
    accepted, duplicates, conflicts = await _sort_out(connection, events, set(position_by_id))
    if conflicts:
        await connection.execute(_QUARANTINE_SQL, *_quarantined([events[place] for place in conflicts]))
    await _refresh_recent(connection, [events[place] for place in accepted])
    return Appended(accepted, duplicates, conflicts, max(position_by_id.values(), default=None))


async def latest(connection: asyncpg.Connection, user_id: str, n: int) -> list[dict[str, Any]]:
    """The newest `n` events of a user, newest first; parameters as JSON text."""
    return [dict(row) for row in await connection.fetch(_EVENTS_SQL, user_id, n)]


async def erased(connection: asyncpg.Connection, events: Sequence[Event]) -> set[str]:
    """Those users of a batch who were erased: their events are not taken any more."""
    user_by_digest = {digest_of(event.user_id): event.user_id for event in events if event.user_id is not None}
    rows = await connection.fetch(_ERASED_SQL, list(user_by_digest))
    return {user_by_digest[row["digest"]] for row in rows}


def owners_of(event: Event) -> list[str]:
    """Owners in user_recent: the user, and the session, which may be a guest's."""
    user = [] if event.user_id is None else [user_owner(event.user_id)]
    return user + ([] if event.session_id is None else [session_owner(event.session_id)])


def user_owner(user_id: str) -> str:
    return f"user:{user_id}"


def session_owner(session_id: str) -> str:
    return f"session:{session_id}"


def _columns(events: Sequence[Event]) -> list[list[Any]]:
    names = ("event_id", "user_id", "session_id", "item_id", "event_type", "occurred_at", "label")
    return [
        *([getattr(event, name) for event in events] for name in names),
        [event.parameters.decode() for event in events],
        [event.features.decode() for event in events],
        *([getattr(event, name) for event in events] for name in ("version", "digest", "retry_of")),
    ]


async def _sort_out(
    connection: asyncpg.Connection, events: Sequence[Event], inserted: set[str]
) -> tuple[list[int], list[int], list[int]]:
    accepted: list[int] = []
    others: list[int] = []
    for place, event in enumerate(events):
        if event.event_id in inserted:
            inserted.remove(event.event_id)  # a second one of the same batch is none
            accepted.append(place)
        else:
            others.append(place)
    ids = [name for place in others for name in (events[place].event_id, events[place].retry_of) if name]
    found = {row["event_id"]: row["digest"] for row in await connection.fetch(_FOUND_SQL, ids)} if ids else {}
    duplicates: list[int] = []
    conflicts: list[int] = []
    for place in others:
        event = events[place]
        same = event.retry_of in found or found.get(event.event_id) == event.digest
        (duplicates if same else conflicts).append(place)
    return accepted, duplicates, conflicts


def _quarantined(events: Sequence[Event]) -> tuple[list[str], list[str | None], list[str]]:
    payloads = [
        orjson.dumps(
            {
                "session_id": event.session_id,
                "item_id": event.item_id,
                "event_type": event.event_type,
                "timestamp": event.occurred_at,
                "label": event.label,
                "parameters": orjson.Fragment(event.parameters),
                "features": orjson.Fragment(event.features),
                "version": event.version,
            }
        ).decode()
        for event in events
    ]
    return [event.event_id for event in events], [event.user_id for event in events], payloads


async def _refresh_recent(connection: asyncpg.Connection, accepted: Sequence[Event]) -> None:
    users = sorted({event.user_id for event in accepted if event.user_id is not None})
    sessions = sorted({event.session_id for event in accepted if event.session_id is not None})
    if users:
        owners = [user_owner(user) for user in users]
        await connection.execute(_RECENT_BY_COLUMN["user_id"], owners, users, DEFAULT_BOUGHT)
    if sessions:
        owners = [session_owner(session) for session in sessions]
        await connection.execute(_RECENT_BY_COLUMN["session_id"], owners, sessions, DEFAULT_BOUGHT)
