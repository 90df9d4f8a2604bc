"""Filters of requests and of the configuration, in external ids and names."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from recsys.ids import NO_NUL
from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.eligibility import NumberRange, Restriction
from recsys.serving.ids import ExternalId, external_id

MAX_CATEGORIES = 100  # in each list
MAX_RANGES = 16
# Any id is accepted: one not of the catalogue's type is unknown, like others. OpenAPI gets the schema from `x-id-of`.
_CategoryId = Annotated[
    int | str, PlainValidator(external_id), WithJsonSchema({"type": ["integer", "string"], "x-id-of": "any"})
]
_CategoryIds = Annotated[tuple[_CategoryId, ...], Field(fail_fast=True)]  # up to the first invalid one
_PropertyName = Annotated[str, Field(min_length=1, max_length=256, pattern=NO_NUL)]
_Bound = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(_Part):
    """From `min` to `max`, both included; with neither, any number."""

    min: _Bound | None = Field(None, title="At least")
    max: _Bound | None = Field(None, title="At most")


class Filters(_Part):
    """Conditions on items, all of which must hold."""

    categories: _CategoryIds = Field(
        (), max_length=MAX_CATEGORIES, title="Categories", description="one of these or below; empty: all"
    )
    excluded_categories: _CategoryIds = Field(
        (), max_length=MAX_CATEGORIES, title="Categories to leave out", description="and all below them"
    )
    properties: dict[_PropertyName, Range] = Field(
        {},
        max_length=MAX_RANGES,
        title="Ranges of numeric properties",
        description="by name, such as price; an item without such a number does not match. /model/info names them",
    )


def resolve(
    filters: Filters,
    items: ItemDictionary,
    tree: CategoryTree,
    warnings: list[str] | None = None,
    place: str = "filters",
) -> Restriction:
    """The filters in keys. What the catalogue does not have matches nothing; a warning is added to `warnings`, with
    `place` as the path of the filters."""
    notes = [] if warnings is None else warnings
    categories = _below(filters.categories, tree, f"{place}.categories", notes) if filters.categories else None
    without = frozenset[int]()
    if filters.excluded_categories:
        without = _below(filters.excluded_categories, tree, f"{place}.excluded_categories", notes)
    for name, of in filters.properties.items():
        if items.numbers.column(name) is None:
            notes.append(f"{place}.properties: no item is known to have a number {name[:40]!r}, so none matches")
        if of.min is not None and of.max is not None and of.min > of.max:
            notes.append(f"{place}.properties: min of {name[:40]!r} is greater than its max, so no item matches")
    inf = float("inf")
    ranges = (
        NumberRange(name, -inf if of.min is None else of.min, inf if of.max is None else of.max)
        for name, of in filters.properties.items()
    )
    return Restriction(categories, without, tuple(ranges))


def _below(ids: tuple[ExternalId, ...], tree: CategoryTree, field: str, warnings: list[str]) -> frozenset[int]:
    """Keys of the known categories and of their descendants; cached per tree."""
    found, unknown = tree.below(ids)
    warnings.extend(f"{field}: there is no category {str(id_)[:40]!r}" for id_ in unknown)
    return found
