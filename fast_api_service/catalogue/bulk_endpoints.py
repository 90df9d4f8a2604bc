"""The catalogue, many objects at a time: pages of it, and deleting. Storing many is in catalogue.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Query
from fastapi.responses import Response

from fast_api_service.auth.scopes import needs
from fast_api_service.catalogue import bulk_repository, erasure
from fast_api_service.catalogue.repository import Entity
from fast_api_service.catalogue.schemas import (
    ABSENT_ID,
    AllRejected,
    CategoryIds,
    CategoryPage,
    DeletedMany,
    ItemIds,
    ItemPage,
    Receipts,
    UserIds,
    UserPage,
)
from fast_api_service.errors import documented
from fast_api_service.runtime.state import ServiceState, State
from fast_api_service.schemas import TextId
from recsys.api_key import CATALOGUE, USERS
from recsys.serving.ids import ExternalId

router = APIRouter(tags=["catalogue"])

After = Annotated[TextId | None, Query(description="the last id of the page before; none: from the beginning")]
Limit = Annotated[int, Query(ge=1, le=1000, description="how many at most")]
_DELETED = documented(413, 503) | {
    207: {"model": DeletedMany, "description": "Some could not be deleted"},
    422: {"model": AllRejected, "description": "The request cannot be used, or nothing could be deleted"},
}


def _ids(field: str) -> dict[str, Any]:
    return {"example": {"summary": "One that is not there", "value": {field: [ABSENT_ID]}}}


@router.get("/items", responses=documented(422, 503), summary="List items, page by page", operation_id="list_items")
@needs(CATALOGUE)
async def items(state: ServiceState, after: After = None, limit: Limit = 100) -> ItemPage:
    """In the order in which they came into the catalogue."""
    found = await bulk_repository.page(state.lookups, "item", after, limit)
    return ItemPage.model_validate({"items": found.objects, "next": found.next})


@router.get("/users", responses=documented(422, 503), summary="List users, page by page", operation_id="list_users")
@needs(USERS)
async def users(state: ServiceState, after: After = None, limit: Limit = 100) -> UserPage:
    """In the order in which they came into the catalogue."""
    found = await bulk_repository.page(state.lookups, "user", after, limit)
    state.metrics.count_unreadable_users(found.unreadable)
    return UserPage.model_validate({"users": found.objects, "next": found.next})


@router.get(
    "/categories",
    responses=documented(422, 503),
    summary="List categories, page by page",
    operation_id="list_categories",
)
@needs(CATALOGUE)
async def categories(state: ServiceState, after: After = None, limit: Limit = 100) -> CategoryPage:
    """In the order in which they came into the catalogue."""
    found = await bulk_repository.page(state.lookups, "category", after, limit)
    return CategoryPage.model_validate({"categories": found.objects, "next": found.next})


@router.delete("/items", responses=_DELETED, summary="Delete items", operation_id="delete_items")
@needs(CATALOGUE)
async def delete_items(
    state: ServiceState, body: Annotated[ItemIds, Body(openapi_examples=_ids("item_ids"))]
) -> DeletedMany:
    """Up to 1,000 items, for ever, in one transaction; their ids are not used again."""
    return await _delete(state, "item", body.item_ids)


@router.delete("/categories", responses=_DELETED, summary="Delete categories", operation_id="delete_categories")
@needs(CATALOGUE)
async def delete_categories(
    state: ServiceState, body: Annotated[CategoryIds, Body(openapi_examples=_ids("category_ids"))]
) -> DeletedMany:
    """Up to 1,000 categories, for ever, in the order that is given: children before their parents. One that holds
    something is rejected."""
    return await _delete(state, "category", body.category_ids)


@router.delete("/users", responses=documented(413, 422, 503), summary="Erase users", operation_id="delete_users")
@needs(USERS)
async def delete_users(
    state: ServiceState, body: Annotated[UserIds, Body(openapi_examples=_ids("user_ids"))]
) -> Receipts:
    """Up to 100 users, one after the other, each as by `DELETE /users/{user_id}`. With 503, those before the one that
    failed are erased; asking again for all is safe."""
    receipts = []
    for user_id in body.user_ids:
        id_, erased_at, removed = await erasure.erase(state.writes, user_id)
        receipts.append({"user_id": id_, "erased_at": erased_at, "removed": removed})
    return Receipts.model_validate({"receipts": receipts})


async def _delete(state: State, entity: Entity, ids: Sequence[ExternalId]) -> Any:
    gone = await bulk_repository.delete(state.writes, entity, ids)
    state.wake()
    if len(gone.rejected) == len(ids):
        error = f"nothing was deleted; the first of {len(ids)} reasons: {gone.rejected[0]['reason']}"
        refusal = {"success": False, "status": "all_rejected", "error": error, "rejected": gone.rejected}
        return Response(orjson.dumps(refusal), 422, media_type="application/json")
    answer = {"success": True, **gone._asdict()}
    return Response(orjson.dumps(answer), 207 if gone.rejected else 200, media_type="application/json")
