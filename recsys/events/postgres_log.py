"""The event log in Postgres: one transaction per batch, acknowledged once it is committed.

Appends are idempotent and commutative: events are rows keyed by `event_id`, and users' recent events (`recent`) are a
function of the set of rows.

Readers go by (epoch_xid, position): the transaction that added a row, and its position within. The epoch is incremented
when the database moves to another server, whose transaction ids start again: older offsets stay valid. Rows become
visible when their transaction commits, perhaps after one with a greater id; so rows are read only up to the horizon,
the oldest transaction that may still add some. Every appender takes the lock of an INSERT on `events` before it gets a
transaction id, and readers find it by that lock. pg_snapshot_xmin would wait for any long transaction instead.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import orjson

from recsys.events import recent
from recsys.events.event import Event
from recsys.events.log import MAX_LAG, START, Appended, Batch, Offset, Transactions
from recsys.serving.recent import DEFAULT_BOUGHT

# Of an event `t`: its user was erased; or it has no user, and one with its session was erased after it occurred.
_IS_ERASED = """case when t.user_id is null then exists (
    select from erased_sessions x
    where x.digest = sha256(convert_to(t.session_id, 'UTF8')) and x.erased_at >= t.occurred_at
) else exists (select from erased_users x where x.digest = sha256(convert_to(t.user_id, 'UTF8'))) end"""
_ERASED_SQL = f"""
select place - 1 as place
from unnest($1::text[], $2::text[], $3::timestamptz[]) with ordinality t (user_id, session_id, occurred_at, place)
where {_IS_ERASED}
"""  # noqa: S608 - our own words


def _insert_sql(on_conflict: str) -> str:
    """Returns one row: the number inserted, first and last position, their ids if fewer than $16; the owners whose rows
    in user_recent are still to be updated, and the bought types ($17 where the data declare none)."""
    return f"""
with bought as materialized ({recent.bought_sql("$17")}),
numbered as materialized (select log_number() as epoch_xid), inserted as (
insert into events (event_id, user_id, session_id, item_id, event_type, occurred_at, label, parameters, features,
                    version, digest, epoch_xid, kafka_partition, kafka_offset)
select event_id, user_id, session_id, item_id, event_type, occurred_at, label, coalesce(parameters, '{{}}')::jsonb,
       coalesce(features, '{{}}')::jsonb, version, digest, (select epoch_xid from numbered),
       kafka_partition, kafka_offset
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
            $9::real[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::integer[], $15::bigint[])
     with ordinality as t (event_id, retry_of, retried_as, user_id, session_id, item_id, event_type, occurred_at, label,
                           parameters, features, version, digest, kafka_partition, kafka_offset, place)
where (retry_of is null or not exists (select from events e where e.event_id = t.retry_of))
  and (retried_as is null or not exists (select from events e where e.event_id = t.retried_as))
  and not {_IS_ERASED}
order by place
{on_conflict}
returning event_id, position, user_id, session_id, item_id, event_type, occurred_at
) {recent.PREPEND_SQL}
select n, first, last, case when n < $16 then (select array_agg(event_id) from inserted) end as event_ids,
       (select array_agg(owner) from left_over) as owners, types
from (select count(*) as n, min(position) as first, max(position) as last from inserted) counted cross join bought
"""  # noqa: S608 - our own words


_INSERT_SQL = _insert_sql("on conflict (event_id) do nothing")
_INSERT_NEW_SQL = _insert_sql("")  # where no id is in the log; asyncpg.UniqueViolationError where one is
# The oldest transaction that may still add events. A transaction that is not in the snapshot's list of running ones has
# an id of at least its xmax; if the database has just moved to this server, new events will be of the next epoch.
_HORIZON_SQL = """
with locks as materialized (
    select locktype, database, relation, mode, transactionid, virtualtransaction from pg_locks
    where granted and (locktype = 'transactionid' or relation = 'events'::regclass)
), oldest as (
    select running::text::bigint as number from pg_snapshot_xip(pg_current_snapshot()) running
    where running::xid in (
        select number.transactionid from locks number join locks entered using (virtualtransaction)
        where number.locktype = 'transactionid' and number.mode = 'ExclusiveLock'
          and entered.locktype = 'relation' and entered.mode = 'RowExclusiveLock'
          and entered.database = (select oid from pg_database where datname = current_database())
    ) order by running limit 1
)
select case when oldest.number is not null then (epoch << 44) + oldest.number
            when server_moved() then (epoch + 1) << 44
            else (epoch << 44) + pg_snapshot_xmax(pg_current_snapshot())::text::bigint end
