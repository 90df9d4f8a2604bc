"""POST /recommend and GET /similar/{item_id}: the hot routes. They answer with ready bytes."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Path, Query, Request
from fastapi.responses import Response

from fast_api_service.database import DatabaseAwayError, Lists
from fast_api_service.errors import ApiError, documented
from fast_api_service.metrics import SIMILAR
from fast_api_service.schemas import RecommendAnswer, RecommendRequest, SimilarAnswer, TopK
from fast_api_service.state import State
from recsys.errors import InputError
from recsys.serving import cascade
from recsys.serving.cascade import Pick
from recsys.serving.ids import MAX_ID_LENGTH, ExternalId, to_external
from recsys.serving.snapshot import Snapshot

router = APIRouter(tags=["recommend"])

_KIND_BY_TIER = {
    cascade.RANKED: "ranked",
    cascade.PERSONAL: "personal",
    cascade.POPULAR_IN_CATEGORY: "default",
    cascade.POPULAR: "default",
    cascade.I2I: "i2i",
    cascade.SIMILAR: "similar",
}
_UNREAD = "personal_lists"  # the part that is missing when a user's lists could not be read

_EXAMPLES: dict[str, Any] = {
    "a user": {"summary": "For one user", "value": {"user_id": 1, "top_k": 10}},
    "nobody": {"summary": "For nobody in particular: what is popular", "value": {"top_k": 5}},
    "a category": {"summary": "Within a category", "value": {"user_id": 1, "surface": "category_list", "top_k": 5}},
    "without": {"summary": "Without some items", "value": {"user_id": 1, "exclude": [], "surface": "cart", "top_k": 3}},
}


@router.post(
    "/recommend",
    response_model=RecommendAnswer,
    responses=documented(404, 413, 422, 503),
    summary="Items for a user",
    operation_id="recommend",
)
async def recommend(request: Request, body: Annotated[RecommendRequest, Body(openapi_examples=_EXAMPLES)]) -> Response:
    """The user's ranked list, else his personal list, else what is popular; each fills what the former left open.

    Unavailable and excluded items are never shown. A user who is not known gets what is popular. While Postgres
    is away the answer is made from memory, without the user's own lists, and `provenance.degraded` says so.
    """
    state: State = request.app.state.service
    snapshot = _snapshot(state)
    category_key = _category(snapshot, body.category_id)
    excluded = _excluded(snapshot, body.exclude)
    user_id = None if body.user_id is None else to_external(body.user_id, snapshot.user_id_type, "user")
    lists, degraded = await _user_lists(state, snapshot, user_id)
    ranked, personal = (lists.first, lists.second) if lists else (None, None)
    picks = cascade.recommend(
        snapshot, ranked, personal, category_key=category_key, excluded=excluded, top_k=body.top_k
    )
    user = _user_status(user_id, lists)
    provenance = _provenance(request, snapshot, picks, degraded) | {"user": user, "surface": body.surface}
    _count(state, "/recommend", picks, body.top_k, degraded)
    state.metrics.answers.labels(body.surface, provenance["tier"]).inc()
    if user != "known":
        state.metrics.cold_starts.labels(user).inc()
    return _answer({"user_id": user_id}, snapshot, picks, provenance)


@router.get(
    "/similar/{item_id:path}",
    response_model=SimilarAnswer,
    responses=documented(404, 422, 503),
    summary="Neighbours of an item",
    operation_id="similar",
)
async def similar(
    request: Request,
    item_id: Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)],
    top_k: Annotated[TopK, Query()] = 10,
) -> Response:
    """What is seen or bought together with the item, filled up by what is like it; only real neighbours, so the
    list may be shorter than `top_k`."""
    state: State = request.app.state.service
    snapshot = _snapshot(state)
    item_key = _known_item(snapshot, item_id)
    try:
        lists = await state.database.item_lists(item_key, snapshot)
    except DatabaseAwayError:
        raise ApiError(
            503, "database_away", "neighbours cannot be read while Postgres is away; try again soon", 1
        ) from None
    state.look_now(lists.publication_id)
    picks = cascade.neighbours(snapshot, item_key, lists.first, lists.second, top_k=top_k)
    _count(state, "/similar/{item_id}", picks, top_k, [])
    provenance = _provenance(request, snapshot, picks, [])
    state.metrics.answers.labels(SIMILAR, provenance["tier"]).inc()
    return _answer({"item_id": snapshot.items.id(item_key)}, snapshot, picks, provenance)


def _snapshot(state: State) -> Snapshot:
    if state.snapshot is None:
        raise ApiError(503, "not_ready", state.problem, retry_after_s=2)
    return state.snapshot


def _category(snapshot: Snapshot, category_id: ExternalId | None) -> int | None:
    if category_id is None:
        return None
    key = snapshot.categories.key(to_external(category_id, snapshot.categories.json_type, "category"))
    if key is None:
        raise ApiError(404, "unknown_category", f"there is no category {category_id!r}; leave category_id out for all")
    return key


def _excluded(snapshot: Snapshot, item_ids: Sequence[ExternalId]) -> set[int]:
    keys = (snapshot.items.key(to_external(item_id, snapshot.items.json_type, "item")) for item_id in item_ids)
    return {key for key in keys if key is not None}


def _known_item(snapshot: Snapshot, item_id: str) -> int:
    try:
        key = snapshot.items.key(to_external(item_id, snapshot.items.json_type, "item"))
    except InputError as error:
        raise ApiError(404, "unknown_item", str(error)) from None
    if key is None:
        raise ApiError(404, "unknown_item", f"there is no item {item_id!r} in the catalogue")
    return key


async def _user_lists(state: State, snapshot: Snapshot, user_id: ExternalId | None) -> tuple[Lists | None, list[str]]:
    """The user's lists and the parts that could not be read; nobody in particular has no lists to read."""
    if user_id is None:
        return None, []
    try:
        lists = await state.database.user_lists(str(user_id), snapshot)
    except DatabaseAwayError:
        return None, [_UNREAD]
    state.look_now(lists.publication_id)
    return lists, []


