"""Request and response of POST /recommend/batch."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from fast_api_service.schemas import MAX_ITEMS, CategoryId, Item, ItemIds, Tier, TopK, UserId, UserStatus
from recsys.serving.config import Surface
from recsys.serving.filters import Filters

MAX_USERS: Final = 1000
MAX_ITEMS_IN_BATCH: Final = 100_000  # over all users


class BatchRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_ids: Annotated[list[UserId], Field(fail_fast=True)] = Field(min_length=1, max_length=MAX_USERS)
    top_k: TopK = 10
    category_id: CategoryId | None = Field(None, description="only items of this category and those below it")
    filters: Filters | None = Field(
        None, description="only items that match; category_id and the filters of the surface apply as well"
    )
    exclude: ItemIds = Field((), max_length=MAX_ITEMS, description="items to recommend to nobody")
    surface: Surface = Field("homepage", description="where the recommendations are shown")
    explain: StrictBool = Field(False, description="name the item that led to each item")
    deadline_ms: float = Field(
        60_000,
        gt=0,
        le=60_000,
        description="time limit for reading the users, in milliseconds; at most the service's limit",
    )


class UserResult(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_id: UserId
    user: UserStatus
    tier: Tier = Field(description="the source of the first item")
    recommendations: list[Item]


class BatchProvenance(BaseModel):
    """Provenance of all results of the batch."""

    model_config = ConfigDict(extra="forbid")

    publication_id: int
    dataset: str
    models: dict[str, Any]
    degraded: list[str] = Field(description="parts that could not be read, so that the results are poorer")
    time_ms: float
    surface: Surface
    config_id: int
    rescored_by: str | None = Field(None, description="artifact of the model that reordered the lists, if one did")


class BatchAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    results: list[UserResult] = Field(description="one for each of user_ids, in their order")
    provenance: BatchProvenance
    warnings: list[str] = Field([], description="parts of the request that could not be used")
