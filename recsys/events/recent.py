"""The rows of user_recent, updated in the transaction that appends to the log.

A row is a function of the set of its owner's events of known items, independent of their order and batches: the newest
N_RECENT by (milliseconds, item, type), then of the older bought ones the newest of each item and type, up to N_BOUGHT.
It can be merged: the row of a union of events is the merge of their rows, so new events are merged into the stored row.
It is recomputed from the log only where the row does not suffice: the bought types have changed since it was written,
or there were events of items not in the catalogue. Such a row has `has_unknown`; its readers look for bought items in
the log, since an item may have been added to the catalogue in the meantime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from recsys.events.event import Event

N_RECENT: Final = 50  # events kept in user_recent
_CONFIGURATIONS: Final = 10
N_BOUGHT: Final = 1_000  # older bought items kept beside those, by item and event type


def bought_sql(by_default: str) -> str:
    """SQL of the sorted bought types: of settings and the data's source (the parameter `by_default` where there is
    none), and of the newest configurations, among which the one in force is even if newer ones cannot be read. Views
    are never bought: they are kept no longer than others."""
    return f"""
select coalesce(array_agg(event_type order by event_type), '{{}}') as types from (
    select unnest(coalesce((select bought_event_types from event_meaning), {by_default}::text[])) as event_type
    union
    select jsonb_path_query(config, '$.bought[*].event_type') #>> '{{}}'
    from (select config from config_versions order by config_id desc limit {_CONFIGURATIONS}) newest
) named where event_type <> 'view'
"""  # noqa: S608 - our own words


def _appended(column: str) -> str:
    """SQL that prepends the column of an added row, whose events are all newer, to that of the stored row `r`."""
    n_kept, n_added = "cardinality(r.item_keys)", "cardinality(excluded.item_keys)"
    return f"""
        case when {n_kept} + {n_added} <= {N_RECENT} then excluded.{column} || r.{column}
             else excluded.{column} || r.{column}[1 : {N_RECENT} - {n_added}] || r.{column}[{N_RECENT + 1} :] end"""


def _kept(seen: str) -> str:
    """SQL of what a row keeps of events `seen` (item_key, event_type, ms); `r.bought` are the bought types."""
    return f"""
select coalesce(array_agg(item_key order by n), '{{}}') as item_keys,
       coalesce(array_agg(event_type order by n), '{{}}') as event_types,
       coalesce(array_agg(ms order by n), '{{}}') as occurred_ms
from (
    select *, count(*) filter (where is_bought and nth = 1) over (order by n) as n_bought from (
        select item_key, event_type, ms, event_type = any(r.bought) as is_bought,
               row_number() over (order by ms desc, item_key, event_type) as n,
               row_number() over (partition by item_key, event_type order by ms desc) as nth
        from ({seen}) seen
    ) placed
) counted
where n <= {N_RECENT} or (is_bought and nth = 1 and n_bought <= {N_BOUGHT})
"""  # noqa: S608 - our own words


def _logged(column: str) -> str:
    """SQL of an owner's events in the log: the newest N_RECENT, with ties in the last millisecond, and the newest
    bought event of each item and type."""
    return f"""
