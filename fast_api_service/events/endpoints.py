"""POST /online/data/add and GET /online/events/{user_id}: adds events, and returns a user's newest."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Path, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from fast_api_service.auth.scopes import needs
from fast_api_service.direct import DirectRoute, JsonBytes
from fast_api_service.errors import ApiError, documented, in_words
from fast_api_service.events import warnings as event_warnings
from fast_api_service.events.plain_samples import plain, samples_of
from fast_api_service.events.schemas import AddAnswer, AddRequest, EventsAnswer, Sample, Samples
from fast_api_service.runtime.state import ServiceState, State
from recsys.api_key import EVENTS, USERS
from recsys.errors import InputError
from recsys.events import event, postgres_log
from recsys.events.names import EventNames
from recsys.events.names import names_of as names_in_force
from recsys.ids import MAX_ID_LENGTH
from recsys.serving.ids import ExternalId, JsonType, external_id, to_external
from recsys.serving.recent import EventMeaning

router = APIRouter(tags=["online"])


class _SamplesRoute(DirectRoute):
    def reading(self, validate: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """orjson parses a body of samples in a third of pydantic's time."""
        return lambda body: samples_of(body) or validate(body)


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

    200: all are in the log; 207: some were rejected, each with its reason; 422: all were rejected. `warnings` lists
    what was stored but cannot be used: types without weight, unknown items, parameters without effect. Common names of
    an action (purchase, order, click …) are stored under the name in the shop's data.

    Without `event_id`, a retry is recognized by the `timestamp`, or by the header `Idempotency-Key`; with none of them,
    equal views within ten minutes count once, and each purchase counts.
    """
    state: State = request.app.state.service
    samples = body.samples if isinstance(body, Samples) else [body.model_dump(exclude_unset=True)]
    key = _idempotency_key(request)
    await state.appends.turn()
    snapshot, names = state.snapshot, names_of(state)
    readable, rejected = _readable(samples, state)
    events, refused = event.parse([sample for _, sample in readable], dt.datetime.now(dt.UTC), names, key)
    rejected |= {readable[place][0]: (422, reason) for place, reason in refused.items()}
    appended = await state.appends.append([one for _, one in events])
    rejected |= {readable[events[place][0]][0]: (422, "the user of this event was erased") for place in appended.erased}
    for place in appended.conflicts:
        index = readable[events[place][0]][0]
        rejected[index] = (409, "this event_id is taken by an event with another content, which stays")
    answer = {
        "success": not rejected,
        "accepted": len(appended.accepted),
        "duplicates": len(appended.duplicates),
        "rejected": [{"index": i, "code": code, "reason": why} for i, (code, why) in sorted(rejected.items())],
        "position": appended.position,
    }
    if renamed := event_warnings.stored_as((sample for _, sample in readable), names):
        answer["stored_as"] = renamed
    pairs = [(readable[place][1], one) for place, one in events]
    n_apart = sum(event.is_counted_apart(sample, one, names, key) for sample, one in pairs)
    if warnings := event_warnings.warnings_of(pairs, n_apart, names, snapshot, owners_of_fields(state)):
        answer["warnings"] = warnings
    counts = {"accepted": appended.accepted, "duplicate": appended.duplicates, "rejected": rejected}
    for outcome, places in counts.items():
        state.metrics.events.labels(outcome).inc(len(places))
    if len(rejected) < len(samples):
        return JsonBytes(orjson.dumps(answer), 207 if rejected else 200)
    (code, reason), n_more = rejected[min(rejected)], len(rejected) - 1
    status = "conflict" if code == 409 else "invalid_request"
    raise ApiError(422 if n_more else code, status, reason + (f"; and {n_more} more were rejected" if n_more else ""))


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


def _readable(
    samples: Sequence[Any], state: State
) -> tuple[list[tuple[int, dict[str, Any]]], dict[int, tuple[int, str]]]:
    """Valid samples, as (index, fields with ids as text), and why the others were rejected."""
    types = types_of(state)
    user_type, item_type, validate = types["user"], types["item"], Sample.model_validate
    readable: list[tuple[int, dict[str, Any]]] = []
    rejected: dict[int, tuple[int, str]] = {}
    checked = plain(samples, types)
    for index, raw in enumerate(samples):
        if index in checked:
            readable.append((index, checked[index]))
            continue
        try:
            fields = validate(raw).__dict__
            sample = {name: value for name, value in fields.items() if value is not None}
            sample["item_id"] = str(to_external(sample["item_id"], item_type, "item"))
            if "user_id" in sample:
                sample["user_id"] = str(to_external(sample["user_id"], user_type, "user"))
            readable.append((index, sample))
        except ValidationError as error:
            problem = error.errors()[0]
            rejected[index] = (422, in_words({**problem, "loc": ("body", *problem["loc"])}))
        except InputError as error:
            rejected[index] = (422, str(error))
    return readable, rejected


def names_of(state: State) -> EventNames:
    """The names of event types; without a publication, those of data that declare none."""
    meaning = state.snapshot.meaning if state.snapshot else EventMeaning()
    return names_in_force(meaning, state.config, state.event_synonyms)


def owners_of_fields(state: State) -> Sequence[str]:
    """Parameters that own a field of the model in service (`recsys.features.context`)."""
    loaded = state.models.loaded
    return loaded.scorer.spec.context_names if loaded else ()


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
