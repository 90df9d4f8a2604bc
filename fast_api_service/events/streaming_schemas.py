"""What the event log's state and a sample of it look like."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fast_api_service.events.schemas import StoredEvent
from fast_api_service.schemas import ItemId, UserId

MAX_SAMPLE = 100


class Reader(BaseModel):
    name: str = Field(description="updater, monitor, relay, sink, or archive: and its folder's name")
    log: str = Field(description="which log it reads: postgres, or kafka: and the topic")
    offset: str = Field(description="in that log, how far it is; empty: at the beginning")
    lag: int | None = Field(
        description="events after its offset, at most 1,000,001; null: its offset is of another log than the one in use"
    )
    updated_at: dt.datetime | None = Field(description="when the offset was last kept; null: never, or not needed")


class StreamingStatus(BaseModel):
    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    log: str = Field(description="postgres, or kafka: and the topic")
    end: str = Field(description="the offset after all that can be read now")
    readers: list[Reader] = Field(
        description="all of them; the monitor, who answers /online/streaming/consume, always reads from the end"
    )


class StreamingConfig(BaseModel):
    """Settings come from the environment alone; of those that may be secret, the names are told."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    log: str
    outbox: bool = Field(description="whether `recsys relay` delivers, instead of the service")
    servers: str | None
    topic: str | None
    dead_letters: str | None
    options: dict[str, str | int | float | bool] = Field(description="harmless ones with their values")
    hidden_options: list[str]


class ConsumeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(10, ge=1, le=MAX_SAMPLE, description="how many events")


class SampledEvent(StoredEvent):
    user_id: UserId | None
    item_id: ItemId


class ConsumeAnswer(BaseModel):
    """Some of the latest events, the newest last."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    events: list[SampledEvent]