select item_key, event_type, {_MS} as ms from (
    select i.item_key, e.event_type, e.occurred_at, e.event_id from events e join items i on i.item_id = e.item_id
    where e.{column} = r.{column} and e.occurred_at >= coalesce((
        select date_trunc('milliseconds', l.occurred_at) from events l join items k on k.item_id = l.item_id
        where l.{column} = r.{column} order by l.occurred_at desc offset {N_RECENT - 1} limit 1
    ), '-infinity')
    union (
        select distinct on (i.item_key, e.event_type) i.item_key, e.event_type, e.occurred_at, e.event_id
        from events e join items i on i.item_id = e.item_id
        where e.{column} = r.{column} and e.event_type = any(r.bought) and e.event_type <> 'view'
        order by i.item_key, e.event_type, e.occurred_at desc
    )
) logged
"""  # noqa: S608 - our own words


def _is_incomplete(column: str) -> str:
    """SQL condition: whether some of those events are of items not in the catalogue."""
    return f"""exists (
        select from (
            (select item_id from events where {column} = r.{column} order by occurred_at desc limit {N_RECENT})
            union all
            (select item_id from events where {column} = r.{column} and event_type = any(r.bought)
               and event_type <> 'view' order by occurred_at desc limit {N_BOUGHT})
        ) latest where not exists (select from items where items.item_id = latest.item_id)
    )"""  # noqa: S608 - our own words


_MS: Final = "floor(extract(epoch from occurred_at) * 1000)::bigint"
# Locks the rows of the owners of events ($1: user ids, $2: session ids, in place of either perhaps nothing), updated or
# not, until the transaction ends; new ones are inserted empty, except of erased users. In sorted order to avoid
# deadlocks; the lock that an INSERT takes on `events` comes first, see postgres_log.
LOCK_SQL: Final = f"""
with entered as (delete from events where false)
insert into user_recent (owner, item_keys, event_types, occurred_ms, bought_types)
select owner, '{{}}', '{{}}', '{{}}', bought.types
from (
    select distinct owner
    from unnest($1::text[], $2::text[]) e (user_id, session_id)
         cross join lateral (values ('user:' || user_id), ('session:' || session_id)) o (owner)
    where owner is not null
) owners cross join ({bought_sql("$3")}) bought
where not exists (
    select from erased_users where owner like 'user:%' and digest = sha256(convert_to(substr(owner, 6), 'UTF8'))
)
order by owner
on conflict (owner) do update set updated_at = now() where false
"""  # noqa: S608 - our own words
# Follows the CTEs `inserted` (events) and `bought` (types): locks the rows of all owners in sorted order, to avoid
# deadlocks, and updates those of the common case: all new events are newer than the stored ones, and no bought event
# leaves or re-enters the newest N_RECENT. `_REWRITE_SQL` would give the same rows, but ingestion would be a third
# slower (decision 0010). `left_over` are the owners of the other cases.
PREPEND_SQL: Final = f"""
, new as materialized (
    select owner, count(item_key) as n, count(item_key) < count(*) as has_unknown,
           coalesce(array_agg(item_key) filter (where item_key is not null), '{{}}') as item_keys,
           coalesce(array_agg(event_type) filter (where item_key is not null), '{{}}') as event_types,
           coalesce(array_agg(ms) filter (where item_key is not null), '{{}}') as occurred_ms
    from (
        select o.owner, i.item_key, e.event_type,
               (date_part('epoch', date_trunc('milliseconds', e.occurred_at)) * 1000)::bigint as ms
        from inserted e cross join lateral (values ('user:' || e.user_id), ('session:' || e.session_id)) o (owner)
        left join items i on i.item_id = e.item_id
        where o.owner is not null order by owner, ms desc, item_key, event_type
    ) each_one group by owner
), done as (
    insert into user_recent as r (owner, item_keys, event_types, occurred_ms, has_unknown, bought_types)
    select owner, case when n <= {N_RECENT} then item_keys else '{{}}' end,
           case when n <= {N_RECENT} then event_types else '{{}}' end,
           case when n <= {N_RECENT} then occurred_ms else '{{}}' end, has_unknown, bought.types
    from new cross join bought order by owner
    on conflict (owner) do update set updated_at = now(), has_unknown = excluded.has_unknown,
        item_keys = {_appended("item_keys")},
        event_types = {_appended("event_types")},
        occurred_ms = {_appended("occurred_ms")}
    where r.bought_types = excluded.bought_types and not r.has_unknown
      and (cardinality(excluded.item_keys) = 0 or cardinality(r.item_keys) = 0
           or r.occurred_ms[1] < excluded.occurred_ms[cardinality(excluded.item_keys)])
      and (cardinality(r.item_keys) + cardinality(excluded.item_keys) <= {N_RECENT}
           or (not r.event_types[{N_RECENT} - cardinality(excluded.item_keys) + 1 : {N_RECENT}] && r.bought_types
               and (cardinality(r.item_keys) <= {N_RECENT} or not excluded.event_types && r.bought_types)))
    returning r.owner
), left_over as (
    select owner from new where n > {N_RECENT} union (select owner from new except select owner from done)
)
"""  # noqa: S608 - our own words
# Updates locked rows in the general case. `new` are the events that this transaction has added, from position $1 on:
# they are merged into the stored row, or, where it does not suffice (`is_stale`), all is read from the log again.
_REWRITE_SQL = f"""
with new as materialized (
    select o.owner, i.item_key, e.event_type, {_MS} as ms
    from events e cross join lateral (values ('user:' || e.user_id), ('session:' || e.session_id)) o (owner)
    left join items i on i.item_id = e.item_id
    where e.epoch_xid = (select log_number()) and e.position >= $1 and o.owner = any($2::text[])
)
update user_recent t
set item_keys = m.item_keys, event_types = m.event_types, occurred_ms = m.occurred_ms, bought_types = m.bought,
    has_unknown = m.has_unknown, updated_at = now()
from (
    select r.owner, r.bought, kept.*,
           case when r.is_stale then {_is_incomplete("user_id")} or {_is_incomplete("session_id")}
                else exists (select from new where new.owner = r.owner and item_key is null) end as has_unknown
    from (
        select *, case when is_stale and owner like 'user:%' then substr(owner, 6) end as user_id,
               case when is_stale and owner like 'session:%' then substr(owner, 9) end as session_id
        from (
            select owner, item_keys, event_types, occurred_ms, $3::text[] as bought,
                   bought_types <> $3::text[] or has_unknown as is_stale
            from user_recent where owner = any($2::text[])
        ) stored
    ) r
    cross join lateral ({
    _kept(f'''
        select * from unnest(r.item_keys, r.event_types, r.occurred_ms) kept (item_key, event_type, ms)
        where not r.is_stale
        union all
        select item_key, event_type, ms from new
        where not r.is_stale and new.owner = r.owner and item_key is not null
        union all {_logged("user_id")} union all {_logged("session_id")}
    ''')
}) kept
) m where t.owner = m.owner
"""  # noqa: S608 - our own words


def owners_of(event: Event) -> list[str]:
    """The event's owners in user_recent: the user, and the session."""
    user = [] if event.user_id is None else [user_owner(event.user_id)]
    return user + ([] if event.session_id is None else [session_owner(event.session_id)])


def user_owner(user_id: str) -> str:
    return f"user:{user_id}"


def session_owner(session_id: str) -> str:
    return f"session:{session_id}"


async def add(connection: asyncpg.Connection, position: int, bought: Sequence[str], owners: Sequence[str]) -> None:
    """Update locked rows with the events that the transaction added to the log from a position on."""
    await connection.execute(_REWRITE_SQL, position, owners, bought)
