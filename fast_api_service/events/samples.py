"""Validates the bodies of POST /online/data/add, each sample by itself.

The OpenAPI document describes the same by `events.schemas.AddRequest`; a test holds the two together.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from fast_api_service.errors import ApiError
from fast_api_service.events.schemas import MAX_SAMPLES
from recsys.errors import InputError
from recsys.events.names import EventNames
from recsys.ids import MAX_ID_LENGTH, MAX_INTEGER
from recsys.instants import instant_of
from recsys.serving.ids import JsonType, external_id, to_external

_MILLISECONDS_FROM: Final = 10**11  # as seconds that would be the year 5138
_MAX_LABEL: Final = 1e9
_TEXT: Final = "a string is expected"
_ID: Final = "an id is an integer or a string"
_OBJECT: Final = "a JSON object is expected"
_INSTANT: Final = "an instant is ISO 8601 text, or a number of seconds or milliseconds since 1970"
_LABEL: Final = "a number from -1e9 to 1e9 is expected"
_EXPECTED: Final = {
    "item_id": _ID, "user_id": _ID, "timestamp": _INSTANT, "label": _LABEL, "parameters": _OBJECT, "features": _OBJECT,
}  # fmt: skip


class Sample(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """One event as posted; null is as good as absent, except of `item_id`, `parameters` and `features`."""

    item_id: int | float | str
    user_id: int | float | str | None = None
    session_id: str | None = None
    event_id: str | None = None
    event_type: str | None = None
    action_type: str | None = None
    timestamp: int | float | str | None = None
    label: float | None = None
    parameters: dict[str, Any] = {}
    features: dict[str, Any] = {}
    version: str | None = None


class _Samples(msgspec.Struct, forbid_unknown_fields=True):
    samples: list[Sample]


_SAMPLES: Final = msgspec.json.Decoder(_Samples)


def samples_of(body: bytes) -> Sequence[Sample | str]:
    """The samples of a body, and in place of an invalid one what is wrong with it; ApiError."""
    try:
        samples: Sequence[Any] = _SAMPLES.decode(body).samples
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [_sample(raw) for raw in _raw_samples(body)]
    _check_number(samples)
    return samples


def _raw_samples(body: bytes) -> Sequence[Any]:
    raw = _json(body)
    if not isinstance(raw, dict):
        text = "the body should be a JSON object, sent with the header Content-Type: application/json"
        raise _invalid(text)
    if "samples" not in raw:
        return [raw]
    if others := raw.keys() - {"samples"}:
        raise _invalid(f"{min(others)[:60]}: no such field beside samples")
    samples = raw["samples"]
    if not isinstance(samples, list):
        raise _invalid("samples: should be a list")
    _check_number(samples)
    return samples


def _check_number(samples: Sequence[Any]) -> None:
    if not 1 <= len(samples) <= MAX_SAMPLES:
        raise _invalid(f"samples: should have 1 to {MAX_SAMPLES} items, not {len(samples)}")


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # also reads half of a surrogate pair, NaN and long integers: only samples with one are invalid
        try:
            return json.loads(body, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            raise _invalid(f"the body is not JSON ({error})") from None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 40 else float(digits)


def _invalid(text: str) -> ApiError:
    return ApiError(422, "invalid_request", f"{text}. See /docs")


def _sample(raw: Any) -> Sample | str:
    try:
        return msgspec.convert(raw, Sample)
    except msgspec.ValidationError as error:
        if not isinstance(raw, dict):
            return "a sample should be a JSON object"
        if "item_id" not in raw:
            return "item_id: this field is needed"
        if others := raw.keys() - set(Sample.__struct_fields__):
            return f"{min(others)[:60]}: no such field"
        name = str(error).partition("$.")[2].partition("`")[0].partition("[")[0]
        return f"{name}: {_EXPECTED.get(name, _TEXT)}"


def fields_of(
    samples: Sequence[Sample | str], user_type: JsonType, item_type: JsonType, names: EventNames
) -> tuple[list[tuple[int, dict[str, Any]]], dict[int, str]]:
    """Valid samples as (index, what `recsys.events.event.parse` takes), and of the others index → reason."""
    found: list[tuple[int, dict[str, Any]]] = []
    rejected: dict[int, str] = {}
    for index, one in enumerate(samples):
        try:
            if isinstance(one, str):
                raise InputError(one)
            fields: dict[str, Any] = {
                "item_id": _id(one.item_id, item_type, "item"), "parameters": one.parameters, "features": one.features
            }  # fmt: skip
            if one.user_id is not None:
                fields["user_id"] = _id(one.user_id, user_type, "user")
            if one.session_id is not None:
                fields["session_id"] = _text(one.session_id, "session_id")
            if one.event_id is not None:
                fields["event_id"] = _text(one.event_id, "event_id")
            if one.event_type is not None:
                names.type_of(one.event_type)
                fields["event_type"] = one.event_type
            if one.action_type is not None:
                names.type_of(one.action_type)
                fields["action_type"] = one.action_type
            if one.timestamp is not None:
                fields["timestamp"] = _instant(one.timestamp)
            if one.label is not None:
                if not -_MAX_LABEL <= one.label <= _MAX_LABEL:  # or not a number
                    raise InputError(f"label: {_LABEL}")
                fields["label"] = one.label
            if one.version is not None:
                fields["version"] = _text(one.version, "version")
            found.append((index, fields))
        except InputError as error:
            rejected[index] = str(error)
    return found, rejected


def _id(value: float | str, json_type: JsonType, entity: str) -> str:
    if type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER:
        return str(value)
    try:
        return str(to_external(external_id(value), json_type, entity))
    except ValueError as error:
        raise InputError(f"{entity}_id: {error}") from None


def _text(value: str, name: str) -> str:
    is_plain = value.isascii() and value.isprintable() and 0 < len(value) <= MAX_ID_LENGTH
    if is_plain and value[0] != " " and value[-1] != " ":
        return value
    try:
        return str(external_id(value))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def _instant(value: float | str) -> dt.datetime:
    try:
        if isinstance(value, str):
            return instant_of(value)
        seconds = value / 1000 if abs(value) > _MILLISECONDS_FROM else value
        return dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        raise InputError(f"timestamp: {_INSTANT}") from None
