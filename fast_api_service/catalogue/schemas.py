"""Objects of the catalogue, as OpenAPI shows them."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
)

from fast_api_service.errors import ErrorAnswer, in_words
from fast_api_service.schemas import CategoryId, ItemId, UserId
from recsys.serving.catalogue_changes import MAX_PROPERTIES, MAX_PROPERTIES_BYTES, PRICE

# For the examples, which may be run over and over: what is stored under the one is shown to nobody.
STORED_ID = 999_999_999_999
ABSENT_ID = STORED_ID + 1
MAX_OBJECTS = 1000
_MAX_NUMBER = 10**18 - 1  # beyond it, JSON readers disagree

EntityName = Literal["item", "user", "category"]
Result = Literal["created", "updated", "unchanged"]

_Text = Annotated[str, StringConstraints(pattern=r"^[^\u0000]*$")]
_Whole = Annotated[int, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER, strict=True)]
_Real = Annotated[float, Field(allow_inf_nan=False, strict=True)]
_Flag = Annotated[bool, Field(strict=True)]
_Scalar = _Flag | _Whole | _Real | _Text
_Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\u0000]*$")]
_Properties = Annotated[
    dict[_Name, _Scalar | list[_Scalar] | None],
    Field(
        max_length=MAX_PROPERTIES,
        description=f"told one by one: null removes one, those not named stay; at most {MAX_PROPERTIES} and "
        f"{MAX_PROPERTIES_BYTES // 1024} KiB",
    ),
]


class Unusable(NamedTuple):
    """Stands in a list where an object cannot be read, so that the others can be stored."""

    reason: str


def _or_reason(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        words = [in_words({**problem, "loc": ("body", *problem["loc"])}) for problem in problems[:3]]
        return Unusable("; ".join(words) if isinstance(value, dict) else "should be an object")


_Lenient = WrapValidator(_or_reason)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ItemFields(_Strict):
    """What an item may be told to be. What is left out stays as it is, or takes its default in a new item."""

    category_id: CategoryId | None = Field(None, description="a category of the catalogue; null: none")
    available: bool = Field(True, strict=True, description="false: it is recommended to nobody, within a second")
    title: Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\u0000]*$")] | None = None
    price: Annotated[float, Field(ge=0, le=_MAX_NUMBER, allow_inf_nan=False, strict=True)] | None = None
    properties: _Properties = Field({})

    @field_validator("properties")
    @classmethod
    def _price_has_its_field(cls, properties: dict[str, Any]) -> dict[str, Any]:
        if PRICE in properties:
            raise ValueError("the price is a field of its own, beside the properties")
        return properties


class UserFields(_Strict):
    """What a user may be told to be."""

    properties: _Properties = Field({})


class CategoryFields(_Strict):
    """What a category may be told to be."""

    parent_id: CategoryId | None = Field(None, description="a category of the catalogue; null: a root")


class ItemIn(ItemFields):
    item_id: ItemId


class UserIn(UserFields):
    user_id: UserId


class CategoryIn(CategoryFields):
    category_id: CategoryId


class ItemsIn(_Strict):
    items: list[Annotated[ItemIn, _Lenient]] = Field(min_length=1, max_length=MAX_OBJECTS)


class UsersIn(_Strict):
    users: list[Annotated[UserIn, _Lenient]] = Field(min_length=1, max_length=MAX_OBJECTS)


class CategoriesIn(_Strict):
    categories: list[Annotated[CategoryIn, _Lenient]] = Field(min_length=1, max_length=MAX_OBJECTS)


class ItemObject(_Strict):
    type: Literal["item"]
    data: ItemIn


class UserObject(_Strict):
    type: Literal["user"]
    data: UserIn


class CategoryObject(_Strict):
    type: Literal["category"]
    data: CategoryIn


# not of Field, of which FastAPI takes the Body of a route alone
AnyObject = Annotated[ItemObject | UserObject | CategoryObject, Discriminator("type")]


class ObjectsIn(_Strict):
    objects: list[Annotated[AnyObject, _Lenient]] = Field(min_length=1, max_length=MAX_OBJECTS)


class ListedItem(BaseModel):
    item_id: ItemId
    category_id: CategoryId | None
    available: bool
    title: str | None
    price: float | None
    properties: dict[str, Any]


class ItemOut(ListedItem):
    success: Literal[True] = True


class ListedUser(BaseModel):
    user_id: UserId
    properties: dict[str, Any]


class UserOut(ListedUser):
    success: Literal[True] = True


class ListedCategory(BaseModel):
    category_id: CategoryId
    parent_id: CategoryId | None


class CategoryOut(ListedCategory):
    success: Literal[True] = True


AnyId = Annotated[int | str, WithJsonSchema({"type": ["integer", "string"]})]


class Stored(BaseModel):
    """What became of one object."""

    success: Literal[True] = True
    type: EntityName
    id: AnyId
    result: Result


class StoredObject(BaseModel):
    type: EntityName
    id: AnyId


class RejectedObject(BaseModel):
    index: int = Field(description="place in the list that was sent, from 0")
    reason: str


class StoredMany(BaseModel):
    """What became of each object. All that was not rejected is stored, in one transaction."""

    success: Literal[True] = True
    created: list[StoredObject]
    updated: list[StoredObject]
    unchanged: list[StoredObject]
    rejected: list[RejectedObject]


class AllRejected(ErrorAnswer):
    """Nothing was stored: the request cannot be used, or none of its objects (then `rejected` says why)."""

    rejected: list[RejectedObject] = Field([])


class Deleted(BaseModel):
    """The thing is not there (any more)."""

    success: Literal[True] = True
    type: EntityName
    id: AnyId
    result: Literal["deleted", "absent"] = Field(description="absent: there was none, and nothing changed")


class Removed(BaseModel):
    """How many rows were removed, by place; 0 where there were none."""

    model_config = ConfigDict(extra="forbid")

    users: int = Field(description="the id and the properties; the row stays, so that its key is never given again")
    events: int = Field(description="posted events, also of sessions without a user that this user had")
    event_quarantine: int
    user_recent: int = Field(description="what recommendations read of their last events and of their sessions")
    lists: int = Field(description="ranked and personal lists and histories of all publications that are kept")
    raw_events: int = Field(description="imported events")
    raw_user_properties: int
    predictions: int = Field(
        description="answers that were shown to them, or in a session of theirs; those still in memory are not written"
    )


class Receipt(BaseModel):
    """What an erasure removed. The user is remembered by the SHA-256 of the id alone, so that no import brings them
    back."""

    success: Literal[True] = True
    user_id: UserId
    erased_at: dt.datetime = Field(description="when they were erased first")
    removed: Removed


class ItemIds(_Strict):
    item_ids: list[ItemId] = Field(min_length=1, max_length=1000)


class CategoryIds(_Strict):
    category_ids: list[CategoryId] = Field(min_length=1, max_length=1000)


class UserIds(_Strict):
    user_ids: list[UserId] = Field(min_length=1, max_length=100)


class DeletedMany(BaseModel):
    """What became of each."""

    success: Literal[True] = True
    deleted: list[AnyId]
    absent: list[AnyId] = Field(description="there was none, and nothing changed")
    rejected: list[RejectedObject]


class Receipts(BaseModel):
    success: Literal[True] = True
    receipts: list[Receipt]


class ItemPage(BaseModel):
    success: Literal[True] = True
    items: list[ListedItem]
    next: ItemId | None = Field(description="`after` of the next page; null: this is the last one")


class UserPage(BaseModel):
    success: Literal[True] = True
    users: list[ListedUser]
    next: UserId | None = Field(description="`after` of the next page; null: this is the last one")


class CategoryPage(BaseModel):
    success: Literal[True] = True
    categories: list[ListedCategory]
    next: CategoryId | None = Field(description="`after` of the next page; null: this is the last one")
