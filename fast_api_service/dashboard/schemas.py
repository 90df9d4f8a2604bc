"""Figures of the exposure log, as OpenAPI shows them."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

MAX_DAYS = 92
_DAY = "2[01][0-9]{2}-[0-9]{2}-[0-9]{2}"  # the years in which there may be answers


def _date(value: Any) -> dt.date:
    """A day as YYYY-MM-DD and in no other form."""
    try:
        if not re.fullmatch(_DAY, value):
            raise ValueError
        return dt.date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("should be a day from 2000 to 2199 as YYYY-MM-DD") from None


Day = Annotated[
    dt.date,
    PlainValidator(_date),
    WithJsonSchema({"type": "string", "format": "date", "pattern": f"^{_DAY}$"}),
]
Share = Annotated[float | None, Field(description="0 to 1; null where there is nothing to divide by")]
Milliseconds = Annotated[float | None, Field(description="time spent in the service; null without answers")]


class Figures(BaseModel):
    """What came of some answers. Followed: shown to a user or a session, with an item at least."""

    model_config = ConfigDict(extra="forbid")

    n_answers: int
    n_followed: int = Field(description="answers that hit rates and conversion are shares of")
    hit_rate: Share = Field(
        description="share of followed answers one of whose first k items was clicked within 30 min"
    )
    future_hit_rate: Share = Field(
        description="share of followed answers one of whose first k items was opened within 24 hours"
    )
    click_through: Share = Field(description="of all items in followed answers, the share clicked within 30 minutes")
    conversion: Share = Field(description="share of followed answers one of whose items was bought within 24 hours")
    degraded_share: Share = Field(description="share of answers that went out without a part")
    mean_ms: Milliseconds
    p95_ms: Milliseconds
    max_ms: Milliseconds


class CoveringFigures(Figures):
    coverage: Share = Field(description="of the items that are available now, the share that was shown")


class SurfaceFigures(CoveringFigures):
    surface: str


class ModelFigures(CoveringFigures):
    tier: str = Field(description="the source of the first item")
    list_version: str | None = Field(description="version of the list that answered; null: no list did")
    rescored_by: str | None = Field(description="the model that ordered the items anew; null: none did")


class DayFigures(Figures):
    day: dt.date = Field(description="of UTC")
    tiers: dict[str, int] = Field(description="answers by tier")


class InService(BaseModel):
    publication_id: int
    created_at: dt.datetime
    age_s: float
    dataset: str
    models: dict[str, Any]
    lists: dict[str, str] = Field(description="version by kind of list")
    config_id: int = Field(description="the serving configuration; 0: the defaults")


class DashboardData(BaseModel):
    success: Literal[True] = True
    date_from: dt.date
    date_to: dt.date
    k: int
    n_available: int = Field(description="items that are available now")
    bought_event_types: list[str] = Field(description="events that are a purchase")
    answers_per_day: float
    in_service: InService | None = Field(description="null: nothing is published")
    overall: CoveringFigures
    by_surface: list[SurfaceFigures]
    by_model: list[ModelFigures]
    by_day: list[DayFigures] = Field(description="days without answers are left out")
