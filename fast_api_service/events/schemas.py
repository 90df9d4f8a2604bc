"""Requests and responses of the event endpoints."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema

from fast_api_service.schemas import ItemId, TextId, UserId
from recsys.events.names import TYPE_PATTERN

MAX_SAMPLES = 1000


Timestamp = Annotated[
    dt.datetime | float, WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]})
]
EventType = Annotated[str, Field(pattern=TYPE_PATTERN)]
_OWNED: list[JsonValue] = [
    {"required": ["user_id"], "properties": {"user_id": {"type": ["integer", "string"]}}},
    {"required": ["session_id"], "properties": {"session_id": {"type": "string"}}},
]


class Sample(BaseModel):
    """One event. `{"user_id": 123, "item_id": 6, "label": 1}` is enough; guests have a session_id instead."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"anyOf": _OWNED})

    item_id: ItemId
    user_id: UserId | None = Field(None, description="may be missing for a guest, who has a session_id")
    session_id: TextId | None = Field(None, description="a later request with user_id and session_id joins the two")
    event_id: TextId | None = Field(
        None,
        description="makes retries safe; without it one is derived from the content and timestamp, else from the header"
        " Idempotency-Key, else from the ten minutes before and after. A purchase with none of them counts each time it"
        " is sent",
    )
    event_type: EventType | None = Field(
        None,
        description="default, also without action_type: view, or the shop's type of lowest weight that is no purchase",
    )
    action_type: EventType | None = Field(None, description="alias of event_type, which takes precedence")
    timestamp: Timestamp | None = Field(None, description="when it happened; default: now")
    label: float | None = Field(None, ge=-1e9, le=1e9, description="how much it was liked")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="of the action: stars, quantity, price, duration; and context known before it: device, campaign …",
    )
    features: dict[str, Any] = Field(
        default_factory=dict,
        description="of the user or the context, as known to the client; used like user_feats of /predict",
    )
    version: TextId | None = Field(None, description="the client's own label for what sent this")


class Samples(BaseModel):
    """Up to 1,000 samples; each is validated by itself, so that an invalid one does not affect the others."""

    model_config = ConfigDict(extra="forbid")

    # `x-schema` becomes a reference in the document; see fast_api_service.openapi
    samples: list[Annotated[Any, WithJsonSchema({"x-schema": "Sample"})]] = Field(min_length=1, max_length=MAX_SAMPLES)


AddRequest = Samples | Sample  # documentation: `events.samples` validates


class RejectedEvent(BaseModel):
    index: int = Field(description="position in samples")
    code: Literal[409, 422] = Field(description="409: the event_id is taken by another event; 422: invalid")
    reason: str


class AddAnswer(BaseModel):
    """`success` when nothing was rejected."""

    model_config = ConfigDict(extra="forbid")

    success: bool
    accepted: int = Field(description="new in the log, and durable")
    duplicates: int = Field(description="already in the log; they count once")
    rejected: list[RejectedEvent]
    position: int | None = Field(description="the log's position after these events")
    stored_as: dict[str, str] = Field(
        {},
        description="posted event types that are synonyms of one in the shop's data → that type; under '' the type of"
        " events without one, unless view",
    )
    warnings: list[str] = Field([], description="unused parts of events, and purchases that count in each retry")


class StoredEvent(BaseModel):
    event_id: str
    item_id: ItemId
    event_type: str
    timestamp: dt.datetime
    session_id: str | None
    label: float | None
    parameters: dict[str, Any]


class EventsAnswer(BaseModel):
    """Newest first."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    user_id: UserId
    events: list[StoredEvent]
