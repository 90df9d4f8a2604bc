"""Requests and responses of /online/streaming."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fast_api_service.events.schemas import StoredEvent
from fast_api_service.schemas import ItemId, UserId

MAX_SAMPLE = 100


class Reader(BaseModel):
    name: str = Field(description="updater, monitor, relay, sink, or archive: with its folder's name")
    log: str = Field(description="the log that it reads: postgres, or kafka: with the topic")
    offset: str = Field(description="its offset in that log; empty: at the beginning")
    lag: int | None = Field(
        description="events after its offset, at most 1,000,001; null: its offset is of another log than the one in use"
    )
    updated_at: dt.datetime | None = Field(description="when the offset was last stored; null: never, or not needed")


class StreamingStatus(BaseModel):
    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    log: str = Field(description="postgres, or kafka: with the topic")
    end: str = Field(description="the offset after the last readable event")
    readers: list[Reader] = Field(
        description="all of them; the monitor, which serves /online/streaming/consume, always reads from the end"
    )


class StreamingConfig(BaseModel):
    """The settings come from the environment; of options that may be secret, only the names are returned."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    log: str
    outbox: bool = Field(description="whether `recsys relay` delivers, instead of the service")
    servers: str | None
    topic: str | None
    dead_letters: str | None
    options: dict[str, str | int | float | bool] = Field(description="those that cannot be secret, with their values")
    hidden_options: list[str]


class ConsumeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(10, ge=1, le=MAX_SAMPLE, description="how many events")


class SampledEvent(StoredEvent):
    user_id: UserId | None
    item_id: ItemId


class ConsumeAnswer(BaseModel):
    """Some of the latest events, newest last."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    events: list[SampledEvent]
