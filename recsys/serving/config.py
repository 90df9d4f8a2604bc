"""The serving configuration: per surface the sources, their order, and the blending of recent events.

The defaults are in force until a version is stored; titles and descriptions are the help of the configuration's editor.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from recsys.ids import NO_NUL
from recsys.serving.filters import Filters

Surface = Literal["homepage", "product_detail", "category_list", "cart"]
SourceName = Literal["context", "lists", "popular_in_category", "popular", "available", "editorial", "popular_sampled"]
Policy = Literal["fuse", "interleave", "recent_first", "list_first", "rescore"]
EventType = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_NUL)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SurfaceConfig(_Part):
    """One surface."""

    sources: tuple[SourceName, ...] = Field(
        ("context", "lists", "popular_in_category", "popular", "available"),
        min_length=1,
        json_schema_extra={"uniqueItems": True},
        title="Sources in their order",
        description="Each fills what those before left open. context: neighbours of item_ids; lists: the user's list"
        " blended with what follows the latest events in the sessions of others (their neighbours without an index of"
        " sessions); editorial: items drawn by their property recommendation_weight; popular_sampled: popular items"
        " drawn by their popularity; both are the same for a user all day (UTC). Without `available` a response may be"
        " shorter than requested.",
    )
    blend: Policy = Field(
        "fuse",
        title="Blend of list and latest events",
        description="fuse: reciprocal rank fusion; interleave: alternating; recent_first, list_first: concatenated;"
        " rescore: the best of fuse, reranked by the model's probabilities (fuse while there is no model)",
    )
    recent_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        title="Weight of the latest events",
        description="in fuse; a stored list has 1, one folded in for a new user 0.5 (1/16 beside sessions);"
        " 0 ignores the events",
    )
    own_items: StrictBool = Field(
        True,
        title="What was just looked at, again",
        description="on: items of the latest events may come again, and first, unless a rule hides them;"
        " off: what follows the latest events are other items",
    )
    filters: Filters | None = Field(
        None, title="Rules that always hold here", description="as filters of a request, and in addition to them"
    )
    max_per_category: int | None = Field(
        None,
        ge=1,
        le=1000,
        title="Most items of one category",
        description="by the item's own category; items without one are not counted. No limit where it is empty",
    )
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        strict=True,
        title="Diversity",
        description="0: off; 1: maximal. The best 50 are reranked by maximal marginal relevance,"
        " by their categories and item factors",
    )

    @model_validator(mode="after")
    def _distinct(self) -> SurfaceConfig:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("a source is named twice")
        return self


class BoughtRule(_Part):
    """After an event of this type an item is not shown again."""

    event_type: EventType = Field(title="Type of event")
    days: float | None = Field(
        None, gt=0, le=36_500, title="For so many days", description="for ever where it is empty"
    )


class ServingConfig(_Part):
    """All that can be changed while the service runs."""

    surfaces: dict[Surface, SurfaceConfig] = Field({}, title="Surfaces", description="defaults for those not named")
    recent_half_life_hours: float = Field(
        24.0, gt=0, le=24 * 365, title="Half-life of the latest events", description="hours, from the newest one"
    )
    event_weights: dict[EventType, Annotated[float, Field(ge=0, le=1e6)]] | None = Field(
        None, title="Weights of event types", description="those of the data's source where it is empty"
    )
    bought: tuple[BoughtRule, ...] | None = Field(
        None, title="Not shown again", description="the data's own purchases, for ever, where it is empty"
    )
    use_latest_events: StrictBool = Field(
        True, title="Follow the latest events", description="off: lists only, without the events since their data"
    )

    fold_in: StrictBool = Field(
        True,
        title="Fold new users in",
        description="for users without a list, with events on 3 items: a list by the model's item factors, computed per"
        " request. off: neighbours of the items only",
    )

    @cached_property
    def by_surface(self) -> dict[Surface, SurfaceConfig]:
        """The configuration of each surface, or the default."""
        return {name: self.surfaces.get(name, DEFAULT_SURFACE) for name in get_args(Surface)}


DEFAULT_SURFACE = SurfaceConfig()
DEFAULT = ServingConfig()
