"""An event as a message in Kafka: JSON, keyed by user or session, so that the events of a user stay in order."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

import orjson

from recsys.errors import InputError
from recsys.events import event as events
from recsys.events.event import Event
from recsys.events.names import EventNames
from recsys.instants import instant_of
from recsys.serving.ids import external_id

_OPTIONAL = ("user_id", "session_id", "retry_of", "retried_as", "version")


def key_of(event: Event) -> bytes:
    """The user, or without one the session."""
    return (event.user_id or event.session_id or "").encode()


def encode(event: Event) -> bytes:
    """The message of an event."""
    fields = event._asdict() | {
        "parameters": orjson.Fragment(event.parameters),
        "features": orjson.Fragment(event.features),
        "digest": event.digest.hex(),
    }
    return orjson.dumps({name: value for name, value in fields.items() if value is not None})


def decode(message: bytes | None, names: EventNames) -> Event:
    """The event of a message, its type as in `names`; InputError where it is not valid.

    Other producers may write to the topic as well: `event_id`, `item_id`, `user_id` or `session_id`, and `occurred_at`
    (ISO 8601) are required, the rest is as in POST /online/data/add. The default of `digest` is that of the content.
    """
    fields = _object(message)
    optional = {name: _id(fields, name) for name in _OPTIONAL}
    if optional["user_id"] is None and optional["session_id"] is None:
        raise InputError("user_id or session_id is needed")
    return Event(
        event_id=_needed(fields, "event_id"),
        item_id=_needed(fields, "item_id"),
        event_type=names.of(fields),
        occurred_at=_instant(fields.get("occurred_at")),
        label=_label(fields.get("label")),
        parameters=events.json_object(fields, "parameters"),
        features=events.json_object(fields, "features"),
        digest=_digest(fields),
        **optional,
    )


def _object(message: bytes | None) -> dict[str, Any]:
    try:
        fields = orjson.loads(message or b"")
    except orjson.JSONDecodeError as error:
        raise InputError(f"the message is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError("the message should be a JSON object")
    return fields


def _id(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    try:
        return str(external_id(value))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def _needed(fields: dict[str, Any], name: str) -> str:
    text = _id(fields, name)
    if text is None:
        raise InputError(f"{name} is missing")
    return text


def _instant(value: Any) -> dt.datetime:
    try:
        return instant_of(value)
    except (TypeError, ValueError):
        raise InputError("occurred_at should be an instant in ISO 8601") from None


def _label(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9:
        raise InputError("label should be a number of at most 1e9")
    return float(value)


def _digest(fields: dict[str, Any]) -> bytes:
    if "digest" not in fields:
        return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).digest()
    try:
        return bytes.fromhex(fields["digest"])
    except (TypeError, ValueError):
        raise InputError("digest should be hexadecimal") from None
