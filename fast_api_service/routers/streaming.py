"""/online/streaming: the event log as a monitor sees it. Nothing here moves the offset of a reader."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Request
from fastapi.responses import Response

from fast_api_service.errors import documented
from fast_api_service.routers.events import in_type, types_of
from fast_api_service.schemas_streaming import ConsumeAnswer, ConsumeRequest, StreamingConfig, StreamingStatus
from fast_api_service.state import State
from recsys.online.log import EventLog
from recsys.online.postgres_log import PostgresLog
from recsys.settings import load

router = APIRouter(tags=["online"])

_READERS_SQL = """select reader, "after", updated_at from log_offsets order by reader"""
_RELAY = "relay"  # reads the tables, also where Kafka is the log
_HARMLESS = frozenset({
    "batch.size", "client.id", "compression.type", "linger.ms", "message.timeout.ms", "queue.buffering.max.messages",
    "sasl.mechanism", "sasl.mechanisms", "security.protocol",
})  # fmt: skip


@router.get(
    "/online/streaming/status",
    response_model=StreamingStatus,
    responses=documented(503),
    summary="Where the event log ends, and how far its readers are",
    operation_id="streaming_status",
)
async def status(request: Request) -> Response:
    """Asks the log itself, so it is 503 where that is away."""
    state: State = request.app.state.service
    end = await state.log.end()
    rows = await state.lookups.transaction(lambda connection: connection.fetch(_READERS_SQL))
    readers = []
    for name, after, updated_at in rows:
        log = PostgresLog(state.lookups) if name == _RELAY else state.log
        readers.append({"name": name, "lag": await _lag(log, after), "updated_at": updated_at})
    return _answer({"success": True, "log": state.log.name, "end": end, "readers": readers})


@router.get(
    "/online/streaming/config",
    response_model=StreamingConfig,
    summary="How the event log is set",
    operation_id="streaming_config",
)
async def config(request: Request) -> Response:
    """From the environment of this worker; secrets are not told."""
    state: State = request.app.state.service
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
            "options": {name: value for name, value in settings.kafka_options.items() if name in _HARMLESS},
            "hidden_options": sorted(settings.kafka_options.keys() - _HARMLESS),
        }
    )


@router.post(
    "/online/streaming/consume",
    response_model=ConsumeAnswer,
    responses=documented(413, 422, 503),
    summary="Some of the latest events",
    operation_id="streaming_consume",
)
async def consume(
    request: Request,
    body: Annotated[ConsumeRequest, Body(openapi_examples={"five": {"summary": "Five events", "value": {"limit": 5}}})],
) -> Response:
    """A sample by a monitor of its own: no reader's offset moves, and the next call may show the same."""
    state: State = request.app.state.service
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
        for event in await state.log.sample(body.limit)
    ]
    return _answer({"success": True, "events": events})


async def _lag(log: EventLog, after: str) -> int | None:
    try:
        return await log.lag(after)
    except ValueError:  # kept while another log was the event log
        return None


def _answer(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
