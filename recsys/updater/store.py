"""The updater's state in Postgres: who works (a lease with a fence), what was asked for, what was committed, its log.

Every function works on an asyncpg connection, in the transaction of the caller; asyncpg's errors pass through.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import asyncpg
import orjson

from recsys.errors import RecsysError

UPDATES: Final = "recsys_updates"  # the channel on which commits are told
TRAINING: Final = "recsys_training"  # … and what people ask for
MODEL: Final = "deepfm"  # its name in `publications.models`
_LOG_LINES_KEPT: Final = 10_000
_UPDATES_KEPT: Final = 100_000
_BASES_KEPT: Final = 3  # whatever their age

_WANTED_MODEL_SQL = """
select b.models ->> 'deepfm' from publication_pointer p join publications b using (publication_id)
"""
_TAKE_SQL = """
update training_state set fence = fence + 1, holder = $1, heartbeat_at = clock_timestamp(), state = 'starting',
       reason = ''
where wanted = 'running' and (holder is null or heartbeat_at < clock_timestamp() - make_interval(secs => watchdog_s))
returning fence
"""
_BEAT_SQL = """
update training_state set heartbeat_at = clock_timestamp(), state = $2, reason = $3 where fence = $1
       and holder is not null returning wanted
"""
# Old ones go, but for those from the bases on that somebody may begin with.
_TRIM_SQL = """
delete from model_updates where number <= $1
   and number < (select min(number) from (
       select number from model_updates where is_base order by number desc limit $2
   ) bases)
"""
_UPDATE_COLUMNS = """number, base, is_base, artifact, parent, chain, log, "after", n_events, newest_at, fence, reason,
       metrics, created_at"""


class LeaseLostError(RecsysError):
    """Another updater works now; what this one has learned since its last commit counts nothing."""


class UpdateRow(NamedTuple):
    """A row of model_updates; see recsys.storage.tables."""

    number: int
    base: str
    is_base: bool
    artifact: str
    parent: str | None
    chain: str
    log: str
    after: str
    n_events: int
    newest_at: dt.datetime | None
    fence: int
    reason: str = ""
    metrics: Mapping[str, Any] = {}
    created_at: dt.datetime | None = None


async def take_lease(connection: asyncpg.Connection, holder: str) -> int | None:
    """The new fence where work is wanted and nobody works, or the one who did was silent for `watchdog_s`."""
    fence: int | None = await connection.fetchval(_TAKE_SQL, holder)
    return fence


async def beat(connection: asyncpg.Connection, fence: int, state: str, reason: str = "") -> bool:
    """Say that the holder is alive, and how it goes; whether it should go on. LeaseLostError."""
    wanted = await connection.fetchval(_BEAT_SQL, fence, state, reason)
    if wanted is None:
        raise LeaseLostError(f"the lease with fence {fence} is another's now")
    return bool(wanted == "running")


async def hold_lease(connection: asyncpg.Connection, fence: int) -> None:
    """Let nobody take over before the transaction ends. LeaseLostError where somebody has."""
    newest = await connection.fetchval("select fence from training_state for update")
    if newest != fence:
        raise LeaseLostError(f"the lease with fence {fence} is another's now")


async def release(connection: asyncpg.Connection, fence: int, state: str, reason: str = "") -> None:
    """Give the lease back, if it is still ours."""
    await connection.execute(
        "update training_state set holder = null, state = $2, reason = $3 where fence = $1", fence, state, reason
    )


async def commit(connection: asyncpg.Connection, row: UpdateRow, rollback: str | None = None) -> bool:
    """Add an update, as long as the fence is the newest one; False where this very one is there already.

    `rollback`: why the guard went back to this base. LeaseLostError where another has taken the place.
    """
    await hold_lease(connection, row.fence)
    there = await connection.fetchval("select chain from model_updates where number = $1", row.number)
    if there is not None:
        if there != row.chain:
            raise LeaseLostError(f"update {row.number} was made by another")
        return False
    await connection.execute(
        f"insert into model_updates ({_UPDATE_COLUMNS}) values"  # noqa: S608 - our own words
        " ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now())",
        *row[:-2],
        orjson.dumps(row.metrics).decode(),
    )
    if rollback is not None:
        await connection.execute(
            "update training_state set n_rollbacks = n_rollbacks + 1, rolled_back_at = now(), rollback_reason = $1",
            rollback,
        )
    await connection.execute(_TRIM_SQL, row.number - _UPDATES_KEPT, _BASES_KEPT)
    await connection.execute("select pg_notify($1, $2)", UPDATES, str(row.number))
    return True


async def newest(connection: asyncpg.Connection) -> UpdateRow | None:
    """The last update of all."""
    rows = await _rows(connection, "order by number desc limit 1")
    return rows[0] if rows else None


async def chain_of(
    connection: asyncpg.Connection, base: str, after: int = 0, limit: int | None = None
) -> list[UpdateRow]:
    """The updates of a nightly model from its newest base on, in order; of those, the ones after `after`."""
    return await _rows(
        connection,
        "where base = $1 and number > $2 and number >= (select max(number) from model_updates where base = $1"
        " and is_base) order by number limit $3",
        base, after, limit,
    )  # fmt: skip


async def bases_of(connection: asyncpg.Connection, base: str, limit: int) -> list[UpdateRow]:
    """The newest bases of a nightly model, newest first."""
    return await _rows(connection, "where base = $1 and is_base order by number desc limit $2", base, limit)


async def latest_bases(connection: asyncpg.Connection, limit: int) -> list[UpdateRow]:
    """The newest bases of all nightly models, newest first."""
    return await _rows(connection, "where is_base order by number desc limit $1", limit)


async def latest_updates(connection: asyncpg.Connection, limit: int, before: int | None = None) -> list[UpdateRow]:
    """The newest updates, or those before a number, newest first."""
    return await _rows(
        connection, "where $2::bigint is null or number < $2 order by number desc limit $1", limit, before
    )


async def wanted_model(connection: asyncpg.Connection) -> str | None:
    """The model of the publication in service."""
    model: str | None = await connection.fetchval(_WANTED_MODEL_SQL)
    return model


async def log_lines(connection: asyncpg.Connection, stream: str, lines: Sequence[str]) -> None:
    """Add lines to the updater's log, which keeps the newest ones."""
    await connection.execute(
        "insert into training_logs (stream, line) select $1, * from unnest($2::text[])", stream, list(lines)
    )
    await connection.execute(
        "delete from training_logs where log_id <= (select max(log_id) from training_logs) - $1", _LOG_LINES_KEPT
    )


async def _rows(connection: asyncpg.Connection, clause: str, *arguments: Any) -> list[UpdateRow]:
    found = await connection.fetch(f"select {_UPDATE_COLUMNS} from model_updates {clause}", *arguments)  # noqa: S608
    return [UpdateRow(**{**dict(row), "metrics": orjson.loads(row["metrics"])}) for row in found]
