"""The event log in Postgres: one transaction a batch, acknowledged when it is committed.

A batch leaves the same tables whatever came before, after or twice: events are rows by `event_id`, and what users did
of late is computed anew from them for everybody in the batch.

Readers go by (xid, position): the transaction that added a row, and its place within. Rows become visible when their
transaction commits, which may be after that of a greater number; so they are read only up to the oldest transaction
that may still add some. Every appender takes the lock that an INSERT takes on `events` before it gets a number, and
readers find it by that. A plain look at pg_snapshot_xmin would wait for everybody's long transactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import orjson

from recsys.online.event import Event
from recsys.online.log import MAX_LAG, START, Appended, Batch, Offset, Transactions
from recsys.serving.ids import digest_of
from recsys.serving.recent import DEFAULT_BOUGHT

N_RECENT: Final = 50  # events kept in user_recent
N_BOUGHT: Final = 1_000  # items by type of event that are kept beside those because they were bought

# Deletes nothing, but takes the lock on `events` that an INSERT takes, and gets no transaction number yet. Plans that
# are made while the tables are small, and kept, must not go through all of them later.
_ENTER_SQL = """
with entered as (delete from events where false)
select digest from (select set_config('enable_seqscan', 'off', true) offset 0) setting
left join erased_users on digest = any($1::bytea[])
"""
# Owners in one order, so that two batches cannot wait for each other; the rows, also those that are not updated, are
# locked until the end.
_LOCK_SQL = """
insert into user_recent (owner, item_keys, event_types, occurred_ms)
select owner, '{}', '{}', '{}' from unnest($1::text[]) owner order by owner
on conflict (owner) do update set updated_at = now() where false
"""
_INSERT_SQL = """
insert into events (event_id, user_id, session_id, item_id, event_type, occurred_at, label, parameters, features,
                    version, digest, kafka_partition, kafka_offset)
select event_id, user_id, session_id, item_id, event_type, occurred_at, label, parameters::jsonb, features::jsonb,
       version, digest, kafka_partition, kafka_offset
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
            $9::real[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::integer[], $15::bigint[])
     with ordinality as t (event_id, retry_of, retried_as, user_id, session_id, item_id, event_type, occurred_at, label,
                           parameters, features, version, digest, kafka_partition, kafka_offset, place)
where (select true from events e where e.event_id = t.retry_of) is null
  and (select true from events e where e.event_id = t.retried_as) is null
order by place
on conflict (event_id) do nothing
returning event_id, position
"""
# Where the oldest transaction begins that may still add events. A transaction that is not in the snapshot's list of
# those running has a number of its end or above.
_HORIZON_SQL = """
with locks as materialized (
    select locktype, database, relation, mode, transactionid, virtualtransaction from pg_locks
    where granted and (locktype = 'transactionid' or relation = 'events'::regclass)
)
select coalesce(
    (
        select running from pg_snapshot_xip(pg_current_snapshot()) running
        where running::xid in (
            select number.transactionid from locks number join locks entered using (virtualtransaction)
            where number.locktype = 'transactionid' and number.mode = 'ExclusiveLock'
              and entered.locktype = 'relation' and entered.mode = 'RowExclusiveLock'
              and entered.database = (select oid from pg_database where datname = current_database())
        ) order by running limit 1
    ), pg_snapshot_xmax(pg_current_snapshot())
)::text
"""
_COLUMNS = """event_id, null as retry_of, null as retried_as, user_id, session_id, item_id, event_type, occurred_at,
       label, parameters, features, version, digest"""
_READ_SQL = f"""
select {_COLUMNS}, xid::text as number, position from events
where (xid, position) > ($1::text::xid8, $2) and xid < $3::text::xid8 order by xid, position limit $4
"""  # noqa: S608 - our own words
_LATEST_SQL = f"select {_COLUMNS} from events order by xid desc, position desc limit $1"  # noqa: S608 - our own words
_LAG_SQL = """
select count(*) from (select from events where (xid, position) > ($1::text::xid8, $2) limit $3) later
"""
_FOUND_SQL = "select event_id, digest from events where event_id = any($1::text[])"
_QUARANTINE_SQL = """
insert into event_quarantine (event_id, user_id, reason, payload, digest)
select event_id, user_id, 'conflict: the same event_id came before with another payload', payload::jsonb, digest
from unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) t (event_id, user_id, payload, digest)
on conflict (event_id, digest) do nothing
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
select o.owner, coalesce(e.item_keys, '{{}}'), coalesce(e.event_types, '{{}}'), coalesce(e.occurred_ms, '{{}}')
from unnest($1::text[], $2::text[]) o (owner, id)
cross join lateral (
    select array_agg(latest.item_key) as item_keys, array_agg(latest.event_type) as event_types,
           array_agg(latest.ms) as occurred_ms
    from (
        select item_key, event_type, (extract(epoch from occurred_at) * 1000)::bigint as ms
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
                      and exists (select from events more where more.{column} = o.id offset {n_recent})
                    order by i.item_key, e.event_type, e.occurred_at desc, e.event_id
                ) bought order by occurred_at desc, event_id limit {n_bought}
            )
        ) kept order by occurred_at desc, event_id
    ) latest
) e
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


