"""POST /predict and POST /predict/product_positions: the model's probabilities of pairs, and order of a listing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Body, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from fast_api_service.auth.scopes import needs
from fast_api_service.direct import DirectRoute, JsonBytes
from fast_api_service.errors import documented
from fast_api_service.predict.schemas import (
    PositionsAnswer,
    PositionsRequest,
    PredictAnswer,
    PredictLists,
    PredictPairs,
    PredictRequest,
)
from fast_api_service.predict.service import (
    MODEL_PART,
    Pairs,
    Scored,
    askers,
    ids_of,
    in_service,
    read_users,
    score,
    without_row,
)
from fast_api_service.recommend import service
from fast_api_service.runtime.in_service import InService
from fast_api_service.runtime.model_loader import LoadedModel
from fast_api_service.runtime.state import State
from recsys.api_key import RECOMMEND
from recsys.serving.ids import ExternalId, to_external

router = APIRouter(tags=["recommend"], route_class=DirectRoute)

MAX_LISTED = 5000  # items of a category that are ranked
_PAIR_EXAMPLES: dict[str, Any] = {
    "a pair": {"summary": "One user, one item", "value": {"user_id": 1, "item_id": 1}},
    "lists": {"summary": "Two lists of equal length", "value": {"user_ids": [1, 1], "item_ids": [1, 2]}},
    "pairs": {
        "summary": "Pairs, on a Saturday evening",
        "value": {"pairs": [{"user_id": 1, "item_id": 1}], "user_feats": {"day_of_week": 6, "hour": 20}},
    },
}
_POSITION_EXAMPLES: dict[str, Any] = {
    "a listing": {
        "summary": "Positions of products in a category",
        "value": {
            "user_id": 1,
            "category_id": 1,
            "products": [{"product_id": 1, "item_ids": [1]}, {"product_id": 2, "item_ids": [2]}],
        },
    }
}


@router.post(
    "/predict",
    response_model=PredictAnswer,
    responses=documented(413, 422, 503),
    summary="Probabilities of pairs of user and item",
    operation_id="predict",
)
@needs(RECOMMEND)
async def predict(request: Request, body: Annotated[PredictRequest, Body(openapi_examples=_PAIR_EXAMPLES)]) -> Response:
    """By the model of the publication in service, including the users' latest events. Users and items without a row of
    their own in the model are scored by their other features, and listed in the response: users with events in
    `users_known_by_events`, those without any in `unknown_users`.

    503 `model_unavailable` while no model is loaded. While Postgres is away, all users are scored as unknown, and
    `provenance.degraded` lists the missing parts.
    """
    state: State = request.app.state.service
    now, model = in_service(state)
    given_users, given_items = _pairs(body)
    users = ids_of(given_users, now.snapshot.user_id_type, "user")
    items = ids_of(given_items, now.snapshot.items.json_type, "item")
    place = {user_id: at for at, user_id in enumerate(dict.fromkeys(users))}
    of_pair = np.zeros(len(users), dtype=np.int32)
    if len(place) > 1:
        of_pair[:] = list(map(place.__getitem__, users))
    read, degraded = await read_users(request.scope, state, now.snapshot, list(place), body.deadline_ms)
    features, warnings = model.scorer.read_features(body.user_feats)
    found = await score(now, model, Pairs(askers(now.config, read, features), of_pair, now.snapshot.items.keys(items)))
    answer = {
        "success": True,
        "predictions": [
            {"user_id": user, "item_id": item, "probability": probability}
            for user, item, probability in zip(users, items, found.probabilities, strict=True)
        ],
        "unknown_users": _distinct(list(place), found.is_unknown_user),
        "users_known_by_events": _distinct(list(place), found.is_known_by_events),
        "unknown_items": _distinct(items, found.is_unknown_item),
        "warnings": warnings,
        "provenance": _provenance(request, state, now, model, degraded),
    }
    state.metrics.predictions.inc(len(items))
    return JsonBytes(orjson.dumps(answer))


@router.post(
    "/predict/product_positions",
    response_model=PositionsAnswer,
    responses=documented(404, 413, 422, 503),
    summary="Positions of products in a category listing",
    operation_id="product_positions",
)
@needs(RECOMMEND)
async def product_positions(
    request: Request, body: Annotated[PositionsRequest, Body(openapi_examples=_POSITION_EXAMPLES)]
) -> Response:
    """The available items of the category and its subcategories, ranked for the user by the model; each product gets
    the position of its best item. Of more than 5,000 items, those of the request and the newest are ranked, with a
    warning."""
    state: State = request.app.state.service
    now, model = in_service(state)
    snapshot = now.snapshot
    user_id = to_external(body.user_id, snapshot.user_id_type, "user")
    category_id = to_external(body.category_id, snapshot.categories.json_type, "category")
    category_key = service.category_key(snapshot, category_id)
    assert category_key is not None  # noqa: S101 - None is only for None
    product_ids = [product.product_id for product in body.products]
    # with their ids, because an item may be deleted while the user is read
    items_of_products = [
        {snapshot.items.key(item): item for item in ids_of(product.item_ids, snapshot.items.json_type, "item")}
        for product in body.products
    ]
    available = snapshot.items.available_in(snapshot.categories.subtree(category_key))
    listed = _cut(available, {key for ids in items_of_products for key in ids if key is not None})
    (user, *_), degraded = await read_users(request.scope, state, snapshot, [user_id], body.deadline_ms)
    features, warnings = model.scorer.read_features(body.user_feats)
    if len(listed) < len(available):
        warnings.append(
            f"category_id: it has {len(available)} available items; those of the request and the newest are ranked, "
            f"{len(listed)} in total"
        )
    users = askers(now.config, [user], features)
    pairs = Pairs(users, np.zeros(len(listed), dtype=np.int32), np.array(listed, dtype=np.int64))
    empty = np.array([], dtype=bool)
    found = await score(now, model, pairs) if listed else Scored([], *without_row(model.scorer, users), empty)
    positions = _positions(product_ids, items_of_products, listed, found, warnings)
    answer = {
        "success": True,
        "user_id": user_id,
        "category_id": category_id,
        "positions": positions,
        "n_listed": len(listed),
        "n_available": len(available),
        "unknown_user": bool(found.is_unknown_user[0]),
        "warnings": warnings,
        "provenance": _provenance(request, state, now, model, degraded),
    }
    state.metrics.predictions.inc(len(listed))
    return JsonBytes(orjson.dumps(answer))


def _pairs(body: Any) -> tuple[list[ExternalId], list[ExternalId]]:
    if isinstance(body, PredictPairs):
        return [pair.user_id for pair in body.pairs], [pair.item_id for pair in body.pairs]
    if isinstance(body, PredictLists):
        return body.user_ids, body.item_ids
    return [body.user_id], [body.item_id]


def _distinct(ids: Sequence[ExternalId], mask: NDArray[np.bool_]) -> list[ExternalId]:
    return list(dict.fromkeys(ids[at] for at in np.flatnonzero(mask).tolist())) if mask.any() else []


def _cut(available: list[int], requested: set[int]) -> list[int]:
    """At most MAX_LISTED of the keys: the requested ones, then the newest (the greatest)."""
    if len(available) <= MAX_LISTED:
        return list(available)
    others = [key for key in reversed(available) if key not in requested]
    first = [key for key in available if key in requested][:MAX_LISTED]
    return [*first, *others[: MAX_LISTED - len(first)]]


def _positions(
    product_ids: Sequence[ExternalId],
    items_of_products: Sequence[Mapping[int | None, ExternalId]],
    listed: Sequence[int],
    found: Scored,
    warnings: list[str],
) -> list[dict[str, Any]]:
    """The position of each product's best item; products that are not listed are reported in the warnings."""
    order = np.argsort(-np.array(found.probabilities), kind="stable").tolist()
    place = {listed[at]: (position, found.probabilities[at]) for position, at in enumerate(order, 1)}
    result, unlisted = [], []
    for product_id, id_by_key in zip(product_ids, items_of_products, strict=True):
        found_items = [(*place[key], key) for key in id_by_key if key is not None and key in place]
        position, probability, key = min(found_items, default=(None, None, None))
        item_id = None if key is None else id_by_key[key]
        result.append({"product_id": product_id, "position": position, "item_id": item_id, "probability": probability})
        if key is None:
            unlisted.append(product_id)
    if unlisted:
        some = ", ".join(str(product_id)[:40] for product_id in unlisted[:5]) + (" …" if len(unlisted) > 5 else "")
        warnings.append(f"products: {len(unlisted)} of {len(product_ids)} have no item that is listed: {some}")
    return result


def _provenance(
    request: Request, state: State, now: InService, model: LoadedModel, degraded: list[str]
) -> dict[str, Any]:
    if not now.is_own_model:
        degraded = [*degraded, MODEL_PART]
    state.metrics.traffic.count_prediction(degraded)
    return {
        "model": model.artifact,
        "publication_id": now.snapshot.publication.publication_id,
        "degraded": degraded,
        "time_ms": round((time.perf_counter() - request.scope["state"]["started"]) * 1000, 2),
    }
