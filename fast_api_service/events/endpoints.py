"""POST /online/data/add and GET /online/events/{user_id}: adds events, and returns a user's newest."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import orjson
from fastapi import APIRouter, Body, Path, Query, Request
from fastapi.responses import Response

from fast_api_service.auth.scopes import needs
from fast_api_service.direct import DirectRoute, JsonBytes
from fast_api_service.errors import ApiError, documented
from fast_api_service.events import warnings as event_warnings
from fast_api_service.events.samples import Sample, fields_of, samples_of
from fast_api_service.events.schemas import AddAnswer, AddRequest, EventsAnswer
from fast_api_service.runtime.state import ServiceState, State
from recsys.api_key import EVENTS, USERS
from recsys.errors import InputError
from recsys.events import event, postgres_log
from recsys.ids import MAX_ID_LENGTH
from recsys.serving.ids import ExternalId, JsonType, external_id, to_external

router = APIRouter(tags=["online"])


class _SamplesRoute(DirectRoute):
    def reading(self, _: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """The type of `body` is for the OpenAPI document alone."""
        return samples_of


_add_router = APIRouter(route_class=_SamplesRoute)

_EXAMPLES: dict[str, Any] = {
    "one event": {"summary": "A user liked an item", "value": {"user_id": 1, "item_id": 1, "label": 1}},
    "some events": {
        "summary": "Some events, with their ids",
        "value": {
            "samples": [
                {"event_id": "example-1", "user_id": 1, "item_id": 1, "event_type": "view"},
                {
                    "event_id": "example-2",
                    "user_id": 1,
                    "session_id": "example-session",
                    "item_id": 1,
                    "event_type": "addtocart",
                    "parameters": {"quantity": 2, "device": "mobile", "campaign": "spring"},
                },
            ]
        },
    },
}
_KEY = re.compile(rb"[\x21-\x7e]{1,200}\Z")
_KEY_PARAMETER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "identifies one action, such as a UUID; the same in each retry, so that events without `event_id`"
    " and `timestamp` can be retried safely",
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,200}$"},
}


@_add_router.post(
    "/online/data/add",
    response_model=AddAnswer,
    responses=documented(409, 413, 422, 503) | {207: {"model": AddAnswer, "description": "Some were rejected"}},
    summary="Add events",
    operation_id="add_events",
    openapi_extra={"parameters": [_KEY_PARAMETER]},
)
@needs(EVENTS)
async def add(request: Request, body: Annotated[AddRequest, Body(openapi_examples=_EXAMPLES)]) -> Response:
    """The response comes when the events are durable; the next recommendation of any worker takes them into account.

    Of `parameters`, quantity, price, stars or rating, completion and duration give the event weight and label. Others,
    and `features`, are what was known before the user acted (device, page, campaign …): inputs of the model, like
    `user_feats` of a request.

    200: all are in the log; 207: some were rejected, each with its reason; 422 (409 for a single conflict): all were.
    `warnings` lists what was stored but cannot be used: types without weight, unknown items, parameters without
    effect. Common names of an action (purchase, order, click …) are stored under the name in the shop's data.

    Without `event_id`, a retry is recognized by the `timestamp`, or by the header `Idempotency-Key`; with none of them,
    equal views within ten minutes count once (some within twenty), and each purchase counts.
    """
    posted = cast("Sequence[Sample | str]", body)
    state: State = request.app.state.service
    key = _idempotency_key(request)
    await state.appends.turn()
    now = state.now
    names = now.names if now else state.names
    user_type, item_type = (now.snapshot.user_id_type, now.snapshot.items.json_type) if now else ("string", "string")
    samples, reasons = fields_of(posted, user_type, item_type, names)
    parsed, refused = event.parse([sample for _, sample in samples], dt.datetime.now(dt.UTC), names, key)
    indices, events = [samples[place][0] for place, _ in parsed], [one for _, one in parsed]
    appended = await state.appends.append(events)
    rejected = {index: (422, reason) for index, reason in reasons.items()}
    rejected |= {samples[place][0]: (422, reason) for place, reason in refused.items()}
    rejected |= {indices[place]: (422, "the user of this event was erased") for place in appended.erased}
    taken = "this event_id is taken by an event with another content, which stays"
    rejected |= {indices[place]: (409, taken) for place in appended.conflicts}
    for outcome, n in (
        ("accepted", len(appended.accepted)), ("duplicate", len(appended.duplicates)), ("rejected", len(rejected))
    ):  # fmt: skip
        state.metrics.events.labels(outcome).inc(n)
    if len(rejected) == len(posted):
        (code, reason), n_more = rejected[min(rejected)], len(rejected) - 1
        status = "conflict" if code == 409 else "invalid_request"
        more = f"; and {n_more} more were rejected" if n_more else ""
        raise ApiError(422 if n_more else code, status, reason + more)
    answer = {
        "success": not rejected,
        "accepted": len(appended.accepted),
        "duplicates": len(appended.duplicates),
        "rejected": [{"index": i, "code": code, "reason": why} for i, (code, why) in sorted(rejected.items())],
        "position": appended.position,
    }
    # Beyond the usual: what was stored under another name, or cannot be used.
    types = {sample.get("event_type") or sample.get("action_type") or "" for _, sample in samples}
    if not types <= names.usual and (renamed := event_warnings.stored_as(types, names)):
        answer["stored_as"] = renamed
    n_apart, unknown, given = 0, set[str](), []
    own_type: Any = int if item_type == "integer" else str
    for place, one in parsed:
        sample = samples[place][1]
        n_apart += "event_id" not in sample and one.event_id.startswith(event.APART)
        if now is not None and own_type(one.item_id) not in now.snapshot.items.ids:
            unknown.add(one.item_id)
        if sample["parameters"] or sample["features"]:
            given.append(sample)
    if n_apart or unknown or given or not types <= names.usual:
        owners = tuple(now.model.scorer.spec.context_names) if now and now.model else ()
        if warnings := event_warnings.warnings_of(events, given, n_apart, names, unknown, owners):
            answer["warnings"] = warnings
    return JsonBytes(orjson.dumps(answer), 207 if rejected else 200)


router.include_router(_add_router)


@router.get(
    "/online/events/{user_id:id}",
    response_model=EventsAnswer,
    responses=documented(404, 422, 503),
    summary="Recent events of a user",
    operation_id="events",
)
@needs(USERS)
async def latest(
    state: ServiceState,
    user_id: Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)],
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """The newest posted events of the user; unknown users have none."""
    types = types_of(state)
    try:
        own_id = to_external(_storable(user_id), types["user"], "user")
    except InputError as error:
        raise ApiError(404, "unknown_user", str(error)) from None
    rows = await state.lookups.transaction(lambda connection: postgres_log.latest(connection, str(own_id), limit))
    events = [
        {
            "event_id": row["event_id"],
            "item_id": in_type(row["item_id"], types["item"], "item"),
            "event_type": row["event_type"],
            "timestamp": row["occurred_at"],
            "session_id": row["session_id"],
            "label": row["label"],
            "parameters": orjson.Fragment(row["parameters"]),
        }
        for row in rows
    ]
    body = {"success": True, "user_id": own_id, "events": events}
    return Response(orjson.dumps(body), media_type="application/json")


def _idempotency_key(request: Request) -> str:
    """The key of the request, empty without one; ApiError 422 for an invalid one."""
    for name, value in request.scope["headers"]:
        if name == b"idempotency-key":
            if not _KEY.match(value):
                text = "Idempotency-Key: use 1 to 200 printable characters of ASCII without spaces, such as a UUID"
                raise ApiError(422, "invalid_request", text)
            return str(value.decode())
    return ""


def types_of(state: State) -> dict[str, JsonType]:
    """The JSON types of ids; without a publication strings, which can be any id."""
    snapshot = state.snapshot
    if snapshot is None:
        return {"user": "string", "item": "string"}
    return {"user": snapshot.user_id_type, "item": snapshot.items.json_type}


def in_type(id_: str, json_type: JsonType, entity: str) -> ExternalId:
    """An id in the JSON type of the catalogue; unchanged if it does not fit, as it may be older than the catalogue."""
    try:
        return to_external(id_, json_type, entity)
    except InputError:
        return id_


def _storable(text: str) -> str:
    try:
        return str(external_id(text))
    except ValueError as error:
        raise InputError(str(error)) from None
