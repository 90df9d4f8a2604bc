"""Posted samples: what is taken is what the OpenAPI document says, an invalid one is refused alone, and the digest, by
which a retry is told from a conflict, stays the same from release to release."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fast_api_service.app import create_app
from fast_api_service.errors import ApiError
from fast_api_service.events.samples import fields_of, samples_of
from fast_api_service.settings import ApiSettings
from recsys.events import event
from recsys.events.event import Event
from recsys.events.names import AS_POSTED
from recsys.serving.ids import JsonType
from tests.unit.fast_api_service.test_service_app import snapshot

NOW = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
USUAL = {"user_id": 1, "item_id": 2, "event_type": "view", "timestamp": 1796000000.25, "parameters": {"price": 3}}


def read(body: bytes, json_type: JsonType = "string") -> tuple[list[tuple[int, Event]], dict[int, str]]:
    """Events by index, and why the other samples are refused; ApiError where the body is."""
    fields, rejected = fields_of(samples_of(body), json_type, json_type, AS_POSTED)
    events, refused = event.parse([sample for _, sample in fields], NOW, AS_POSTED, "key")
    return (
        [(fields[place][0], one) for place, one in events],
        rejected | {fields[place][0]: reason for place, reason in refused.items()},
    )


def read_all(*samples: Any, json_type: JsonType = "string") -> tuple[list[tuple[int, Event]], dict[int, str]]:
    return read(json.dumps({"samples": samples}).encode(), json_type)


# ---- the document

IDS = st.one_of(
    st.integers(-(10**18) - 1, 10**18 + 1), st.floats(allow_nan=False, allow_infinity=False).map(lambda n: n + 0.0),
    st.sampled_from(["7", "item-1", "", " ", "é", "\0", "x" * 128, "x" * 129, True, None, [], {}, 1.0, 0.5]),
)  # fmt: skip
TEXTS = st.sampled_from(["a", "a b", "", " ", "\0", "a\0", "é", "x" * 128, "x" * 129, 7, 0.5, False, None, []])
TYPES = st.sampled_from(["view", "add_to.cart:2", "", "-a", "no spaces", "é", "x" * 64, "x" * 65, 7, None, [], True])
OBJECTS = st.sampled_from([{}, {"price": 3}, {"a": {"b": [None, "c"]}}, None, [], "a", 7])
INSTANTS = st.sampled_from([1796000000, 1796000000.5, 1796000000123, "2026-11-30T10:00:00Z", None, True, [], {}])
LABELS = st.one_of(st.sampled_from([1, -0.5, 1e9, -1e9, 1e9 + 1, -1.1e9, "1", True, None, []]), st.integers())
FIELDS = {
    "user_id": IDS, "session_id": TEXTS, "event_id": TEXTS, "version": TEXTS, "event_type": TYPES, "action_type": TYPES,
    "timestamp": INSTANTS, "label": LABELS, "parameters": OBJECTS, "features": OBJECTS,
}  # fmt: skip
SAMPLES = st.fixed_dictionaries({"item_id": IDS}, optional=FIELDS | {"unknown": st.none()})


def validator(json_type: JsonType) -> Draft202012Validator:
    app = create_app("postgresql://nobody@127.0.0.1:1/nothing", ApiSettings())
    app.state.service.snapshot = snapshot(json_type)
    body = app.openapi()["paths"]["/online/data/add"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    return Draft202012Validator({"components": app.openapi()["components"], **schema})


DOCUMENTED: dict[JsonType, Draft202012Validator] = {kind: validator(kind) for kind in ("string", "integer")}


def is_taken(body: Any, json_type: JsonType) -> bool:
    try:
        _, rejected = read(json.dumps(body).encode(), json_type)
    except ApiError:
        return False
    return not rejected


@given(SAMPLES | st.sampled_from([{}, [], 7, None]), st.booleans())
@example({"item_id": 1, "session_id": "s"}, True)
@example({"item_id": 1, "user_id": None, "session_id": None}, True)
@example({"user_id": 1, "item_id": 1} | dict.fromkeys(set(FIELDS) - {"user_id", "parameters", "features"}), False)
def test_what_the_document_allows_is_taken_and_nothing_else(sample: Any, is_alone: bool) -> None:
    body = sample if is_alone else {"samples": [sample]}
    assert is_taken(body, "string") == DOCUMENTED["string"].is_valid(body), body
    if DOCUMENTED["integer"].is_valid(body):  # which takes `7.0` and ` 7 ` as well
        assert is_taken(body, "integer"), body


@pytest.mark.parametrize(
    "body",
    [[], None, 7, "a", {}, {"samples": []}, {"samples": {}}, {"samples": None}, {"samples": [USUAL], "more": 1},
     {"samples": [USUAL] * 1001}, {"samples": [USUAL] * 1000}, {"samples": [7]}],
)  # fmt: skip
def test_forms_of_a_body_are_as_documented(body: Any) -> None:
    assert is_taken(body, "string") == DOCUMENTED["string"].is_valid(body)


# ---- each sample by itself


@given(st.lists(SAMPLES | st.integers(), min_size=1, max_size=6), st.sampled_from(["integer", "string"]))
@example([USUAL, USUAL | {"label": 1}, USUAL | {"user_id": 10**18}], "integer")
@example([USUAL | {"timestamp": 1.796e12}, USUAL | {"timestamp": True}, USUAL | {"timestamp": float("nan")}], "integer")
def test_a_sample_has_the_same_result_among_others_and_alone(samples: Sequence[Any], json_type: JsonType) -> None:
    events, rejected = read_all(*samples, json_type=json_type)
    by_index = dict(events)
    for index, sample in enumerate(samples):
        [*alone], refused = read_all(sample, json_type=json_type)
        assert refused.get(0) == rejected.get(index)
        if alone:  # equal ones of one body have ids of their own
            assert by_index[index]._replace(event_id="") == alone[0][1]._replace(event_id="")
        assert (index in by_index) == bool(alone)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"item_id": None}, "item_id: an id is an integer or a string"),
        ({"user_id": True}, "user_id: an id is an integer or a string"),
        ({"user_id": 10**18}, "user_id: an integer id has at most 18 digits"),
        ({"user_id": 10**40}, "user_id: an integer id has at most 18 digits"),
        ({"session_id": 7}, "session_id: a string is expected"),
        ({"session_id": " "}, "session_id: an id has 1 to 128 characters"),
        ({"event_id": "a\0"}, "event_id: an id has neither NUL"),
        ({"event_type": "no spaces"}, "event_type or action_type 'no spaces': use up to 64 letters"),
        ({"event_type": "view", "action_type": "view\n"}, "action_type 'view\\n'"),
        ({"timestamp": "yesterday"}, "timestamp: an instant is ISO 8601 text, or a number"),
        ({"timestamp": 1e300}, "timestamp: an instant is ISO 8601 text, or a number"),
        ({"timestamp": 1.7e9}, "is older than 366 days"),
        ({"label": "1"}, "label: a number from -1e9 to 1e9 is expected"),
        ({"label": float("nan")}, "label: a number from -1e9 to 1e9 is expected"),
        ({"parameters": None}, "parameters: a JSON object is expected"),
        ({"parameters": {"a": [float("inf")]}}, "parameters has a number too large"),
        ({"features": {"a": 2**64}}, "64-bit"),
        ({"user_id": "\ud83d"}, "user_id: an id has neither NUL nor a lone surrogate"),
        ({"parameters": {"text": "cut \ud83d"}}, "surrogates not allowed"),
        ({"features": {"a": 10**400}}, "features: Integer exceeds 64-bit range"),
        ({"extra": 1}, "extra: no such field"),
    ],
)
def test_an_invalid_sample_is_refused_alone_with_its_field_and_why(more: dict[str, Any], reason: str) -> None:
    events, rejected = read_all(USUAL, USUAL | more, USUAL)
    assert [index for index, _ in events] == [0, 2]
    assert reason in rejected[1]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON"),
        (
            b'{"samples": [{"item_id": 1,]}',
            "the body is not JSON (Expecting property name enclosed in double quotes",
        ),
        (b'{"user_id": "\xff", "item_id": 1}', "the body is not JSON"),
        (b'{"item_id": ' + b"[" * 5000, "the body is not JSON"),
        (b"[]", "the body should be a JSON object"),
        (b'{"samples": []}', "samples: should have 1 to 1000 items, not 0"),
        (b'{"samples": {}}', "samples: should be a list"),
        (b'{"samples": [7], "more": 1}', "more: no such field beside samples"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_why(body: bytes, reason: str) -> None:
    with pytest.raises(ApiError, match=re.escape(reason)) as caught:
        samples_of(body)
    assert (caught.value.code, caught.value.status) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("posted", "json_type", "stored"),
    [("1.0", "integer", "1"), ("1.0", "string", "1"), ('"1.0"', "integer", "1"), ('"1.0"', "string", "1.0"),
     ('"\\u00a07 "', "integer", "7"), ("-0", "integer", "0"), ("-0.0", "string", "0"), ("1e3", "string", "1000")],
)  # fmt: skip
def test_an_id_is_stored_in_one_form(posted: str, json_type: JsonType, stored: str) -> None:
    [(_, one)], _ = read(b'{"item_id": %b, "user_id": 1}' % posted.encode(), json_type)
    assert one.item_id == stored


def test_the_last_of_fields_with_one_name_counts() -> None:
    [(_, one)], _ = read(b'{"samples": [7], "samples": [{"item_id": [], "user_id": 1, "item_id": 2}]}')
    assert one.item_id == "2"


# ---- the digest

WHOLE = {
    "version": "v 1", "features": {"é": 1e16, "b": [True, None, {"z": 1, "a": 2}]}, "parameters": {"price": 9.5},
    "label": 1, "action_type": "purchase", "event_type": "view", "event_id": " e-1 ", "session_id": "s", "user_id": 7,
    "item_id": 12.0, "timestamp": "2026-11-30T10:00:00.5+02:00",
}  # fmt: skip


@pytest.mark.parametrize(
    ("sample", "digest"),
    [
        (USUAL, "1577758c707d597a1f4bb858713bacc6694a7cf12f09111d32a9588efb5eeb1a"),
        (WHOLE, "01d26a361d0479467150bc1d7cf3f3b743249ed0a8246e122bf877a499f17696"),
        ({"item_id": "x", "session_id": "ключ"}, "689cf6f2de77d5ebb6aa9a22d34f65c8d01473d028b750082af6f83232004eaf"),
        (
            USUAL | {"timestamp": 1796000000123, "label": -0.0},
            "a539d8dd5a3d1907c8c0aaed1f3e0ecd13659c936a741f8dcd1b9d54b957679d",
        ),
        (
            dict.fromkeys(["label", "version", "event_id"]) | {"user_id": "1", "item_id": "2"},
            "f2c57db44bdf9363298eada69dffdcd5e40dff93550fc8ee0bb114890b7cf220",
        ),
    ],
)
def test_the_digest_of_a_sample_never_changes(sample: dict[str, Any], digest: str) -> None:
    """Else a retry that spans an upgrade would be a conflict."""
    for samples in ([sample], [sample, 7]):  # decoded together, and one by one
        events, _ = read_all(*samples)
        assert events[0][1].digest.hex() == digest
