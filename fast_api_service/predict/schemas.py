"""Requests and responses of the prediction endpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PlainValidator,
    Tag,
    WithJsonSchema,
    model_validator,
)

from fast_api_service.schemas import TEXT_ID_SCHEMA, CategoryId, ItemId, UserId, text_id
from recsys.serving.ids import external_id

MAX_PAIRS = 10_000
MAX_PRODUCTS = 1000
MAX_FEATURES = 50
UserFeatures = Annotated[
    dict[str, JsonValue],
    Field(
        max_length=MAX_FEATURES,
        description="of the request's time and the user, replacing stored values: day_of_week (1: Monday), hour or"
        " part_of_day (1 to 8, three hours each), n_events; /model/info lists those that the model uses. Others"
        " (device, campaign …) are context, like parameters of events",
    ),
]


_MAX_NUMBER = 2**53  # JSON numbers are exact up to here


def _product_id(value: Any) -> int | str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not tell 1.0 from 1
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _MAX_NUMBER:
            raise ValueError(f"a number is at most {_MAX_NUMBER}; send a longer one as text")
        return value
    return text_id(value)


ProductId = Annotated[
    int | str,
    PlainValidator(_product_id),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": -_MAX_NUMBER, "maximum": _MAX_NUMBER}, TEXT_ID_SCHEMA]}),
]


def _external_ids(values: Any) -> list[int | str]:
    """A list of ids; one validator for all, because one call per id takes longer than all other parsing."""
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_PAIRS:
        raise ValueError(f"a list of 1 to {MAX_PAIRS} ids is expected")
    if set(map(type, values)) == {int} and min(values) >= -_MAX_NUMBER and max(values) <= _MAX_NUMBER:
        return values
    for place, value in enumerate(values):
        try:
            values[place] = external_id(value)
        except ValueError as error:
            raise ValueError(f"{error} (at position {place})") from None
    return values


def _ids_of(entity: str) -> Any:
    schema = {"type": "array", "items": {"type": ["integer", "string"], "x-id-of": entity}}
    bounds = {"minItems": 1, "maxItems": MAX_PAIRS}
    return Annotated[list[int | str], PlainValidator(_external_ids), WithJsonSchema(schema | bounds)]


class _RequestBase(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_feats: UserFeatures = Field({})
    deadline_ms: float | None = Field(
        None, gt=0, le=60_000, description="time limit for reading users, in milliseconds; at most the service's limit"
    )


class Pair(BaseModel):
    """A user and an item."""

    model_config = ConfigDict(extra="forbid")

    user_id: UserId
    item_id: ItemId


class PredictPair(_RequestBase):
    """One pair."""

    user_id: UserId
    item_id: ItemId


class PredictLists(_RequestBase):
    """Pairs as two lists of equal length."""

    user_ids: _ids_of("user")  # type: ignore[valid-type]
    item_ids: _ids_of("item")  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _parallel(self) -> PredictLists:
        if len(self.user_ids) != len(self.item_ids):
            raise ValueError(f"{len(self.user_ids)} user_ids and {len(self.item_ids)} item_ids; give as many of both")
        return self


class PredictPairs(_RequestBase):
    """A list of pairs."""

    pairs: list[Pair] = Field(min_length=1, max_length=MAX_PAIRS)


def _form(body: Any) -> str:
    if isinstance(body, dict):
        return "pairs" if "pairs" in body else "lists" if "user_ids" in body or "item_ids" in body else "one"
    return "pairs" if isinstance(body, PredictPairs) else "lists" if isinstance(body, PredictLists) else "one"


PredictRequest = Annotated[
    Annotated[PredictPair, Tag("one")] | Annotated[PredictLists, Tag("lists")] | Annotated[PredictPairs, Tag("pairs")],
    Discriminator(_form),
]


class Product(BaseModel):
    """A client's product, sold as one or more items."""

    model_config = ConfigDict(extra="forbid")

    product_id: ProductId = Field(description="the client's own id, returned in the response")
    item_ids: list[ItemId] = Field(min_length=1, max_length=100)


class PositionsRequest(_RequestBase):
    """Positions of products in the listing of a category for a user."""

    user_id: UserId
    category_id: CategoryId = Field(description="the listing: available items of it and its subcategories")
    products: list[Product] = Field(min_length=1, max_length=MAX_PRODUCTS)


class ModelProvenance(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="artifact of the model that scored")
    publication_id: int
    degraded: list[str] = Field(description="parts that could not be read, so that the result is poorer")
    time_ms: float = Field(description="time spent in the service")


class Prediction(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_id: UserId
    item_id: ItemId
    probability: float = Field(
        ge=0,
        le=1,
        description="that the user interacts with this item rather than with a random one, both equally likely a"
        " priori; 0.5: no better than a random item",
    )


class PredictAnswer(BaseModel):
    """Predictions in the order of the pairs."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    predictions: list[Prediction]
    unknown_users: list[UserId] = Field(
        description="users unknown to the model: without a row of their own, and without events"
    )
    users_known_by_events: list[UserId] = Field(
        description="users with too few events for a row of their own in the model: scored by the items of these"
    )
    unknown_items: list[ItemId] = Field(
        description="items without a row of their own in the model: scored by their category, if that is known"
    )
    warnings: list[str] = Field([], description="parts of the request that could not be used")
    provenance: ModelProvenance


class Position(BaseModel):
    model_config = ConfigDict(extra="forbid")

    product_id: ProductId
    position: int | None = Field(ge=1, description="of its best item, 1 is first; null: none of its items is listed")
    item_id: ItemId | None = Field(description="that item")
    probability: float | None = Field(ge=0, le=1, description="of that item")


class PositionsAnswer(BaseModel):
    """Products in the order of the request."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    user_id: UserId
    category_id: CategoryId
    positions: list[Position]
    n_listed: int = Field(description="items that were ranked")
    n_available: int = Field(description="available items of the category; more than n_listed where the list was cut")
    unknown_user: bool = Field(description="unknown to the model: neither a row nor any event")
    warnings: list[str] = Field([], description="parts of the request that could not be used")
    provenance: ModelProvenance


class ExportAnswer(BaseModel):
    success: Literal[True] = True
    artifact: str
    path: str = Field(description="the folder, as seen by the service, or its URL in S3")
    created: bool = Field(description="false: the same weights were exported before")
    model: str
    files: dict[str, dict[str, Any]] = Field(description="by path: sha256 and bytes")
