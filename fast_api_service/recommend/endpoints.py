"""POST /recommend, a direct route, and GET /similar/{item_id}; both respond with encoded JSON."""

from __future__ import annotations

import time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Path, Request
from fastapi import Query as UrlQuery
from fastapi.responses import Response

from fast_api_service.auth.scopes import needs
from fast_api_service.direct import DirectRoute, JsonBytes
from fast_api_service.errors import ApiError, documented
from fast_api_service.postgres.away import DatabaseAwayError
from fast_api_service.predict.service import Feats, rescoring
from fast_api_service.recommend import service
from fast_api_service.recommend.repository import UserRow
from fast_api_service.runtime.state import ServiceState, State
from fast_api_service.schemas import RecommendAnswer, RecommendRequest, SimilarAnswer, TopK
from fast_api_service.traffic import SIMILAR
from recsys.action import interest_of
from recsys.api_key import RECOMMEND
from recsys.errors import InputError
from recsys.events.names import names_of
from recsys.ids import BLANKS, MAX_ID_LENGTH
from recsys.serving import blend, cascade
from recsys.serving.config import ServingConfig
from recsys.serving.ids import ExternalId, to_external
from recsys.serving.recent import Recent
from recsys.serving.snapshot import Query, Snapshot

router = APIRouter(tags=["recommend"])
direct = APIRouter(tags=["recommend"], route_class=DirectRoute)

_READING_SHARE = 0.8  # of the time until the deadline; the rest is for building the response

_EXAMPLES: dict[str, Any] = {
    "a user": {"summary": "For one user", "value": {"user_id": 1, "top_k": 10}},
    "nobody": {"summary": "Anonymously: popular items", "value": {"top_k": 5}},
    "a category": {
        "summary": "Within a category",
        "value": {"user_id": 1, "category_id": 1, "surface": "category_list", "top_k": 5},
    },
    "a product page": {
        "summary": "Beside a product, with the reason for each item",
        "value": {"user_id": 1, "surface": "product_detail", "item_ids": [1], "explain": True, "top_k": 5},
    },
    "a guest": {
        "summary": "For a guest who viewed some items",
        "value": {"session_id": "example-session", "seq": [1, 2], "top_k": 5},
    },
    "candidates": {
        "summary": "Rank these items",
        "value": {"user_id": 1, "candidate_items": [1, 2, 3, 4, 5], "top_k": 3},
    },
    "filtered": {
        "summary": "Within a price range, in some categories",
        "value": {"filters": {"categories": [1], "properties": {"price": {"min": 1, "max": 50}}}, "top_k": 5},
    },
    "without": {
        "summary": "Without some items",
        "value": {"user_id": 1, "exclude": [1, 2], "surface": "cart", "top_k": 3},
    },
}


@direct.post(
    "/recommend",
    response_model=RecommendAnswer,
    responses=documented(404, 413, 422, 503),
    summary="Recommendations for a user",
    operation_id="recommend",
)
@needs(RECOMMEND)
async def recommend(request: Request, body: Annotated[RecommendRequest, Body(openapi_examples=_EXAMPLES)]) -> Response:
    """Neighbours of the items in context, then the user's list blended with what follows their recent events in the
    sessions of others (`session`; neighbours of these events without an index of sessions), then popular items; each
    source fills the places that the previous ones left open. Users without a list get one computed from their recent
    events, once these are on three items (`fold_in`).

    Unavailable, excluded and bought items are never recommended. Without any data on the user, popular items are. What
    cannot be read in time (Postgres is away or slow) is left out: the response is built from memory, and
    `provenance.degraded` lists the missing parts.
    """
    state: State = request.app.state.service
    now = service.in_service(state)
    snapshot = now.snapshot
    warnings: list[str] = []
    query = query_of(body, snapshot, now.config, warnings)
    user_id = None if body.user_id is None else to_external(body.user_id, snapshot.user_id_type, "user")
    deadline_ms = min(body.deadline_ms or state.settings.deadline_ms, state.settings.deadline_ms)
    timeout_s = service.time_left_s(request.scope, deadline_ms) * _READING_SHARE
    row, degraded = await _user_row(state, snapshot, user_id, body.session_id, timeout_s)
    stored = user = service.user_state(snapshot, row)
    if body.seq is not None:
        seen = service.item_keys(snapshot, body.seq, "seq", warnings)
        type_ = _event_type_of_seq(state, snapshot, now.config, warnings)
        user = user._replace(seq=[Recent(key, type_, place) for place, key in enumerate(seen)][::-1])
    feats = Feats(body.user_feats, warnings, degraded, [])
    degraded += service.not_loaded(now, user, body.surface)
    if body.user_feats or now.config.by_surface[body.surface].blend == "rescore":
        user = rescoring(now, user, None if row is None else row.user_key, body.surface, feats)
    picks = cascade.recommend(snapshot, user, query, now.config)
    tier, sources = cascade.tier(picks), [pick.attribution.source for pick in picks]
    status = service.user_status(user_id, body.session_id, row, stored)
    provenance = service.origin(request.scope, now, tier, degraded)
    provenance["user"] = status
    provenance["n_recent"] = blend.n_recent(snapshot, user, query, now.config)
    provenance["surface"] = body.surface
    provenance["config_id"] = now.config_id
    if feats.rescored_by:
        provenance["rescored_by"] = feats.rescored_by[0]
    n_requested = body.top_k if query.candidate_keys is None else min(body.top_k, len(set(query.candidate_keys)))
    state.metrics.traffic.count_answer("/recommend", body.surface, tier, sources, n_requested, degraded)
    if status != "known":
        state.metrics.cold_starts.labels(status).inc()
    state.exposures.note(request.scope, picks, sources, provenance, body.surface, user_id, body.session_id)
    answer: dict[str, Any] = {
        "success": True,
        "user_id": user_id,
        "recommendations": service.entries(snapshot, picks, explain=body.explain),
        "provenance": provenance,
    }
    if warnings:
        answer["warnings"] = warnings
    return JsonBytes(orjson.dumps(answer))


