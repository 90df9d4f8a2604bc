"""/online/streaming: monitoring of the event log. Nothing here moves a reader's offset."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body
from fastapi.responses import Response

from fast_api_service.auth.scopes import needs
from fast_api_service.errors import documented
from fast_api_service.events.endpoints import in_type, types_of
from fast_api_service.events.streaming_schemas import ConsumeAnswer, ConsumeRequest, StreamingConfig, StreamingStatus
from fast_api_service.runtime.state import ServiceState, State
from recsys.api_key import ADMIN, METRICS
from recsys.events.log import START, EventLog
from recsys.events.postgres_log import PostgresLog
from recsys.settings import load
from recsys.updater.store import TrainingStore

router = APIRouter(tags=["online"])

_READERS_SQL = """select reader, "after", updated_at from log_offsets order by reader"""
_RELAY, _SINK = "relay", "sink"  # with Kafka; the relay reads the tables
_SHOWN_OPTIONS = frozenset({
    "batch.size", "client.id", "compression.type", "linger.ms", "message.timeout.ms", "queue.buffering.max.messages",
    "sasl.mechanism", "sasl.mechanisms", "security.protocol",
})  # fmt: skip


@router.get(
    "/online/streaming/status",
    response_model=StreamingStatus,
    responses=documented(503),
    summary="Status of the event log and its readers",
    operation_id="streaming_status",
)
@needs(METRICS)
async def status(state: ServiceState) -> Response:
    """Queries the log itself, so it is 503 while that is away."""
    tables = PostgresLog(state.lookups)
    log = _log_for_lookups(state, tables)
    end = await log.end()
    rows = await state.lookups.transaction(lambda connection: connection.fetch(_READERS_SQL))
    learned = await TrainingStore(state.lookups).newest()
    offsets = {name: (after, updated_at) for name, after, updated_at in rows}
    settings = load()
    if settings.kafka_bootstrap_servers:
        for name in (_RELAY, _SINK) if settings.event_outbox else (_SINK,):
            offsets.setdefault(name, (START, None))
    updated_at = learned.created_at if learned else None
    of_updater = state.log.name if learned is None else learned.log
    readers = [
        await _reader("updater", log, of_updater, learned.after if learned else START, updated_at),
        {"name": "monitor", "log": log.name, "offset": end, "lag": 0, "updated_at": None},
    ]
    for name, (after, updated_at) in offsets.items():
        of_reader = tables if name == _RELAY else log
        readers.append(await _reader(name, of_reader, of_reader.name, after, updated_at))
    return _answer({"success": True, "log": log.name, "end": end, "readers": readers})


@router.get(
    "/online/streaming/config",
    response_model=StreamingConfig,
    summary="Configuration of the event log",
    operation_id="streaming_config",
)
@needs(METRICS)
async def config(state: ServiceState) -> Response:
    """From the environment of this worker, without secrets."""
    settings = load()
    kafka = bool(settings.kafka_bootstrap_servers)
    return _answer(
        {
            "success": True,
            "log": state.log.name,
            "outbox": kafka and settings.event_outbox,
            "servers": settings.kafka_bootstrap_servers if kafka else None,
            "topic": settings.kafka_topic if kafka else None,
            "dead_letters": f"{settings.kafka_topic}.dlq" if kafka else None,
            "options": {name: value for name, value in settings.kafka_options.items() if name in _SHOWN_OPTIONS},
            "hidden_options": sorted(settings.kafka_options.keys() - _SHOWN_OPTIONS),
        }
    )


@router.post(
    "/online/streaming/consume",
    response_model=ConsumeAnswer,
    responses=documented(413, 422, 503),
    summary="Some of the latest events",
    operation_id="streaming_consume",
)
@needs(ADMIN)
async def consume(
    state: ServiceState,
    body: Annotated[ConsumeRequest, Body(openapi_examples={"five": {"summary": "Five events", "value": {"limit": 5}}})],
) -> Response:
    """A sample of events: no reader's offset moves, and the next call may return the same."""
    types = types_of(state)
    events = [
        {
            "event_id": event.event_id,
            "user_id": None if event.user_id is None else in_type(event.user_id, types["user"], "user"),
            "item_id": in_type(event.item_id, types["item"], "item"),
            "event_type": event.event_type,
            "timestamp": event.occurred_at,
            "session_id": event.session_id,
            "label": event.label,
            "parameters": orjson.Fragment(event.parameters),
        }
        for event in await _log_for_lookups(state, PostgresLog(state.lookups)).sample(body.limit)
    ]
    return _answer({"success": True, "events": events})


def _log_for_lookups(state: State, tables: PostgresLog) -> EventLog:
    """The event log; where that is Postgres, over the connections for look-ups, since writes may wait for long."""
    return tables if state.log.name == tables.name else state.log


async def _reader(
    name: str, log: EventLog, name_of_log: str, after: str, updated_at: dt.datetime | None
) -> dict[str, Any]:
    """A reader's offset and lag; `name_of_log`: of the log that the offset is of."""
    lag = None
    if name_of_log == log.name:
        with contextlib.suppress(ValueError):  # the offset is of another event log
            lag = await log.lag(after)
    return {"name": name, "log": name_of_log, "offset": after, "lag": lag, "updated_at": updated_at}


def _answer(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
