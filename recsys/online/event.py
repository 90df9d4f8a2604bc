"""An event as a client posts it, checked: pure code, the clock is an argument."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from recsys.errors import InputError

DEFAULT_TYPE = "view"
MAX_FUTURE = dt.timedelta(minutes=5)  # clocks of clients differ
MAX_AGE = dt.timedelta(days=366)
MAX_PARAMETERS, MAX_PARAMETER_BYTES = 64, 8192
RETRY_WINDOW_S = 600
TYPE_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"
_TYPE = re.compile(TYPE_PATTERN.replace("$", r"\Z"))


class Event(NamedTuple):
    """One event, ready for the log. Ids are external, as text."""

    event_id: str
    # the ids that the same event got if it was posted ten minutes earlier or later; None: the client named it
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
    digest: bytes  # SHA-256 of what the client said


def parse(samples: Sequence[Mapping[str, Any]], now: dt.datetime) -> tuple[list[tuple[int, Event]], dict[int, str]]:
    """Samples as (index, event), and for each that cannot be one: index → reason.

    A sample holds `item_id`, `user_id` or `session_id` (text), and any of `event_id`, `event_type` or `action_type`,
    `timestamp` (aware datetime), `label`, `parameters`, `features`, `version`.

    Without `event_id` one is derived from the content, and equal samples of one body count apart. So that a retry of
    the same body finds its events in the log while an equal visit on the next day is another event, the id of a sample
    without a timestamp also holds the ten minutes in which it came; `retry_of` and `retried_as` are those of the ten
    minutes before and after.
    """
    events: list[tuple[int, Event]] = []
    rejected: dict[int, str] = {}
    seen: Counter[bytes] = Counter()
    for index, sample in enumerate(samples):
        try:
            digest = hashlib.sha256(orjson.dumps(sample, option=orjson.OPT_SORT_KEYS)).digest()
            events.append((index, _event(sample, digest, seen[digest], now)))
            seen[digest] += 1
        except InputError as error:
            rejected[index] = str(error)
    return events, rejected


def _event(sample: Mapping[str, Any], digest: bytes, n_before: int, now: dt.datetime) -> Event:
    user_id, session_id = sample.get("user_id"), sample.get("session_id")
    if user_id is None and session_id is None:
        raise InputError("user_id or session_id is needed: whose event is it?")
    event_type = sample.get("event_type") or sample.get("action_type") or DEFAULT_TYPE
    if not _TYPE.match(event_type):
        raise InputError(f"event_type {event_type[:40]!r}: use up to 64 letters, digits and _ . : -")
    at = sample.get("timestamp") or now
    if at > now + MAX_FUTURE:
        raise InputError(f"timestamp {at.isoformat()} lies in the future; the service's clock says {now.isoformat()}")
    if at < now - MAX_AGE:
        raise InputError(f"timestamp {at.isoformat()} is older than {MAX_AGE.days} days; import old events instead")
    event_id, retry_of, retried_as = sample.get("event_id"), None, None
    if event_id is None:
        period = None if sample.get("timestamp") else int(now.timestamp()) // RETRY_WINDOW_S
        event_id = _derived(digest, n_before, period)
        if period is not None:
            retry_of = _derived(digest, n_before, period - 1)
            retried_as = _derived(digest, n_before, period + 1)
    return Event(
        event_id=event_id,
        retry_of=retry_of,
        retried_as=retried_as,
        user_id=user_id,
        session_id=session_id,
        item_id=sample["item_id"],
        event_type=event_type,
        occurred_at=at,
        label=sample.get("label"),
        parameters=json_object(sample, "parameters"),
        features=json_object(sample, "features"),
        version=sample.get("version"),
        digest=digest,
    )


def _derived(digest: bytes, n_before: int, period: int | None) -> str:
    return "auto-" + hashlib.sha256(digest + f"{n_before}:{period}".encode()).hexdigest()[:40]


def is_type(text: str) -> bool:
    """Whether a text can be an event type."""
    return _TYPE.match(text) is not None


def json_object(sample: Mapping[str, Any], name: str) -> bytes:
    """A JSON object of a sample as bytes, keys in order; InputError where it is too large or cannot be stored."""
    value = sample.get(name) or {}
    if not isinstance(value, dict):
        raise InputError(f"{name} should be a JSON object")
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if len(value) > MAX_PARAMETERS or len(text) > MAX_PARAMETER_BYTES:
        raise InputError(f"{name} may have {MAX_PARAMETERS} entries and {MAX_PARAMETER_BYTES} bytes of JSON at most")
    if b"\\u0000" in text:
        raise InputError(f"{name} holds the character NUL, which Postgres cannot store")
    return text