@router.get(
    "/similar/{item_id:id}",
    response_model=SimilarAnswer,
    responses=documented(404, 422, 503),
    summary="Neighbours of an item",
    operation_id="similar",
)
@needs(RECOMMEND)
async def similar(
    request: Request,
    state: ServiceState,
    item_id: Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)],
    top_k: Annotated[TopK, UrlQuery()] = 10,
) -> Response:
    """What is seen or bought together with the item, filled up by what is like it; only real neighbours, so the
    list may be shorter than `top_k`."""
    now = service.in_service(state)
    snapshot = now.snapshot
    own_id, item_key = _known_item(snapshot, item_id)
    degraded = service.degraded(snapshot)
    picks = cascade.neighbours(snapshot, item_key, top_k=top_k)
    tier, sources = cascade.tier(picks), [pick.attribution.source for pick in picks]
    state.metrics.traffic.count_answer("/similar/{item_id}", SIMILAR, tier, sources, top_k, degraded)
    provenance = service.origin(request.scope, now, tier, degraded)
    state.exposures.note(request.scope, picks, sources, provenance, SIMILAR)
    answer: dict[str, Any] = {
        "success": True,
        "item_id": own_id,
        "recommendations": service.entries(snapshot, picks),
        "provenance": provenance,
    }
    return JsonBytes(orjson.dumps(answer))


def query_of(body: RecommendRequest, snapshot: Snapshot, config: ServingConfig, warnings: list[str]) -> Query:
    """The request, with ids resolved to keys; unknown ids are reported in `warnings`. ApiError 404, InputError."""
    return Query(
        top_k=body.top_k,
        category_key=service.category_key(snapshot, body.category_id),
        excluded=set(service.item_keys(snapshot, body.exclude)),
        context_keys=service.item_keys(snapshot, body.item_ids, "item_ids", warnings),
        candidate_keys=None
        if body.candidate_items is None
        else service.item_keys(snapshot, body.candidate_items, "candidate_items", warnings),
        surface=body.surface,
        now_ms=time.time() * 1000,
        who=service.who(body.user_id, body.session_id),
        restriction=service.restriction(snapshot, body.filters, config.by_surface[body.surface].filters, warnings),
    )


def _event_type_of_seq(state: State, snapshot: Snapshot, config: ServingConfig, warnings: list[str]) -> str:
    """The event type of the items in `seq`; with a warning where it has no weight."""
    type_ = names_of(snapshot.meaning, config, state.event_synonyms).seen
    if interest_of(type_, snapshot.meaning.under(config).weights) <= 0:
        warnings.append("seq: no event type that it could stand for has a positive weight here, so it counts nothing")
    return type_


async def _user_row(
    state: State, snapshot: Snapshot, user_id: ExternalId | None, session_id: str | None, timeout_s: float
) -> tuple[UserRow | None, list[str]]:
    """The user's row, and the parts that could not be read; nothing is read for anonymous requests."""
    if user_id is None and session_id is None:
        return None, service.degraded(snapshot)
    try:
        text_id = None if user_id is None else str(user_id)
        return await state.database.reads.user(text_id, session_id, timeout_s), service.degraded(snapshot)
    except DatabaseAwayError:
        missing = (service.PERSONAL_LISTS, service.RECENT_EVENTS) if user_id is not None else (service.RECENT_EVENTS,)
        return None, service.degraded(snapshot, *missing)


def _known_item(snapshot: Snapshot, item_id: str) -> tuple[ExternalId, int]:
    try:
        own_id = to_external(item_id.strip(BLANKS), snapshot.items.json_type, "item")
    except InputError as error:
        raise ApiError(404, "unknown_item", str(error)) from None
    key = snapshot.items.key(own_id)
    if key is None:
        raise ApiError(404, "unknown_item", f"there is no item {item_id!r} in the catalogue")
    return own_id, key
