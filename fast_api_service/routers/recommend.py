"""POST /recommend and GET /similar/{item_id}: the hot routes. They answer with ready bytes."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Path, Request
from fastapi import Query as UrlQuery
from fastapi.responses import Response

from fast_api_service.database import DatabaseAwayError, Lists
from fast_api_service.errors import ApiError, documented
from fast_api_service.hot import HotRoute
from fast_api_service.metrics import SIMILAR
from fast_api_service.schemas import RecommendAnswer, RecommendRequest, SimilarAnswer, TopK
from fast_api_service.state import State
from recsys.errors import InputError
from recsys.serving import cascade
from recsys.serving.cascade import Pick, Query, UserState
from recsys.serving.ids import MAX_ID_LENGTH, ExternalId, to_external
from recsys.serving.recent import Recent
from recsys.serving.snapshot import Snapshot

router = APIRouter(tags=["recommend"])
hot = APIRouter(tags=["recommend"], route_class=HotRoute)

_KIND_BY_TIER = {
    cascade.RANKED: "ranked",
    cascade.PERSONAL: "personal",
    cascade.POPULAR_IN_CATEGORY: "default",
    cascade.POPULAR: "default",
    cascade.I2I: "i2i",
    cascade.SIMILAR: "similar",
}
_LISTS, _EVENTS = "personal_lists", "recent_events"  # parts that are missing when they could not be read
_SEEN = "view"  # what `seq` is taken for

_EXAMPLES: dict[str, Any] = {
    "a user": {"summary": "For one user", "value": {"user_id": 1, "top_k": 10}},
    "nobody": {"summary": "For nobody in particular: what is popular", "value": {"top_k": 5}},
    "a category": {"summary": "Within a category", "value": {"user_id": 1, "surface": "category_list", "top_k": 5}},
    "a product page": {
        "summary": "Beside a product, with what led to each item",
        "value": {"user_id": 1, "surface": "product_detail", "item_ids": [], "explain": True, "top_k": 5},
    },
    "a guest": {
        "summary": "For a guest who looked at some items",
        "value": {"session_id": "example-session", "seq": [], "top_k": 5},
    },
    "candidates": {
        "summary": "Rank these items",
        "value": {"user_id": 1, "candidate_items": [1, 2, 3, 4, 5], "top_k": 3},
    },
    "without": {"summary": "Without some items", "value": {"user_id": 1, "exclude": [], "surface": "cart", "top_k": 3}},
}


@hot.post(
    "/recommend",
    response_model=RecommendAnswer,
    responses=documented(404, 413, 422, 503),
    summary="Items for a user",
    operation_id="recommend",
)
async def recommend(request: Request, body: Annotated[RecommendRequest, Body(openapi_examples=_EXAMPLES)]) -> Response:
    """Neighbours of what is in context, then the user's list blended with neighbours of the latest events, then what
    is popular; each fills what the former left open.

    Unavailable, excluded and bought items are never shown. A user who is not known gets what is popular. While
    Postgres is away the answer is made from memory, without the user's own lists and events, and
    `provenance.degraded` says so.
    """
    state: State = request.app.state.service
    snapshot = _snapshot(state)
    warnings: list[str] = []
    query = Query(
        top_k=body.top_k,
        category_key=_category(snapshot, body.category_id),
        excluded=set(_keys(snapshot, body.exclude)),
        context_keys=_keys(snapshot, body.item_ids, "item_ids", warnings),
        candidate_keys=None
        if body.candidate_items is None
        else _keys(snapshot, body.candidate_items, "candidate_items", warnings),
        surface=body.surface,
        now_ms=time.time() * 1000,
    )
    user_id = None if body.user_id is None else to_external(body.user_id, snapshot.user_id_type, "user")
    lists, degraded = await _user_lists(state, snapshot, user_id, body.session_id)
    user = UserState() if lists is None else UserState(lists.first, lists.second, lists.recent)
    if body.seq is not None:
        seen = _keys(snapshot, body.seq, "seq", warnings)
        user = replace(user, seq=[Recent(key, _SEEN, place) for place, key in enumerate(seen)][::-1])
    picks = cascade.recommend(snapshot, user, query, state.config)
    status = _user_status(user_id, body.session_id, lists)
    provenance = _provenance(request, snapshot, picks, degraded)
    provenance |= {
        "user": status,
        "n_recent": len(user.recent if user.seq is None else user.seq),
        "surface": body.surface,
        "config_id": state.config_id,
    }
    _count(state, "/recommend", picks, body.top_k, degraded)
    state.metrics.answers.labels(body.surface, provenance["tier"]).inc()
    if status != "known":
        state.metrics.cold_starts.labels(status).inc()
    tail = {"warnings": warnings} if warnings else {}
    return _answer({"user_id": user_id}, snapshot, picks, provenance, tail, explain=body.explain)


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
    top_k: Annotated[TopK, UrlQuery()] = 10,
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


def _keys(
    snapshot: Snapshot, item_ids: Sequence[ExternalId], field: str = "", warnings: list[str] | None = None
) -> list[int]:
    """Keys of the known items; with `warnings`, how many are not known is said there."""
    keys = [snapshot.items.key(to_external(item_id, snapshot.items.json_type, "item")) for item_id in item_ids]
    known = [key for key in keys if key is not None]
    if warnings is not None and len(known) < len(keys):
        warnings.append(f"{field}: {len(keys) - len(known)} of {len(keys)} are not in the catalogue")
    return known


def _known_item(snapshot: Snapshot, item_id: str) -> int:
    try:
        key = snapshot.items.key(to_external(item_id, snapshot.items.json_type, "item"))
    except InputError as error:
        raise ApiError(404, "unknown_item", str(error)) from None
    if key is None:
        raise ApiError(404, "unknown_item", f"there is no item {item_id!r} in the catalogue")
    return key


async def _user_lists(
    state: State, snapshot: Snapshot, user_id: ExternalId | None, session_id: str | None
) -> tuple[Lists | None, list[str]]:
    """Lists and events, and the parts that could not be read; nobody in particular has nothing to read."""
    if user_id is None and session_id is None:
        return None, []
    try:
        lists = await state.database.user_lists(None if user_id is None else str(user_id), session_id, snapshot)
    except DatabaseAwayError:
        return None, [_LISTS, _EVENTS] if user_id is not None else [_EVENTS]
    state.look_now(lists.publication_id)
    return lists, []


def _user_status(user_id: ExternalId | None, session_id: str | None, lists: Lists | None) -> str:
    if user_id is None and session_id is None:
        return "anonymous"
    if lists is None:
        return "unread"
    if user_id is None:
        return "guest"
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


def _answer(
    head: dict[str, Any],
    snapshot: Snapshot,
    picks: list[Pick],
    provenance: dict[str, Any],
    tail: dict[str, Any] | None = None,
    *,
    explain: bool = False,
) -> Response:
    id_of = snapshot.items.id
    recommendations: list[dict[str, Any]] = [
        {"item_id": id_of(key), "score": _shortest(score), "rank": rank, "source": source, "generator": generator}
        for rank, (key, score, source, generator, _) in enumerate(picks, 1)
    ]
    if explain:
        for entry, pick in zip(recommendations, picks, strict=True):
            because_key = pick.because_key
            entry["reason"] = None if because_key is None else {"item_id": id_of(because_key)}
    body = {"success": True, **head, "recommendations": recommendations, "provenance": provenance, **(tail or {})}
    return Response(orjson.dumps(body), media_type="application/json")


def _shortest(score: float | None) -> float | None:
    """A stored float32 with the 7 digits that it holds."""
    return None if score is None else float(f"{score:.7g}")
