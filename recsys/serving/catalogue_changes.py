"""Applies posted objects to stored ones: merging, bounds, cycles. No database, no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from recsys.errors import InputError

MAX_PROPERTIES = 64
MAX_PROPERTIES_BYTES = 16 * 1024  # as JSON
PRICE = "price"

Properties = Mapping[str, Any]


@dataclass(frozen=True)
class ItemState:
    """The state of an item. `price` is stored among the properties."""

    category_id: str | None = None
    available: bool = True
    title: str | None = None
    price: float | None = None
    properties: Properties = field(default_factory=dict)

    @classmethod
    def stored(cls, category_id: str | None, available: bool, title: str | None, properties: Properties) -> ItemState:
        """From a row. Raw data have prices as text; a price that is not a number is None."""
        rest = {name: value for name, value in properties.items() if name != PRICE}
        return cls(category_id, available, title, _number(properties.get(PRICE)), rest)

    @property
    def stored_properties(self) -> Properties:
        """The properties with the price, as stored."""
        return self.properties if self.price is None else {**self.properties, PRICE: self.price}

    def updated(self, change: Mapping[str, Any]) -> ItemState:
        """The item after `change`: missing fields stay, None removes, properties are merged by name.

        Raises InputError when changed properties would exceed the bounds.
        """
        merged = merge(self.properties, change.get("properties") or {})
        after = replace(self, **{name: value for name, value in change.items() if name != "properties"})
        after = replace(after, properties=merged)
        if after.stored_properties != self.stored_properties:
            check_bounds(after.stored_properties)
        return after


def updated_properties(former: Properties, change: Properties) -> Properties:
    """Properties of a user after `change`; InputError when they would exceed the bounds."""
    merged = merge(former, change)
    if merged != former:
        check_bounds(merged)
    return merged


def merge(former: Properties, change: Properties) -> dict[str, Any]:
    """JSON merge patch (RFC 7396) of flat objects: None removes a name, other values are set."""
    return {name: value for name, value in {**former, **change}.items() if value is not None}


def check_bounds(properties: Properties) -> None:
    """InputError for more than MAX_PROPERTIES names or more than MAX_PROPERTIES_BYTES of JSON."""
    if len(properties) > MAX_PROPERTIES:
        raise InputError(f"properties: {len(properties)} names, at most {MAX_PROPERTIES} are kept; null removes one")
    n_bytes = len(orjson.dumps(properties))
    if n_bytes > MAX_PROPERTIES_BYTES:
        raise InputError(f"properties: {n_bytes} bytes of JSON, at most {MAX_PROPERTIES_BYTES} are kept")


def cycle(parents: Mapping[str, str | None], category_id: str, parent_id: str | None) -> list[str]:
    """The path from the category back to itself if `parent_id` became its parent; empty when there is none."""
    way = [category_id]
    at = parent_id
    while at is not None and at not in way[1:]:
        way.append(at)
        if at == category_id:
            return way
        at = parents.get(at)
    return []


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