class PostgresLog:
    """The log in the tables themselves."""

    name = "postgres"

    def __init__(self, connections: Transactions) -> None:
        self._connections = connections

    async def append(self, events: Sequence[Event]) -> Appended:
        """See EventLog."""
        if not events:
            return Appended()
        return await self._connections.transaction(lambda connection: append(connection, events))

    async def read(self, after: Offset, limit: int) -> Batch:
        """See EventLog."""
        return await self._connections.transaction(lambda connection: read(connection, after, limit))

    async def end(self) -> Offset:
        """See EventLog."""

        async def work(connection: asyncpg.Connection) -> Offset:
            horizon = await connection.fetchval(_HORIZON_SQL)
            return _offset(int(horizon) - 1, _LAST)

        return await self._connections.transaction(work)

    async def lag(self, after: Offset) -> int:
        """See EventLog."""
        xid, position = _numbers(after)
        return await self._connections.transaction(
            lambda connection: connection.fetchval(_LAG_SQL, xid, position, MAX_LAG + 1)
        )

    async def sample(self, n: int) -> list[Event]:
        """See EventLog."""
        rows = await self._connections.transaction(lambda connection: connection.fetch(_LATEST_SQL, n))
        return [event_of(row) for row in reversed(rows)]

    async def close(self) -> None:
        """The connections are somebody else's."""


async def append(
    connection: asyncpg.Connection, events: Sequence[Event], places: Sequence[tuple[int, int]] | None = None
) -> Appended:
    """Write a batch as the first thing of the caller's transaction; asyncpg's errors pass through.

    `places`: partition and offset of each in Kafka.
    """
    erased = await _enter(connection, events)
    kept = [place for place, event in enumerate(events) if event.user_id not in erased]
    gone = [place for place, event in enumerate(events) if event.user_id in erased]
    taken = [events[place] for place in kept]
    if not taken:
        return Appended(erased=gone)
    owners = sorted({owner for event in taken for owner in owners_of(event)})
    await connection.execute(_LOCK_SQL, owners)
    rows = await connection.fetch(
        _INSERT_SQL, *_columns(taken), *_places([places[i] for i in kept] if places else None)
    )
    position_by_id = {row["event_id"]: row["position"] for row in rows}
    accepted, duplicates, conflicts = await _sort_out(connection, taken, set(position_by_id))
    if conflicts:
        await connection.execute(_QUARANTINE_SQL, *_quarantined([taken[place] for place in conflicts]))
    await _refresh_recent(connection, [taken[place] for place in accepted])
    return Appended(
        [kept[place] for place in accepted],
        [kept[place] for place in duplicates],
        [kept[place] for place in conflicts],
        gone,
        max(position_by_id.values(), default=None),
    )


async def judge(connection: asyncpg.Connection, events: Sequence[Event]) -> Appended:
    """What would become of a batch now; conflicts are put aside, nothing else is written."""
    erased = await _enter(connection, events)
    found = await _found(connection, events)
    judged = Appended()
    new: dict[str, bytes] = {}
    for place, event in enumerate(events):
        if event.user_id in erased:
            judged.erased.append(place)
        elif _is_same(event, found) or new.get(event.event_id) == event.digest:
            judged.duplicates.append(place)
        elif event.event_id in found or event.event_id in new:
            judged.conflicts.append(place)
        else:
            new[event.event_id] = event.digest
            judged.accepted.append(place)
    if judged.conflicts:
        await connection.execute(_QUARANTINE_SQL, *_quarantined([events[place] for place in judged.conflicts]))
    return judged


