"""What can be an event, and which id it gets."""

from __future__ import annotations

import datetime as dt

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.events.event import MAX_AGE, RETRY_WINDOW_S, Event, parse

NOW = dt.datetime(2026, 3, 1, 12, 5, tzinfo=dt.UTC)
PLAIN = {"user_id": "1", "item_id": "2"}


def only(sample: dict[str, object], now: dt.datetime = NOW) -> Event:
    [(_, event)], rejected = parse([sample], now)
    assert not rejected
    return event


def test_user_and_item_are_enough() -> None:
    event = only(PLAIN)
    assert (event.user_id, event.item_id, event.event_type, event.occurred_at) == ("1", "2", "view", NOW)
    assert (event.label, event.parameters, event.session_id) == (None, b"{}", None)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({"item_id": "2"}, "user_id or session_id"),
        (PLAIN | {"event_type": "no spaces"}, "event_type"),
        (PLAIN | {"timestamp": NOW + dt.timedelta(hours=1)}, "future"),
        (PLAIN | {"timestamp": NOW - MAX_AGE * 2}, "older"),
        (PLAIN | {"parameters": {str(i): i for i in range(100)}}, "parameters may have"),
        (PLAIN | {"features": {"long": "x" * 10_000}}, "features may have"),
        (PLAIN | {"parameters": {"a": "\0"}}, "NUL"),
        (PLAIN | {"parameters": {"a": "\\\0"}}, "NUL"),
        (PLAIN | {"parameters": {"a": ["null", {"b": float("inf")}]}}, "too large"),
    ],
)
def test_what_cannot_be_an_event_is_refused_with_a_reason_and_keeps_nobody_out(
    sample: dict[str, object], reason: str
) -> None:
    events, rejected = parse([PLAIN, sample, PLAIN], NOW)
    assert [index for index, _ in events] == [0, 2]
    assert reason in rejected[1]


@pytest.mark.parametrize("text", ["C:\\u0000", "\\\\u0000", "null", "u0000"])
def test_text_that_only_looks_like_what_cannot_be_stored_is_taken(text: str) -> None:
    assert orjson.loads(only(PLAIN | {"parameters": {"a": text, "b": None}}).parameters) == {"a": text, "b": None}


def test_a_retry_of_a_body_gets_the_same_ids_and_equal_samples_count_apart() -> None:
    body = [PLAIN, PLAIN, PLAIN | {"label": 1.0}]
    first, again = ([event.event_id for _, event in parse(body, NOW)[0]] for _ in range(2))
    assert first == again
    assert len(set(first)) == 3


@given(st.integers(0, 10**9), st.integers(0, RETRY_WINDOW_S))
def test_a_retry_within_ten_minutes_is_known_by_its_id_or_by_the_one_before(start_s: int, later_s: int) -> None:
    at = NOW + dt.timedelta(seconds=start_s)
    first, again = only(PLAIN, at), only(PLAIN, at + dt.timedelta(seconds=later_s))
    assert first.event_id in (again.event_id, again.retry_of)
    another = only(PLAIN, at + dt.timedelta(seconds=2 * RETRY_WINDOW_S))
    assert first.event_id not in (another.event_id, another.retry_of)


def test_a_timestamp_or_an_id_makes_the_event_the_same_for_ever() -> None:
    dated = PLAIN | {"timestamp": NOW}
    assert only(dated).event_id == only(dated, NOW + dt.timedelta(days=9)).event_id
    assert only(dated).retry_of is None
    named = only(PLAIN | {"event_id": "e1"})
    assert (named.event_id, named.retry_of) == ("e1", None)