from server_identity left join oldest on true
"""
_COLUMNS = """event_id, null as retry_of, null as retried_as, user_id, session_id, item_id, event_type, occurred_at,
       label, parameters, features, version, digest"""
_READ_SQL = f"""
select {_COLUMNS}, epoch_xid as number, position from events
where (epoch_xid, position) > ($1, $2) and epoch_xid < $3
  and (epoch_xid, position) <= ($4, $5) order by epoch_xid, position limit $6
"""  # noqa: S608 - our own words
_LATEST_SQL = f"select {_COLUMNS} from events order by epoch_xid desc, position desc limit $1"  # noqa: S608 - our own words
_LAG_SQL = """
select count(*) from (select from events where (epoch_xid, position) > ($1, $2) limit $3) later
"""
# A transaction gets its id shortly after its timestamp: take the smallest id within the first minute. The CTE filters
# by received_at first: min() alone would scan the ids from the very first event.
_RECEIVED_SQL = """
with first_minute as materialized (
    select epoch_xid from events where received_at >= $1 and received_at <= (
        select received_at + interval '1 minute' from events where received_at >= $1 order by received_at limit 1
    )
)
select min(epoch_xid) from first_minute
"""
_UNDELIVERED_SQL = """
select count(*) as n, coalesce(extract(epoch from clock_timestamp() - min(received_at)), 0)::float8 as age_s from (
    select received_at from events where (epoch_xid, position) > ($1, $2) and kafka_offset is null
    order by epoch_xid, position limit $3
) waiting
"""
_FOUND_SQL = "select event_id, digest from events where event_id = any($1::text[])"
_QUARANTINE_SQL = """
insert into event_quarantine (event_id, user_id, reason, payload, digest)
select event_id, user_id, 'conflict: the same event_id came before with another payload', payload::jsonb, digest
from unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) t (event_id, user_id, payload, digest)
on conflict (event_id, digest) do nothing
"""
_EVENTS_SQL = """
select e.event_id, e.item_id, e.event_type, e.occurred_at, e.session_id, e.label, e.parameters
from events e where e.user_id = $1 order by e.occurred_at desc, e.event_id limit $2
"""


class PostgresLog:
    """The log in the tables themselves."""

    name = "postgres"

    def __init__(self, connections: Transactions) -> None:
        self._connections = connections
        self._expects_retries_until = 0.0  # time.monotonic()

    async def append(self, events: Sequence[Event]) -> Appended:
        """See EventLog."""
        if not events:
            return Appended()
        if time.monotonic() > self._expects_retries_until and _are_apart(events):
            try:
                return await self._connections.transaction(lambda connection: append(connection, events, are_new=True))
            except asyncpg.UniqueViolationError:  # one client retries: more may
                self._expects_retries_until = time.monotonic() + _RETRIES_S
        return await self._connections.transaction(lambda connection: append(connection, events))

    async def read(self, after: Offset, limit: int, until: Offset | None = None) -> Batch:
        """See EventLog."""
        return await self._connections.transaction(lambda connection: read(connection, after, limit, until))

    async def end(self) -> Offset:
        """See EventLog."""

        async def work(connection: asyncpg.Connection) -> Offset:
            horizon = await connection.fetchval(_HORIZON_SQL)
            return _offset(horizon - 1, _LAST)

        return await self._connections.transaction(work)

    async def at(self, instant: dt.datetime) -> Offset:
        """See EventLog."""
        end = await self.end()  # first: rows that are not visible yet come after it
        first = await self._connections.transaction(lambda connection: connection.fetchval(_RECEIVED_SQL, instant))
        return end if first is None else _offset(min(first - 1, numbers_of(end)[0]), _LAST)

    async def oldest(self) -> Offset:
        """See EventLog."""
        return START

    def later(self, one: Offset, other: Offset) -> Offset:
        """See EventLog."""
        return max(one, other, key=numbers_of)

    async def lag(self, after: Offset) -> int:
        """See EventLog."""
        epoch_xid, position = numbers_of(after)
        return await self._connections.transaction(
            lambda connection: connection.fetchval(_LAG_SQL, epoch_xid, position, MAX_LAG + 1)
        )

    async def sample(self, n: int) -> list[Event]:
        """See EventLog."""
        rows = await self._connections.transaction(lambda connection: connection.fetch(_LATEST_SQL, n))
        return [event_of(row) for row in reversed(rows)]

    async def close(self) -> None:
        """Nothing to do: the caller owns the connections."""


async def append(
    connection: asyncpg.Connection,
    events: Sequence[Event],
    places: Sequence[tuple[int, int]] | None = None,
    *,
    are_new: bool = False,
) -> Appended:
    """Write a batch; must be the first statement of the caller's transaction. Raises asyncpg's errors.

    `places`: partition and offset of each in Kafka. `are_new`: assume that no id is in the log, which is faster;
    UniqueViolationError where one is. Concurrent transactions with the same ids may deadlock until one times out.
    """
    columns = _columns(events)
    if not are_new:  # serialize with a concurrent retry of the same ids
        await connection.execute(recent.LOCK_SQL, columns[_USER_ID], columns[_USER_ID + 1], DEFAULT_BOUGHT)
    n, first, last, inserted, owners, bought = await connection.fetchrow(
        _INSERT_NEW_SQL if are_new else _INSERT_SQL, *columns, *_places(places), len(events), DEFAULT_BOUGHT
    )
    if owners:
        await recent.add(connection, first, bought, owners)
    if n == len(events):
        return Appended(list(range(n)), position=last)
    appended = await _outcomes(connection, events, set(inserted or ()))
    if appended.conflicts:
        await connection.execute(_QUARANTINE_SQL, *_quarantined([events[place] for place in appended.conflicts]))
    return replace(appended, position=last)


async def classify(connection: asyncpg.Connection, events: Sequence[Event]) -> Appended:
    """The outcome that `append` would have now; writes nothing but conflicts to the quarantine."""
    erased = await _erased(connection, events)
    found = await _found(connection, events)
    outcome = Appended()
    new: dict[str, bytes] = {}
    for place, event in enumerate(events):
        if place in erased:
            outcome.erased.append(place)
        elif _is_same(event, found) or new.get(event.event_id) == event.digest:
            outcome.duplicates.append(place)
        elif event.event_id in found or event.event_id in new:
            outcome.conflicts.append(place)
        else:
            new[event.event_id] = event.digest
            outcome.accepted.append(place)
    if outcome.conflicts:
        await connection.execute(_QUARANTINE_SQL, *_quarantined([events[place] for place in outcome.conflicts]))
    return outcome


async def read(connection: asyncpg.Connection, after: Offset, limit: int, until: Offset | None = None) -> Batch:
    """EventLog.read on a connection with the isolation level READ COMMITTED."""
    epoch_xid, position = numbers_of(after)
    horizon = await connection.fetchval(_HORIZON_SQL)  # first the horizon, then the rows: not in one statement
    last = (horizon, 0) if until is None else numbers_of(until)
    rows = await connection.fetch(_READ_SQL, epoch_xid, position, horizon, *last, limit)
    return Batch([event_of(row) for row in rows], _offset(rows[-1]["number"], rows[-1]["position"]) if rows else after)


async def undelivered(connection: asyncpg.Connection, after: Offset) -> tuple[int, float]:
    """The number of events after an offset that Kafka does not have, at most MAX_LAG + 1, and the age of the oldest in
    seconds."""
    row = await connection.fetchrow(_UNDELIVERED_SQL, *numbers_of(after), MAX_LAG + 1)
    return row["n"], row["age_s"]


async def latest(connection: asyncpg.Connection, user_id: str, n: int) -> list[dict[str, Any]]:
    """The newest `n` events of a user, newest first; parameters as JSON text."""
    return [dict(row) for row in await connection.fetch(_EVENTS_SQL, user_id, n)]


def event_of(row: asyncpg.Record) -> Event:
    """The event of a row whose first columns are those of an event."""
    fields = list(row.values())[: len(Event._fields)]
    event = Event(*fields)
    return event._replace(parameters=_bytes(event.parameters), features=_bytes(event.features))


_LAST = 2**63 - 1  # the largest position
_USER_ID = Event._fields.index("user_id")  # session_id follows
_RETRIES_S = 1.0


def _are_apart(events: Sequence[Event]) -> bool:
    """Whether the ids are distinct and all given by clients."""
    return len({event.event_id for event in events}) == len(events) and not any(event.retry_of for event in events)


def numbers_of(offset: Offset) -> tuple[int, int]:
    """(epoch_xid, position) of an offset; they order the offsets of this log."""
    if offset == START:
        return 0, 0
    epoch_xid, _, position = offset.partition(":")
    return int(epoch_xid), int(position)


def _offset(epoch_xid: int, position: int) -> Offset:
    return f"{epoch_xid}:{position}"


def _bytes(json_text: Any) -> bytes:
    """JSON as the API serialises it, since jsonb does not keep the form."""
    return orjson.dumps(orjson.loads(json_text), option=orjson.OPT_SORT_KEYS)


async def _erased(connection: asyncpg.Connection, events: Sequence[Event]) -> set[int]:
    """Indices of the events of erased users."""
    columns = [[getattr(event, name) for event in events] for name in ("user_id", "session_id", "occurred_at")]
    return {row["place"] for row in await connection.fetch(_ERASED_SQL, *columns)}


def _columns(events: Sequence[Event]) -> list[Sequence[Any]]:
    """One array per field; one of nulls only is empty, which unnest fills with nulls: it is faster."""
    columns: list[Sequence[Any]] = list(zip(*events, strict=True))
    for name in ("parameters", "features"):
        place = Event._fields.index(name)
        columns[place] = [None if text == b"{}" else text.decode() for text in columns[place]]
    return [() if column.count(None) == len(column) else column for column in columns]


def _places(places: Sequence[tuple[int, int]] | None) -> tuple[Sequence[int], Sequence[int]]:
    """Partitions and offsets; unnest fills missing ones with nulls."""
    return ([place[0] for place in places], [place[1] for place in places]) if places else ((), ())


async def _found(connection: asyncpg.Connection, events: Sequence[Event]) -> dict[str, bytes]:
    """Digests by id of the events in the log that these may duplicate."""
    ids = [name for event in events for name in (event.event_id, event.retry_of, event.retried_as) if name]
    return {row["event_id"]: row["digest"] for row in await connection.fetch(_FOUND_SQL, ids)} if ids else {}


def _is_same(event: Event, found: dict[str, bytes]) -> bool:
    return event.retry_of in found or event.retried_as in found or found.get(event.event_id) == event.digest


async def _outcomes(connection: asyncpg.Connection, events: Sequence[Event], inserted: set[str]) -> Appended:
    """The outcome of each event, given the ids of the inserted ones."""
    appended = Appended()
    others: list[int] = []
    for place, event in enumerate(events):
        if event.event_id in inserted:
            inserted.remove(event.event_id)  # a second one of the batch is a duplicate
            appended.accepted.append(place)
        else:
            others.append(place)
    erased = await _erased(connection, [events[place] for place in others])
    found = await _found(connection, [events[place] for place in others])
    for among, place in enumerate(others):
        if among in erased:
            appended.erased.append(place)
        elif _is_same(events[place], found):
            appended.duplicates.append(place)
        else:
            appended.conflicts.append(place)
    return appended


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
