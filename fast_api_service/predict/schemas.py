"""What is asked of the model, and what it answers."""

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
        description="of the moment and the user, in place of what is known: day_of_week (1: Monday), hour or"
        " part_of_day (1 to 8, three hours each), n_events; /model/info names those that the model takes. Others"
        " (device, campaign …) are context, as parameters of events are",
    ),
]


_FAR = 2**53  # JSON's numbers are exact up to there


def _product_id(value: Any) -> int | str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not tell 1.0 from 1
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _FAR:
            raise ValueError(f"a number is at most {_FAR}; send a longer one as text")
        return value
    return text_id(value)


ProductId = Annotated[
    int | str,
    PlainValidator(_product_id),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": -_FAR, "maximum": _FAR}, TEXT_ID_SCHEMA]}),
]


def _external_ids(values: Any) -> list[int | str]:
    """A list of ids; in one call, because one for each costs more than all the rest of the reading."""
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_PAIRS:
        raise ValueError(f"a list of 1 to {MAX_PAIRS} ids is expected")
    if set(map(type, values)) == {int} and min(values) >= -_FAR and max(values) <= _FAR:
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


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_feats: UserFeatures = Field({})
    deadline_ms: float | None = Field(
        None, gt=0, le=60_000, description="read users within so many milliseconds, at most the service's own limit"
    )


class Pair(BaseModel):
    """A user and an item."""

    model_config = ConfigDict(extra="forbid")

    user_id: UserId
    item_id: ItemId


class PredictPair(_Asked):
    """One pair."""

    user_id: UserId
    item_id: ItemId


class PredictLists(_Asked):
    """Pairs as two lists of equal length."""

    user_ids: _ids_of("user")  # type: ignore[valid-type]
    item_ids: _ids_of("item")  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _parallel(self) -> PredictLists:
        if len(self.user_ids) != len(self.item_ids):
            raise ValueError(f"{len(self.user_ids)} user_ids and {len(self.item_ids)} item_ids; give as many of both")
        return self


class PredictPairs(_Asked):
    """Pairs one by one."""

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
    """A product of the client's, which is sold as one or more items."""

    model_config = ConfigDict(extra="forbid")

    product_id: ProductId = Field(description="the client's own; it comes back in the answer")
    item_ids: list[ItemId] = Field(min_length=1, max_length=100)


class PositionsRequest(_Asked):
    """Where products stand when a category is listed for a user."""

    user_id: UserId
    category_id: CategoryId = Field(description="the listing: available items of it and of the categories below")
    products: list[Product] = Field(min_length=1, max_length=MAX_PRODUCTS)


class ModelProvenance(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="artifact of the model that answered")
    publication_id: int
    degraded: list[str] = Field(description="parts that could not be read, so that the answer is poorer")
    time_ms: float = Field(description="time spent in the service")


class Prediction(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_id: UserId
    item_id: ItemId
    probability: float = Field(
        ge=0,
        le=1,
        description="that this pair is one that happens, where beforehand it and the user with any item are equally"
        " likely; 0.5: suits as well as an item drawn blindly",
    )


class PredictAnswer(BaseModel):
    """Predictions in the order of the pairs."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    predictions: list[Prediction]
    unknown_users: list[UserId] = Field(
        description="users of whom the model knows nothing: neither a row of their own nor any event"
    )
    users_known_by_events: list[UserId] = Field(
        description="users with too few events for a row of their own in the model: known by the items of these"
    )
    unknown_items: list[ItemId] = Field(
        description="items without a row of their own in the model: known by their category alone, or not at all"
    )
    warnings: list[str] = Field([], description="what of the request could not be used")
    provenance: ModelProvenance


class Position(BaseModel):
    model_config = ConfigDict(extra="forbid")

    product_id: ProductId
    position: int | None = Field(ge=1, description="of its best item, 1 is first; null: none of them is listed")
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
    unknown_user: bool = Field(description="the model knows nothing of the user: neither a row nor any event")
    warnings: list[str] = Field([], description="what of the request could not be used")
    provenance: ModelProvenance


class ExportAnswer(BaseModel):
    success: Literal[True] = True
    artifact: str
    path: str = Field(description="the folder, seen from the service, or its address in S3")
    created: bool = Field(description="false: the same weights were exported before")
    model: str
    files: dict[str, dict[str, Any]] = Field(description="by path: sha256 and bytes")