async def read(connection: asyncpg.Connection, after: Offset, limit: int) -> Batch:
    """EventLog.read on a connection whose statements each see what is committed by then (READ COMMITTED)."""
    xid, position = _numbers(after)
    horizon = await connection.fetchval(_HORIZON_SQL)  # first the horizon, then the rows: not in one statement
    rows = await connection.fetch(_READ_SQL, xid, position, horizon, limit)
    return Batch([event_of(row) for row in rows], _offset(rows[-1]["number"], rows[-1]["position"]) if rows else after)


async def latest(connection: asyncpg.Connection, user_id: str, n: int) -> list[dict[str, Any]]:
    """The newest `n` events of a user, newest first; parameters as JSON text."""
    return [dict(row) for row in await connection.fetch(_EVENTS_SQL, user_id, n)]


def event_of(row: asyncpg.Record) -> Event:
    """A row that begins with the columns of an event."""
    fields = list(row.values())[: len(Event._fields)]
    event = Event(*fields)
    return event._replace(parameters=_bytes(event.parameters), features=_bytes(event.features))


def owners_of(event: Event) -> list[str]:
    """Owners in user_recent: the user, and the session, which may be a guest's."""
    user = [] if event.user_id is None else [user_owner(event.user_id)]
    return user + ([] if event.session_id is None else [session_owner(event.session_id)])


def user_owner(user_id: str) -> str:
    return f"user:{user_id}"


def session_owner(session_id: str) -> str:
    return f"session:{session_id}"


_LAST = 2**63 - 1  # no position is greater


def _numbers(offset: Offset) -> tuple[str, int]:
    if offset == START:
        return "0", 0
    xid, _, position = offset.partition(":")
    return str(int(xid)), int(position)


def _offset(xid: int | str, position: int) -> Offset:
    return f"{xid}:{position}"


def _bytes(json_text: Any) -> bytes:
    """As the API makes it, whatever form Postgres gives JSON back in."""
    return orjson.dumps(orjson.loads(json_text), option=orjson.OPT_SORT_KEYS)


async def _enter(connection: asyncpg.Connection, events: Sequence[Event]) -> set[str]:
    """Let readers know that this transaction may add events; those users of the batch who were erased."""
    user_by_digest = {digest_of(user): user for user in {event.user_id for event in events} if user is not None}
    rows = await connection.fetch(_ENTER_SQL, list(user_by_digest))
    return {user_by_digest[row["digest"]] for row in rows if row["digest"] is not None}


def _columns(events: Sequence[Event]) -> list[Sequence[Any]]:
    columns: list[Sequence[Any]] = list(zip(*events, strict=True))
    for name in ("parameters", "features"):
        place = Event._fields.index(name)
        columns[place] = [text.decode() for text in columns[place]]
    return columns


def _places(places: Sequence[tuple[int, int]] | None) -> tuple[Sequence[int], Sequence[int]]:
    """Partitions and offsets; unnest fills those that are missing with nulls."""
    return ([place[0] for place in places], [place[1] for place in places]) if places else ((), ())


async def _found(connection: asyncpg.Connection, events: Sequence[Event]) -> dict[str, bytes]:
    """Digests of those events in the log that these may be, by id."""
    ids = [name for event in events for name in (event.event_id, event.retry_of, event.retried_as) if name]
    return {row["event_id"]: row["digest"] for row in await connection.fetch(_FOUND_SQL, ids)} if ids else {}


def _is_same(event: Event, found: dict[str, bytes]) -> bool:
    return event.retry_of in found or event.retried_as in found or found.get(event.event_id) == event.digest


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
    found = await _found(connection, [events[place] for place in others])
    duplicates = [place for place in others if _is_same(events[place], found)]
    conflicts = [place for place in others if not _is_same(events[place], found)]
    return accepted, duplicates, conflicts


def _quarantined(events: Sequence[Event]) -> tuple[list[str], list[str | None], list[str], list[bytes]]:
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
    return (
        [event.event_id for event in events],
        [event.user_id for event in events],
        payloads,
        [event.digest for event in events],
    )


async def _refresh_recent(connection: asyncpg.Connection, accepted: Sequence[Event]) -> None:
    users = sorted({event.user_id for event in accepted if event.user_id is not None})
    sessions = sorted({event.session_id for event in accepted if event.session_id is not None})
    if users:
        owners = [user_owner(user) for user in users]
        await connection.execute(_RECENT_BY_COLUMN["user_id"], owners, users, DEFAULT_BOUGHT)
    if sessions:
        owners = [session_owner(session) for session in sessions]
        await connection.execute(_RECENT_BY_COLUMN["session_id"], owners, sessions, DEFAULT_BOUGHT)