def _user_status(user_id: ExternalId | None, lists: Lists | None) -> str:
    if user_id is None:
        return "anonymous"
    if lists is None:
        return "unread"
    if not lists.known:
        return "unknown"
    return "known" if lists.first or lists.second else "light"


def _provenance(request: Request, snapshot: Snapshot, picks: list[Pick], degraded: list[str]) -> dict[str, Any]:
    publication, tier = snapshot.publication, cascade.tier(picks)
    version = publication.lists.get(_KIND_BY_TIER.get(tier, ""))
    age_s = (dt.datetime.now(dt.UTC) - version.created_at).total_seconds() if version else None
    return {
        "publication_id": publication.publication_id,
        "dataset": publication.dataset,
        "models": publication.models,
        "tier": tier,
        "list_version": version.version if version else None,
        "list_age_s": round(age_s, 1) if age_s is not None else None,
        "degraded": degraded,
        "time_ms": round((time.perf_counter() - request.scope["state"]["started"]) * 1000, 2),
    }


def _count(state: State, route: str, picks: list[Pick], top_k: int, degraded: list[str]) -> None:
    for source in {pick.source for pick in picks}:
        state.metrics.items.labels(source).inc(sum(pick.source == source for pick in picks))
    state.metrics.list_length.labels(route).observe(len(picks))
    if len(picks) < top_k:
        state.metrics.short.labels(route).inc()
    for part in degraded:
        state.metrics.degraded.labels(part).inc()


def _answer(head: dict[str, Any], snapshot: Snapshot, picks: list[Pick], provenance: dict[str, Any]) -> Response:
    id_of = snapshot.items.id
    recommendations = [
        {"item_id": id_of(key), "score": _shortest(score), "rank": rank, "source": source, "generator": generator}
        for rank, (key, score, source, generator) in enumerate(picks, 1)
    ]
    body = {"success": True, **head, "recommendations": recommendations, "provenance": provenance}
    return Response(orjson.dumps(body), media_type="application/json")


def _shortest(score: float | None) -> float | None:
    """A stored float32 with the 7 digits that it holds."""
    return None if score is None else float(f"{score:.7g}")
