"""Parses and validates events as clients post them. Pure functions; the clock is an argument."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from recsys.errors import InputError
from recsys.events.names import AS_POSTED, EventNames
from recsys.instants import CLOCKS_AHEAD

MAX_AGE = dt.timedelta(days=366)
MAX_PARAMETERS, MAX_PARAMETER_BYTES = 64, 8192
RETRY_WINDOW_S = 600
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # an escape, and not the end of an escaped backslash


class Event(NamedTuple):
    """One event, ready for the log. Ids are external, as text."""

    event_id: str
    # the ids that the same event would have if posted ten minutes earlier or later; None: the client gave the id
    retry_of: str | None
    retried_as: str | None
    user_id: str | None
    session_id: str | None
    item_id: str
    event_type: str
    occurred_at: dt.datetime
    label: float | None
    parameters: bytes  # JSON objects
    features: bytes
    version: str | None
    digest: bytes  # SHA-256 of the sample as the client posted it


def parse(
    samples: Sequence[Mapping[str, Any]], now: dt.datetime, names: EventNames = AS_POSTED, idempotency_key: str = ""
) -> tuple[list[tuple[int, Event]], dict[int, str]]:
    """Valid samples as (index, event), and of the others index → reason.

    A sample holds `item_id`, `user_id` or `session_id` (text), and any of `event_id`, `event_type` or `action_type`,
    `timestamp` (aware datetime), `label`, `parameters`, `features`, `version`.

    Without `event_id` one is derived from the content; equal samples of one body are separate events. The id of a
    sample without a timestamp also depends on the ten minutes in which it was received, so that a retry of the body is
    a duplicate while an equal visit on the next day is a new event; `retry_of` and `retried_as` are the ids of the ten
    minutes before and after. An `idempotency_key` of the request replaces the ten minutes; without one, each event of
    a type that `names` has as bought is a separate purchase (`is_counted_apart`).

    The event's type is that of `names`, while id and digest are of the sample as posted: a retry remains a duplicate
    even if the names have changed since.
    """
    events: list[tuple[int, Event]] = []
    rejected: dict[int, str] = {}
    seen: Counter[bytes] = Counter()
    earliest, latest = now - MAX_AGE, now + CLOCKS_AHEAD
    for index, sample in enumerate(samples):
        try:
            digest = _digest(sample)
            event = _event(sample, digest, now, names)
            if event.occurred_at > latest or event.occurred_at < earliest:
                raise InputError(_timestamp_error(event.occurred_at, now))
            if is_counted_apart(sample, event, names, idempotency_key):
                event = event._replace(event_id="once-" + secrets.token_hex(20))
            elif not event.event_id:
                is_dated = bool(sample.get("timestamp"))
                key = b"" if is_dated else idempotency_key.encode()
                event = _named(event, seen[digest], None if is_dated or key else now, key)
                seen[digest] += 1
            events.append((index, event))
        except InputError as error:
            rejected[index] = str(error)
    return events, rejected


def is_counted_apart(sample: Mapping[str, Any], event: Event, names: EventNames, idempotency_key: str = "") -> bool:
    """Whether a retry of this purchase cannot be told from a second one, so that each counts."""
    if idempotency_key or event.event_type not in names.bought:
        return False
    return not sample.get("event_id") and not sample.get("timestamp")


def _digest(sample: Mapping[str, Any]) -> bytes:
    try:
        return hashlib.sha256(orjson.dumps(sample, option=orjson.OPT_SORT_KEYS)).digest()
    except TypeError as error:  # a lone surrogate, an integer beyond 64 bits
        raise InputError(str(error)) from None


def _event(sample: Mapping[str, Any], digest: bytes, now: dt.datetime, names: EventNames) -> Event:
    """The event of a sample; its id is empty where it has none."""
    get = sample.get
    user_id, session_id = get("user_id"), get("session_id")
    if user_id is None and session_id is None:
        raise InputError("user_id or session_id is needed")
    # positional: keyword arguments take three times as long
    return Event(
        get("event_id") or "", None, None, user_id, session_id, sample["item_id"], names.of(sample),
        get("timestamp") or now, get("label"), json_object(sample, "parameters"), json_object(sample, "features"),
        get("version"), digest,
    )  # fmt: skip


def _named(event: Event, n_before: int, now: dt.datetime | None, key: bytes = b"") -> Event:
    """The event with an id derived from its content, its rank among equal samples, the key of its request and, given
    the time, the ten minutes."""
    if now is None:
        return event._replace(event_id=_derived(event.digest, n_before, None, key))
    period = int(now.timestamp()) // RETRY_WINDOW_S
    before, own, after = (_derived(event.digest, n_before, period + shift) for shift in (-1, 0, 1))
    return event._replace(event_id=own, retry_of=before, retried_as=after)


def _timestamp_error(at: dt.datetime, now: dt.datetime) -> str:
    if at > now:
        return f"timestamp {at.isoformat()} is in the future; the service's clock is {now.isoformat()}"
    return f"timestamp {at.isoformat()} is older than {MAX_AGE.days} days; import old events instead"


def _derived(digest: bytes, n_before: int, period: int | None, key: bytes = b"") -> str:
    return "auto-" + hashlib.sha256(digest + f"{n_before}:{period}".encode() + key).hexdigest()[:40]


def json_object(sample: Mapping[str, Any], name: str) -> bytes:
    """A JSON object of a sample as bytes, keys sorted; InputError where it is too large or cannot be stored."""
    value = sample.get(name)
    if not value:
        return b"{}"
    if not isinstance(value, dict):
        raise InputError(f"{name} should be a JSON object")
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if len(value) > MAX_PARAMETERS or len(text) > MAX_PARAMETER_BYTES:
        raise InputError(f"{name} may have {MAX_PARAMETERS} entries and {MAX_PARAMETER_BYTES} bytes of JSON at most")
    if b"\\u0000" in text and _NUL.search(text):
        raise InputError(f"{name} has the character NUL, which Postgres cannot store")
    if b"null" in text and _has_infinity(value):
        raise InputError(f"{name} has a number too large for a double: use at most 1e308")
    return text


def _has_infinity(value: Any) -> bool:
    """Whether a value contains an infinite number, which would be stored as null."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return isinstance(value, float) and not math.isfinite(value)
    return any(map(_has_infinity, value))
