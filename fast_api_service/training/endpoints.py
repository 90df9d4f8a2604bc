"""/online/training and /online/updates: the updater, wherever it runs; all that is said here stands in Postgres."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import asyncpg
from fastapi import APIRouter, Body, Query, Request

from fast_api_service.errors import ApiError, documented
from fast_api_service.runtime.state import State
from fast_api_service.training.schemas import (
    LogLine,
    LogStream,
    NewRestartPolicy,
    RestartPolicy,
    TrainingLogs,
    TrainingStatus,
    UpdateInfo,
    UpdatesList,
)
from recsys.events.log import LogAwayError
from recsys.updater import store
from recsys.updater.store import TRAINING, UpdateRow

router = APIRouter(prefix="/online", tags=["online"])

_MAX_LINE = 2000  # characters of a line of the log that are shown
_LAG_S = 2.0
_STATE_SQL = """
select *, extract(epoch from clock_timestamp() - heartbeat_at)::float8 as heartbeat_age_s,
       extract(epoch from clock_timestamp() - supervisor_at)::float8 as supervisor_age_s, now() as now
from training_state
"""
# Asked to start anew, what has failed begins with a clean sheet.
_START_SQL = """
update training_state set wanted = 'running', restarts = 0,
       state = case when holder is null then 'stopped' else state end,
       reason = case when holder is null then 'asked to start' else reason end
"""
_STOP_SQL = "update training_state set wanted = 'stopped', reason = 'asked to stop'"
_POLICY_SQL = """
update training_state set max_restarts = coalesce($1, max_restarts), backoff_s = coalesce($2, backoff_s),
       watchdog_s = coalesce($3, watchdog_s)
returning max_restarts, backoff_s, watchdog_s
"""
_LOGS_SQL = """
select log_id, logged_at as at, stream, line from training_logs where $1::text is null or stream = $1
order by log_id desc limit $2
"""
_POLICY_EXAMPLES: dict[str, Any] = {
    "patient": {"summary": "Five tries, with longer pauses", "value": {"max_restarts": 5, "backoff_s": 2}}
}


@router.post("/training/start", responses=documented(503), summary="Start the updater", operation_id="start_training")
async def start(request: Request) -> TrainingStatus:
    """Some `recsys updater` begins within seconds, if one runs anywhere; its count of restarts begins anew."""
    await _execute(request, _START_SQL)
    return await status(request)


@router.post("/training/stop", responses=documented(503), summary="Stop the updater", operation_id="stop_training")
async def stop(request: Request) -> TrainingStatus:
    """It commits what it has read and ends. The model in service stays as it is, and events stay in the log."""
    await _execute(request, _STOP_SQL)
    return await status(request)


@router.get(
    "/training/status",
    responses=documented(503),
    summary="Get the status of the updater",
    operation_id="training_status",
)
async def status(request: Request) -> TrainingStatus:
    """State, offset, lag, heartbeat, restarts, and how well it predicts beside the frozen nightly model."""
    state: State = request.app.state.service

    async def read(connection: asyncpg.Connection) -> tuple[Any, UpdateRow | None]:
        return await connection.fetchrow(_STATE_SQL), await store.newest(connection)

    row, last = await state.lookups.transaction(read)
    own = {
        name: row[name]
        for name in ("wanted", "state", "reason", "holder", "fence", "heartbeat_age_s", "supervisor", "restarts")
    }
    window = dict(last.metrics.get("window") or {}) if last else {}
    return TrainingStatus(
        **own,
        supervisor_age_s=row["supervisor_age_s"],
        restart_policy=RestartPolicy(**{name: row[name] for name in ("max_restarts", "backoff_s", "watchdog_s")}),
        model=last.base if last else None,
        last_update=last.number if last else 0,
        last_update_at=last.created_at if last else None,
        last_update_age_s=(row["now"] - last.created_at).total_seconds() if last and last.created_at else None,
        log=last.log if last else None,
        offset=last.after if last else None,
        lag=await _lag(state, last),
        progressive=window,
        rollbacks=row["n_rollbacks"],
        last_rollback={"at": row["rolled_back_at"], "reason": row["rollback_reason"]}
        if row["rolled_back_at"]
        else None,
    )


@router.get(
    "/training/logs", responses=documented(422, 503), summary="Get the log of the updater", operation_id="training_logs"
)
async def logs(
    request: Request, stream: LogStream | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> TrainingLogs:
    """The tail of the log of the updater, of its supervisor, or of both; the newest 10,000 lines are kept."""
    state: State = request.app.state.service
    rows = await state.lookups.transaction(lambda connection: connection.fetch(_LOGS_SQL, stream, limit))
    return TrainingLogs(lines=[LogLine(**{**dict(row), "line": row["line"][:_MAX_LINE]}) for row in reversed(rows)])


@router.patch(
    "/training/restart-policy",
    responses=documented(413, 422, 503),
    summary="Change the updater's restart policy",
    operation_id="restart_policy",
)
async def restart_policy(
    request: Request, body: Annotated[NewRestartPolicy, Body(openapi_examples=_POLICY_EXAMPLES)]
) -> RestartPolicy:
    """Holds at once. What is not given, or null, stays as it is."""
    values = (body.max_restarts, body.backoff_s, body.watchdog_s)
    state: State = request.app.state.service
    row = await state.writes.transaction(lambda connection: connection.fetchrow(_POLICY_SQL, *values))
    return RestartPolicy(**dict(row))


@router.get(
    "/updates/list", responses=documented(422, 503), summary="List updates of the model", operation_id="updates"
)
async def updates(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
    before: Annotated[int | None, Query(ge=1, le=2**53, description="only those with a lower number")] = None,
) -> UpdatesList:
    """What the updater has committed, the newest first; artifacts of old ones are deleted, their rows stay longer."""
    state: State = request.app.state.service
    rows = await state.lookups.transaction(lambda connection: store.latest_updates(connection, limit, before))
    return UpdatesList(updates=[_info(row) for row in rows])


def _info(row: UpdateRow) -> UpdateInfo:
    values = row._asdict()
    del values["log"]
    return UpdateInfo(offset=values.pop("after"), **values)


async def _execute(request: Request, sql: str) -> None:
    state: State = request.app.state.service

    async def work(connection: asyncpg.Connection) -> None:
        await connection.execute(sql)
        await connection.execute("select pg_notify($1, '')", TRAINING)

    await state.writes.transaction(work)


async def _lag(state: State, last: UpdateRow | None) -> int | None:
    """Events after the last update; None where the log does not tell in time, or is another one by now."""
    if last is not None and last.log != state.log.name:
        return None
    try:
        return await asyncio.wait_for(state.log.lag(last.after if last else ""), _LAG_S)
    except (LogAwayError, TimeoutError, ApiError):
        return None
