"""The catalogue: items, users and categories, singly and in bulk, and the erasure of a user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Depends, Path
from fastapi.responses import Response
from pydantic import BaseModel

from fast_api_service.auth.scopes import needs
from fast_api_service.catalogue import erasure
from fast_api_service.catalogue.repository import CatalogueStore, Change, Entity, Outcome
from fast_api_service.catalogue.schemas import (
    STORED_ID,
    AllRejected,
    AnyObject,
    CategoriesIn,
    CategoryFields,
    CategoryIn,
    CategoryOut,
    Deleted,
    ItemFields,
    ItemIn,
    ItemOut,
    ItemsIn,
    ObjectsIn,
    Receipt,
    Stored,
    StoredMany,
    Unusable,
    UserFields,
    UserIn,
    UserOut,
    UsersIn,
)
from fast_api_service.errors import ApiError, documented
from fast_api_service.runtime.state import ServiceState, State
from fast_api_service.schemas import CategoryId, ItemId, UserId
from recsys.api_key import CATALOGUE, USERS

router = APIRouter(tags=["catalogue"])

_Data = ItemIn | UserIn | CategoryIn
_ITEM: dict[str, Any] = {"available": False, "title": "An example", "price": 9.5, "properties": {"colour": "blue"}}
_USER: dict[str, Any] = {"properties": {"country": "UK"}}


def _example(summary: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"example": {"summary": summary, "value": value}}


_IN_BULK = documented(413, 503) | {
    207: {"model": StoredMany, "description": "Some were stored, others rejected"},
    422: {"model": AllRejected, "description": "The request cannot be used, or every object was rejected"},
}


async def _store(state: ServiceState) -> CatalogueStore:
    return CatalogueStore(state.writes, state.lookups)


Store = Annotated[CatalogueStore, Depends(_store)]
ItemPath = Annotated[ItemId, Path()]
UserPath = Annotated[UserId, Path()]
CategoryPath = Annotated[CategoryId, Path()]


# --- items


@router.put("/items", responses=_IN_BULK, summary="Store items", operation_id="put_items")
@needs(CATALOGUE)
async def put_items(
    state: ServiceState,
    store: Store,
    body: Annotated[
        ItemsIn,
        Body(
            openapi_examples=_example("An item that is shown to nobody", {"items": [{"item_id": STORED_ID, **_ITEM}]})
        ),
    ],
) -> StoredMany:
    """Up to 1,000 items in one transaction. What cannot be stored is rejected with its reason, the rest is stored."""
    return await _put_many(state, store, _changes("item", body.items))


@router.put(
    "/items/{item_id:id}", responses=documented(413, 422, 503), summary="Store an item", operation_id="put_item"
)
@needs(CATALOGUE)
async def put_item(
    state: ServiceState,
    store: Store,
    item_id: ItemPath,
    body: Annotated[ItemFields, Body(openapi_examples=_example("An item that is shown to nobody", _ITEM))],
) -> Stored:
    """Add an item or change it: what is left out stays as it was. Made unavailable, it is gone from every answer
    within a second."""
    return await _put_one(state, store, Change("item", item_id, _given(body)))


@router.get("/items/{item_id:id}", responses=documented(404, 422, 503), summary="Get an item", operation_id="get_item")
@needs(CATALOGUE)
async def get_item(store: Store, item_id: ItemPath) -> ItemOut:
    """What is known of an item."""
    return ItemOut.model_validate(_known("item", item_id, await store.item(item_id)))


@router.delete(
    "/items/{item_id:id}", responses=documented(422, 503), summary="Delete an item", operation_id="delete_item"
)
@needs(CATALOGUE)
async def delete_item(state: ServiceState, store: Store, item_id: ItemPath) -> Deleted:
    """For ever: the item is recommended to nobody, and its id is not used again. To take it away for a while, store
    `available: false`."""
    return _deleted(state, "item", *await store.delete("item", item_id))


# --- users


@router.put("/users", responses=_IN_BULK, summary="Store users", operation_id="put_users")
@needs(USERS)
async def put_users(
    state: ServiceState,
    store: Store,
    body: Annotated[UsersIn, Body(openapi_examples=_example("One user", {"users": [{"user_id": STORED_ID, **_USER}]}))],
) -> StoredMany:
    """Up to 1,000 users in one transaction. What cannot be stored is rejected with its reason, the rest is stored."""
    return await _put_many(state, store, _changes("user", body.users))


@router.put("/users/{user_id:id}", responses=documented(413, 422, 503), summary="Store a user", operation_id="put_user")
@needs(USERS)
async def put_user(
    state: ServiceState,
    store: Store,
    user_id: UserPath,
    body: Annotated[UserFields, Body(openapi_examples=_example("A user", _USER))],
) -> Stored:
    """Add a user or change one: properties that are left out stay as they were."""
    return await _put_one(state, store, Change("user", user_id, _given(body)))


@router.get("/users/{user_id:id}", responses=documented(404, 422, 503), summary="Get a user", operation_id="get_user")
@needs(USERS)
async def get_user(store: Store, user_id: UserPath) -> UserOut:
    """What the catalogue knows of a user."""
    return UserOut.model_validate(_known("user", user_id, await store.user(user_id)))


@router.delete(
    "/users/{user_id:id}", responses=documented(422, 503), summary="Erase a user", operation_id="delete_user"
)
@needs(USERS)
async def delete_user(state: ServiceState, user_id: UserPath) -> Receipt:
    """Everywhere in Postgres, for ever, known or not; the receipt says how many rows went from where.

    The SHA-256 of the id is kept, so that neither an import nor the nightly preparation brings the user back. Files
    of data sets and models that were made before are not touched; the next night makes new ones without them.
    """
    id_, erased_at, removed = await erasure.erase(state.writes, user_id)
    return Receipt.model_validate({"user_id": id_, "erased_at": erased_at, "removed": removed})


# --- categories


@router.put("/categories", responses=_IN_BULK, summary="Store categories", operation_id="put_categories")
@needs(CATALOGUE)
async def put_categories(
    state: ServiceState,
    store: Store,
    body: Annotated[
        CategoriesIn, Body(openapi_examples=_example("One category", {"categories": [{"category_id": STORED_ID}]}))
    ],
) -> StoredMany:
    """Up to 1,000 categories in one transaction, parents before their children. What cannot be stored is rejected with
    its reason, the rest is stored."""
    return await _put_many(state, store, _changes("category", body.categories))


@router.put(
    "/categories/{category_id:id}",
    responses=documented(413, 422, 503),
    summary="Store a category",
    operation_id="put_category",
)
@needs(CATALOGUE)
async def put_category(
    state: ServiceState,
    store: Store,
    category_id: CategoryPath,
    body: Annotated[CategoryFields, Body(openapi_examples=_example("A root", {"parent_id": None}))],
) -> Stored:
    """Add a category or move it. An unknown parent and a cycle are rejected."""
    return await _put_one(state, store, Change("category", category_id, _given(body)))


@router.get(
    "/categories/{category_id:id}",
    responses=documented(404, 422, 503),
    summary="Get a category",
    operation_id="get_category",
)
@needs(CATALOGUE)
async def get_category(store: Store, category_id: CategoryPath) -> CategoryOut:
    """A category and its parent."""
    return CategoryOut.model_validate(_known("category", category_id, await store.category(category_id)))


@router.delete(
    "/categories/{category_id:id}",
    responses=documented(409, 422, 503),
    summary="Delete a category",
    operation_id="delete_category",
)
@needs(CATALOGUE)
async def delete_category(state: ServiceState, store: Store, category_id: CategoryPath) -> Deleted:
    """For ever, when no item and no category is in it (else 409); its id is not used again."""
    return _deleted(state, "category", *await store.delete("category", category_id))


# --- anything


@router.post(
    "/store_object", responses=documented(413, 422, 503), summary="Store an object", operation_id="store_object"
)
@needs(CATALOGUE, USERS)
async def store_object(
    state: ServiceState,
    store: Store,
    body: Annotated[
        AnyObject, Body(openapi_examples=_example("An item", {"type": "item", "data": {"item_id": STORED_ID, **_ITEM}}))
    ],
) -> Stored:
    """The same as PUT of an item, a user or a category."""
    return await _put_one(state, store, _change(body.type, body.data))


@router.post("/store_objects", responses=_IN_BULK, summary="Store objects", operation_id="store_objects")
@needs(CATALOGUE, USERS)
async def store_objects(
    state: ServiceState,
    store: Store,
    body: Annotated[
        ObjectsIn,
        Body(
            openapi_examples=_example(
                "A category and an item in it",
                {
                    "objects": [
                        {"type": "item", "data": {"item_id": STORED_ID, "category_id": STORED_ID, **_ITEM}},
                        {"type": "category", "data": {"category_id": STORED_ID}},
                        {"type": "user", "data": {"user_id": STORED_ID, **_USER}},
                    ]
                },
            )
        ),
    ],
) -> StoredMany:
    """Up to 1,000 items, users and categories in one transaction; categories are stored first."""
    changes = [one if isinstance(one, Unusable) else _change(one.type, one.data) for one in body.objects]
    return await _put_many(state, store, changes)


def _change(entity: Entity, data: _Data) -> Change:
    fields = _given(data)
    return Change(entity, fields.pop(f"{entity}_id"), fields)


def _changes(entity: Entity, data: Sequence[_Data | Unusable]) -> list[Change | Unusable]:
    return [one if isinstance(one, Unusable) else _change(entity, one) for one in data]


def _given(body: BaseModel) -> dict[str, Any]:
    return body.model_dump(exclude_unset=True)


async def _put_one(state: State, store: CatalogueStore, change: Change) -> Stored:
    [outcome] = await store.put([change])
    if outcome.reason:
        raise ApiError(422, "rejected", outcome.reason)
    state.wake()
    return Stored.model_validate({"type": outcome.entity, "id": outcome.id, "result": outcome.result})


async def _put_many(state: State, store: CatalogueStore, changes: Sequence[Change | Unusable]) -> Any:
    """200 where all is stored, 207 where some is, 422 where nothing is."""
    usable = [one for one in changes if not isinstance(one, Unusable)]
    outcomes = iter(await store.put(usable) if usable else [])
    stored: dict[str, list[Any]] = {"created": [], "updated": [], "unchanged": []}
    rejected = []
    for index, one in enumerate(changes):
        became = one if isinstance(one, Unusable) else next(outcomes)
        if became.reason:
            rejected.append({"index": index, "reason": became.reason})
        elif isinstance(became, Outcome):
            stored[became.result].append({"type": became.entity, "id": became.id})
    if len(rejected) == len(changes):
        error = f"nothing was stored; the first of {len(changes)} reasons: {rejected[0]['reason']}"
        return _json(422, {"success": False, "status": "all_rejected", "error": error, "rejected": rejected})
    state.wake()
    return _json(207 if rejected else 200, {"success": True, **stored, "rejected": rejected})


def _json(code: int, body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), code, media_type="application/json")


def _known(entity: Entity, id_: int | str, found: dict[str, Any] | None) -> dict[str, Any]:
    if found is None:
        raise ApiError(404, f"unknown_{entity}", f"there is no {entity} {id_!r} in the catalogue")
    return found


def _deleted(state: State, entity: Entity, id_: int | str, was_there: bool) -> Deleted:
    state.wake()
    return Deleted(type=entity, id=id_, result="deleted" if was_there else "absent")
