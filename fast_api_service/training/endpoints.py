"""/online/training and /online/updates: the updater, wherever it runs; all that is said here stands in Postgres."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from fast_api_service.auth.scopes import needs
from fast_api_service.errors import ApiError, documented
from fast_api_service.runtime.state import ServiceState, State
from fast_api_service.training.schemas import (
    LogLine,
    LogStream,
    NewRestartPolicy,
    RestartPolicy,
    Rollback,
    TrainingLogs,
    TrainingStatus,
    UpdateInfo,
    UpdatesList,
)
from recsys.api_key import ADMIN, METRICS
from recsys.events.log import LogAwayError
from recsys.updater.store import TrainingStore, UpdateRow

router = APIRouter(prefix="/online", tags=["online"])

_MAX_LINE = 2000  # characters of a line of the log that are shown
_LAG_S = 2.0
_POLICY_EXAMPLES: dict[str, Any] = {
    "patient": {"summary": "Five tries, with longer pauses", "value": {"max_restarts": 5, "backoff_s": 2}}
}


@router.post("/training/start", responses=documented(503), summary="Start the updater", operation_id="start_training")
@needs(ADMIN)
async def start(state: ServiceState) -> TrainingStatus:
    """Some `recsys updater` begins within seconds, if one runs anywhere; its count of restarts begins anew."""
    await _written(state).start()
    return await status(state)


@router.post("/training/stop", responses=documented(503), summary="Stop the updater", operation_id="stop_training")
@needs(ADMIN)
async def stop(state: ServiceState) -> TrainingStatus:
    """It commits what it has read and ends. The model in service stays as it is, and events stay in the log."""
    await _written(state).stop()
    return await status(state)


@router.get(
    "/training/status",
    responses=documented(503),
    summary="Get the status of the updater",
    operation_id="training_status",
)
@needs(METRICS)
async def status(state: ServiceState) -> TrainingStatus:
    """State, offset, lag, heartbeat, restarts, and how well it predicts beside the frozen nightly model."""
    store = _looked_up(state)
    now, last = await store.state(), await store.newest()
    own = {name: value for name, value in now._asdict().items() if name in TrainingStatus.model_fields}
    window = dict(last.metrics.get("window") or {}) if last else {}
    return TrainingStatus(
        **own,
        restart_policy=RestartPolicy.model_validate(now, from_attributes=True),
        model=last.base if last else None,
        last_update=last.number if last else 0,
        last_update_at=last.created_at if last else None,
        last_update_age_s=(now.at - last.created_at).total_seconds() if last and last.created_at else None,
        log=last.log if last else None,
        offset=last.after if last else None,
        lag=await _lag(state, last),
        progressive=window,
        rollbacks=now.n_rollbacks,
        last_rollback=Rollback(at=now.rolled_back_at, reason=now.rollback_reason or "") if now.rolled_back_at else None,
    )


@router.get(
    "/training/logs", responses=documented(422, 503), summary="Get the log of the updater", operation_id="training_logs"
)
@needs(METRICS)
async def logs(
    state: ServiceState, stream: LogStream | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> TrainingLogs:
    """The tail of the log of the updater, of its supervisor, or of both; the newest 10,000 lines are kept."""
    lines = await _looked_up(state).log_lines(stream, limit)
    return TrainingLogs(lines=[LogLine(**row._replace(line=row.line[:_MAX_LINE])._asdict()) for row in reversed(lines)])


@router.patch(
    "/training/restart-policy",
    responses=documented(413, 422, 503),
    summary="Change the updater's restart policy",
    operation_id="restart_policy",
)
@needs(ADMIN)
async def restart_policy(
    state: ServiceState, body: Annotated[NewRestartPolicy, Body(openapi_examples=_POLICY_EXAMPLES)]
) -> RestartPolicy:
    """Holds at once. What is not given, or null, stays as it is."""
    now = await _written(state).set_policy(body.max_restarts, body.backoff_s, body.watchdog_s)
    return RestartPolicy.model_validate(now, from_attributes=True)


@router.get(
    "/updates/list", responses=documented(422, 503), summary="List updates of the model", operation_id="updates"
)
@needs(METRICS)
async def updates(
    state: ServiceState,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
    before: Annotated[int | None, Query(ge=1, le=2**53, description="only those with a lower number")] = None,
) -> UpdatesList:
    """What the updater has committed, the newest first; artifacts of old ones are deleted, their rows stay longer."""
    return UpdatesList(updates=[_info(row) for row in await _looked_up(state).latest_updates(limit, before)])


def _info(row: UpdateRow) -> UpdateInfo:
    values = row._asdict()
    del values["log"]
    return UpdateInfo(offset=values.pop("after"), **values)


def _looked_up(state: State) -> TrainingStore:
    return TrainingStore(state.lookups)


def _written(state: State) -> TrainingStore:
    return TrainingStore(state.writes)


async def _lag(state: State, last: UpdateRow | None) -> int | None:
    """Events after the last update; None where the log does not tell in time, or is another one by now."""
    if last is not None and last.log != state.log.name:
        return None
    try:
        return await asyncio.wait_for(state.log.lag(last.after if last else ""), _LAG_S)
    except (LogAwayError, TimeoutError, ApiError):
        return None
