"""The updater, as it is told and governed over HTTP."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

TrainingStateName = Literal["stopped", "starting", "waiting", "running", "failed"]
LogStream = Literal["updater", "supervisor"]


class RestartPolicy(BaseModel):
    max_restarts: int = Field(description="after so many failures in a row it stays down until somebody starts it")
    backoff_s: float = Field(description="before the first restart; doubles with each one, up to a minute")
    watchdog_s: float = Field(description="an updater without a heartbeat for so long is killed")


def _whole(value: Any) -> Any:
    """JSON does not tell 5.0 from 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Restarts = Annotated[int, Field(strict=True, ge=0, le=1000), BeforeValidator(_whole)]


class NewRestartPolicy(BaseModel):
    """What is to change; at least one of the three."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    max_restarts: _Restarts | None = None
    backoff_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False, strict=True)] | None = None
    watchdog_s: Annotated[float, Field(ge=5, le=3600, allow_inf_nan=False, strict=True)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give max_restarts, backoff_s or watchdog_s")
        return self


class Rollback(BaseModel):
    at: dt.datetime
    reason: str


class TrainingStatus(BaseModel):
    success: Literal[True] = True
    wanted: Literal["running", "stopped"] = Field(description="what people ask for")
    state: TrainingStateName = Field(description="what is; waiting: for a publication with a model")
    reason: str = Field(description="why it is so")
    holder: str | None = Field(description="host and process that works; null: none")
    fence: int = Field(description="grows with every updater that begins to work; older ones are refused")
    heartbeat_age_s: float | None
    supervisor: str | None = Field(description="the `recsys updater` that watches; null: none was ever there")
    supervisor_age_s: float | None = Field(description="since its last heartbeat")
    restarts: int = Field(description="after failures, in a row")
    restart_policy: RestartPolicy
    model: str | None = Field(description="the nightly model that is updated")
    last_update: int = Field(description="its number, 0: none yet")
    last_update_at: dt.datetime | None
    last_update_age_s: float | None
    log: str | None = Field(description="the event log that is read")
    offset: str | None = Field(description="events up to here are in the last update")
    lag: int | None = Field(description="about how many events come after; null: the log did not answer")
    progressive: dict[str, Any] = Field(
        description="over the last events, predicted before they were learned, beside the frozen nightly model"
    )
    rollbacks: int
    last_rollback: Rollback | None


class LogLine(BaseModel):
    log_id: int
    at: dt.datetime
    stream: str
    line: str


class TrainingLogs(BaseModel):
    success: Literal[True] = True
    lines: list[LogLine] = Field(description="the newest, oldest of them first")


class UpdateInfo(BaseModel):
    number: int
    base: str = Field(description="the nightly model that it changes")
    is_base: bool = Field(description="holds all changes since the nightly model")
    artifact: str
    parent: str | None = Field(description="chain of the update before; null: begins anew")
    chain: str
    offset: str
    n_events: int
    newest_at: dt.datetime | None
    fence: int
    reason: str
    metrics: dict[str, Any]
    created_at: dt.datetime


class UpdatesList(BaseModel):
    success: Literal[True] = True
    updates: list[UpdateInfo] = Field(description="the newest first")
