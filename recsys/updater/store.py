"""The updater's state in Postgres: lease with fencing token, desired state, committed updates, log."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import asyncpg
import orjson

from recsys.errors import RecsysError
from recsys.events.connections import offset_of
from recsys.events.log import Offset, Transactions

UPDATES: Final = "recsys_updates"  # channel: notified of commits
TRAINING: Final = "recsys_training"  # channel: notified when the desired state changes
LEASE_LOST_STATUS: Final = 3  # exit status of an updater whose lease another one took
_READER: Final = "updater"  # in log_offsets, after `recsys skip-gap`: events before that offset are not read
_LOG_LINES_KEPT: Final = 10_000
_UPDATES_KEPT: Final = 100_000
_BASES_KEPT: Final = 3  # regardless of age

_STATE: Final = """wanted, state, reason, fence, holder,
       extract(epoch from clock_timestamp() - heartbeat_at)::float8 as heartbeat_age_s, supervisor,
       extract(epoch from clock_timestamp() - supervisor_at)::float8 as supervisor_age_s, restarts, max_restarts,
       backoff_s, watchdog_s, n_rollbacks, rolled_back_at, rollback_reason, now() as at"""
# A start resets the count of restarts and a failed state.
_START_SQL = """
update training_state set wanted = 'running', restarts = 0,
       state = case when holder is null then 'stopped' else state end,
       reason = case when holder is null then 'asked to start' else reason end
"""
_STOP_SQL = "update training_state set wanted = 'stopped', reason = 'asked to stop'"
_POLICY_SQL = f"""
update training_state set max_restarts = coalesce($1, max_restarts), backoff_s = coalesce($2, backoff_s),
       watchdog_s = coalesce($3, watchdog_s)
returning {_STATE}
"""  # noqa: S608 - constants
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
_RELEASE_SQL = "update training_state set holder = null, state = $2, reason = $3 where fence = $1"
_PRESENT_SQL = """
update training_state set supervisor = $1, supervisor_at = clock_timestamp()
where supervisor is null or supervisor = $1 or holder = $2 or supervisor_at < clock_timestamp() - interval '5 seconds'
"""
_ABSENT_SQL = "update training_state set supervisor = null where supervisor = $1"
_FREE_SQL = "update training_state set holder = null, state = $2, reason = $3 where holder = $1"
_FAILED_SQL = f"update training_state set restarts = restarts + 1 returning {_STATE}"  # noqa: S608 - constants
_STEADY_SQL = "update training_state set restarts = 0"
_GIVE_UP_SQL = "update training_state set state = 'failed', reason = $1 where holder is null"
_ROLLED_BACK_SQL = """
update training_state set n_rollbacks = n_rollbacks + 1, rolled_back_at = now(), rollback_reason = $1
"""
_UPDATE_COLUMNS = """number, base, is_base, artifact, parent, chain, log, "after", n_events, newest_at, fence, reason,
       metrics, created_at"""
_INSERT_SQL = f"""
insert into model_updates ({_UPDATE_COLUMNS})
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now())
"""  # noqa: S608 - constants
# Deletes old updates, except those from the oldest base that a process may start from.
_TRIM_SQL = """
delete from model_updates where number <= $1
   and number < (select min(number) from (
       select number from model_updates where is_base order by number desc limit $2
   ) bases)
