"""POST /recommend/batch: recommendations for many users."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Request
from fastapi.responses import Response

from fast_api_service.auth.scopes import needs
from fast_api_service.direct import DirectRoute, JsonBytes
from fast_api_service.errors import documented
from fast_api_service.postgres.away import DatabaseAwayError
from fast_api_service.predict.service import Feats, rescoring
from fast_api_service.recommend import service
from fast_api_service.recommend.batch_schemas import MAX_ITEMS_IN_BATCH, BatchAnswer, BatchRequest
from fast_api_service.recommend.repository import UserRow
from fast_api_service.runtime.state import State
from recsys.api_key import RECOMMEND
from recsys.errors import InputError
from recsys.serving import cascade
from recsys.serving.ids import ExternalId, to_external
from recsys.serving.snapshot import Query, Snapshot

router = APIRouter(tags=["recommend"], route_class=DirectRoute)

_ROUTE = "/recommend/batch"
_AT_ONCE = 2  # users, before yielding to other requests; one batch runs per iteration of the event loop
_EXAMPLES: dict[str, Any] = {
    "some users": {"summary": "For a newsletter", "value": {"user_ids": [1, 2], "top_k": 5}},
}


@router.post(
    _ROUTE,
    response_model=BatchAnswer,
    responses=documented(404, 413, 422, 503),
    summary="Recommendations for many users",
    operation_id="recommend_batch",
)
@needs(RECOMMEND)
async def recommend_batch(
    request: Request, body: Annotated[BatchRequest, Body(openapi_examples=_EXAMPLES)]
) -> Response:
    """The response of /recommend for each of up to 1,000 users, in their order. What cannot be read in time is left
    out of all results, and listed in `provenance.degraded`."""
    state: State = request.app.state.service
    now = service.in_service(state)
    snapshot = now.snapshot
    if len(body.user_ids) * body.top_k > MAX_ITEMS_IN_BATCH:
        raise InputError(
            f"{len(body.user_ids)} users with {body.top_k} items each; at most {MAX_ITEMS_IN_BATCH:,} items go into one"
            " answer: ask for fewer at a time"
        )
    warnings: list[str] = []
    query = Query(
        top_k=body.top_k,
        category_key=service.category_key(snapshot, body.category_id),
        excluded=set(service.item_keys(snapshot, body.exclude)),
        surface=body.surface,
        now_ms=time.time() * 1000,
        restriction=service.restriction(snapshot, body.filters, now.config.by_surface[body.surface].filters, warnings),
    )
    user_ids = [to_external(user_id, snapshot.user_id_type, "user") for user_id in body.user_ids]
    timeout_s = service.time_left_s(request.scope, min(body.deadline_ms, state.settings.batch_deadline_ms))
    rows, degraded = await _rows(state, snapshot, user_ids, timeout_s)
    results: list[orjson.Fragment] = []
    rescored_by: str | None = None
    missing = dict.fromkeys(degraded)  # in any of the results, in order
    for place, (user_id, row) in enumerate(zip(user_ids, rows, strict=True), 1):  # each is encoded at once
        feats, user = Feats({}, [], list(degraded), []), service.user_state(snapshot, row)
        feats.degraded.extend(service.not_loaded(now, user, body.surface))
        status = service.user_status(user_id, None, row, user)
        user = rescoring(now, user, None if row is None else row.user_key, body.surface, feats)
        picks = cascade.recommend(snapshot, user, query._replace(who=service.who(user_id)), now.config)
        missing.update(dict.fromkeys(feats.degraded))
        tier, sources = cascade.tier(picks), [pick.attribution.source for pick in picks]
        state.metrics.traffic.count_answer(_ROUTE, body.surface, tier, sources, body.top_k, feats.degraded)
        if status != "known":
            state.metrics.cold_starts.labels(status).inc()
        origin = service.origin(request.scope, now, tier, feats.degraded)
        origin |= {"config_id": now.config_id, "rescored_by": next(iter(feats.rescored_by), None)}
        rescored_by = rescored_by or origin["rescored_by"]
        state.exposures.note(request.scope, picks, sources, origin, body.surface, user_id)
        shown = service.entries(snapshot, picks, explain=body.explain)
        result = {"user_id": user_id, "user": status, "tier": tier, "recommendations": shown}
        results.append(orjson.Fragment(orjson.dumps(result)))
        if place % _AT_ONCE == 0:
            await state.appends.turn()
    provenance = service.origin(request.scope, now, cascade.NOTHING, list(missing))
    for field_of_one_result in ("tier", "list_version", "list_age_s"):
        del provenance[field_of_one_result]
    provenance |= {"surface": body.surface, "config_id": now.config_id}
    if rescored_by:
        provenance["rescored_by"] = rescored_by
    answer: dict[str, Any] = {"success": True, "results": results, "provenance": provenance}
    if warnings:
        answer["warnings"] = warnings
    return JsonBytes(orjson.dumps(answer))


async def _rows(
    state: State, snapshot: Snapshot, user_ids: list[ExternalId], timeout_s: float
) -> tuple[Sequence[UserRow | None], list[str]]:
    """Key and recent events of each user, and the parts that could not be read."""
    try:
        keys = [(str(user_id), None) for user_id in user_ids]
        return await state.database.reads.users(keys, timeout_s), service.degraded(snapshot)
    except DatabaseAwayError:
        missing = service.degraded(snapshot, service.PERSONAL_LISTS, service.RECENT_EVENTS)
        return [None] * len(user_ids), missing