"""
_CHAIN = """where base = $1 and number > $2
   and number >= (select max(number) from model_updates where base = $1 and is_base) order by number limit $3"""
_WANTED_MODEL_SQL = """
select b.models ->> 'deepfm' from publication_pointer p join publications b using (publication_id)
"""
_WRITE_LOG_SQL = "insert into training_logs (stream, line) select * from unnest($1::text[], $2::text[])"
_TRIM_LOG_SQL = "delete from training_logs where log_id <= (select max(log_id) from training_logs) - $1"
_LOG_SQL = """
select log_id, logged_at, stream, line from training_logs where $1::text is null or stream = $1
order by log_id desc limit $2
"""


class LeaseLostError(RecsysError):
    """Another updater has the lease; what this one has learned since its last commit is discarded."""


class TrainingState(NamedTuple):
    """Desired and actual state; see `training_state` in recsys.storage.tables. Ages in seconds, None: never."""

    wanted: str
    state: str
    reason: str
    fence: int
    holder: str | None
    heartbeat_age_s: float | None
    supervisor: str | None
    supervisor_age_s: float | None
    restarts: int
    max_restarts: int
    backoff_s: float
    watchdog_s: float
    n_rollbacks: int
    rolled_back_at: dt.datetime | None
    rollback_reason: str | None
    at: dt.datetime  # of this state, by the clock of Postgres


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


class LoggedLine(NamedTuple):
    """A line of the log of the updater or of its supervisor."""

    log_id: int
    at: dt.datetime
    stream: str
    line: str


class TrainingStore:
    """Each method is one transaction; errors are those of `transactions` (LogAwayError or the like)."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    # --- the API

    async def start(self) -> None:
        """Request that an updater runs, and notify the supervisor; resets the count of restarts."""
        await self._request(_START_SQL)

    async def stop(self) -> None:
        """Request that the updater commits what it has read and ends."""
        await self._request(_STOP_SQL)

    async def set_policy(
        self, max_restarts: int | None, backoff_s: float | None, watchdog_s: float | None
    ) -> TrainingState:
        """Change the restart policy; None leaves a value unchanged."""
        return TrainingState(*await self._fetchrow(_POLICY_SQL, max_restarts, backoff_s, watchdog_s))

    async def state(self) -> TrainingState:
        """The current state."""
        return TrainingState(*await self._fetchrow(f"select {_STATE} from training_state"))  # noqa: S608 - constants

    async def log_lines(self, stream: str | None, limit: int) -> list[LoggedLine]:
        """The newest lines of a stream, or of both (None), newest first."""
        return [LoggedLine(*row) for row in await self._fetch(_LOG_SQL, stream, limit)]

    # --- the updater

    async def take_lease(self, holder: str) -> int | None:
        """The new fence; None where no updater is wanted, or another's heartbeat is younger than `watchdog_s`."""
        row = await self._fetchrow(_TAKE_SQL, holder)
        return None if row is None else row["fence"]

    async def beat(self, fence: int, state: str, reason: str = "") -> bool:
        """Write a heartbeat with the state; whether the updater should continue. LeaseLostError."""
        row = await self._fetchrow(_BEAT_SQL, fence, state, reason)
        if row is None:
            raise _lost(fence)
        return bool(row["wanted"] == "running")

    async def release(self, fence: int, state: str, reason: str = "") -> None:
        """Release the lease, if it is still ours."""
        await self._fetch(_RELEASE_SQL, fence, state, reason)

    async def commit(self, row: UpdateRow, rollback: str | None = None) -> None:
        """Insert an update if the fence is the newest; idempotent.

        `rollback`: why the guard returned to this base. LeaseLostError where another updater has taken over.
        """
        await self._transactions.transaction(lambda connection: _commit(connection, row, rollback))

    async def wanted_model(self) -> str | None:
        """The model of the publication in service; None where it has none."""
        row = await self._fetchrow(_WANTED_MODEL_SQL)
        return None if row is None else row[0]

    async def skipped_to(self) -> Offset:
        """The offset set by `recsys skip-gap updater`; START where nothing was skipped."""
        return await self._transactions.transaction(lambda connection: offset_of(connection, _READER))

    # --- updates

    async def newest(self) -> UpdateRow | None:
        """The latest update."""
        rows = await self.latest_updates(1)
        return rows[0] if rows else None

    async def chain_of(self, base: str, after: int = 0, limit: int | None = None) -> list[UpdateRow]:
        """The updates of a nightly model from its newest base on, in order; only those after number `after`."""
        return await self._updates(_CHAIN, base, after, limit)

    async def bases_of(self, base: str, limit: int) -> list[UpdateRow]:
        """The newest bases of a nightly model, newest first."""
        return await self._updates("where base = $1 and is_base order by number desc limit $2", base, limit)

    async def latest_bases(self, limit: int) -> list[UpdateRow]:
        """The newest bases of all nightly models, newest first."""
        return await self._updates("where is_base order by number desc limit $1", limit)

    async def latest_updates(self, limit: int, before: int | None = None) -> list[UpdateRow]:
        """The newest updates, or the newest before a number, newest first."""
        return await self._updates(
            "where $2::bigint is null or number < $2 order by number desc limit $1", limit, before
        )

    # --- the supervisor

    async def attend(self, supervisor: str, holder: str) -> None:
        """Register as the supervisor, unless another live one is registered and does not supervise `holder`."""
        await self._fetch(_PRESENT_SQL, supervisor, holder)

    async def leave(self, supervisor: str) -> None:
        """Unregister."""
        await self._fetch(_ABSENT_SQL, supervisor)

    async def free(self, holder: str, state: str, reason: str) -> None:
        """Release the lease of a process that has ended."""
        await self._fetch(_FREE_SQL, holder, state, reason)

    async def count_failure(self) -> TrainingState:
        """Increment the count of consecutive failures."""
        return TrainingState(*await self._fetchrow(_FAILED_SQL))

    async def forget_failures(self) -> None:
        """Reset the count of consecutive failures."""
        await self._fetch(_STEADY_SQL)

    async def give_up(self, reason: str) -> None:
        """Set the state to failed: it will not be restarted automatically."""
        await self._fetch(_GIVE_UP_SQL, reason)

    async def write_log(self, lines: Sequence[tuple[str, str]]) -> None:
        """Append (stream, line) pairs; the log keeps the newest lines."""

        async def write(connection: asyncpg.Connection) -> None:
            await connection.execute(_WRITE_LOG_SQL, *map(list, zip(*lines, strict=True)))
            await connection.execute(_TRIM_LOG_SQL, _LOG_LINES_KEPT)

        await self._transactions.transaction(write)

    # ---

    async def _request(self, sql: str) -> None:
        async def request(connection: asyncpg.Connection) -> None:
            await connection.execute(sql)
            await connection.execute("select pg_notify($1, '')", TRAINING)

        await self._transactions.transaction(request)

    async def _updates(self, clause: str, *arguments: Any) -> list[UpdateRow]:
        rows = await self._fetch(f"select {_UPDATE_COLUMNS} from model_updates {clause}", *arguments)  # noqa: S608
        return [UpdateRow(**{**dict(row), "metrics": orjson.loads(row["metrics"])}) for row in rows]

    async def _fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        return await self._transactions.transaction(lambda connection: connection.fetch(sql, *arguments))

    async def _fetchrow(self, sql: str, *arguments: Any) -> Any:  # a record, or None
        return await self._transactions.transaction(lambda connection: connection.fetchrow(sql, *arguments))


async def hold_lease(connection: asyncpg.Connection, fence: int) -> None:
    """Lock the lease until the transaction ends. LeaseLostError where another updater has it."""
    if await connection.fetchval("select fence from training_state for update") != fence:
        raise _lost(fence)


async def _commit(connection: asyncpg.Connection, row: UpdateRow, rollback: str | None) -> None:
    await hold_lease(connection, row.fence)
    existing = await connection.fetchval("select chain from model_updates where number = $1", row.number)
    if existing == row.chain:
        return
    if existing is not None:
        raise LeaseLostError(f"update {row.number} was made by another updater")
    await connection.execute(_INSERT_SQL, *row[:-2], orjson.dumps(row.metrics).decode())
    if rollback is not None:
        await connection.execute(_ROLLED_BACK_SQL, rollback)
    await connection.execute(_TRIM_SQL, row.number - _UPDATES_KEPT, _BASES_KEPT)
    await connection.execute("select pg_notify($1, $2)", UPDATES, str(row.number))


def _lost(fence: int) -> LeaseLostError:
    return LeaseLostError(f"the lease with fence {fence} was taken by another updater")
