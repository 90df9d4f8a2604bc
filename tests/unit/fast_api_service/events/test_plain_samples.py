"""Samples that are checked by columns come out as pydantic would have them."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fast_api_service.events import endpoints
from fast_api_service.events.plain_samples import samples_of
from fast_api_service.events.schemas import Samples
from fast_api_service.runtime.state import State
from recsys.serving.ids import JsonType

LETTERS = "a7é\0 .-"
IDS = st.one_of(
    st.integers(-(10**19), 10**19), st.text(LETTERS, max_size=140), st.just("7"), st.just(5), st.floats(), st.booleans()
)
TEXTS = st.one_of(
    st.text(LETTERS, max_size=4), st.sampled_from(["a", "view", "no spaces", "", "\0", "é", "x" * 129]), st.none()
)
OBJECTS = (
    st.dictionaries(st.text(LETTERS, max_size=3), st.integers() | st.text(LETTERS, max_size=3), max_size=3) | st.none()
)
SAMPLE = st.fixed_dictionaries(
    {"item_id": st.integers(1, 9) | IDS},
    optional={
        "user_id": st.integers(1, 9) | IDS | st.none(),
        "session_id": TEXTS,
        "event_id": TEXTS,
        "version": TEXTS,
        "event_type": TEXTS,
        "action_type": TEXTS,
        "timestamp": st.floats() | st.integers(0, 2 * 10**9) | st.integers() | st.just("2026-01-01") | TEXTS,
        "label": st.floats() | st.integers() | st.booleans() | st.none(),
        "parameters": OBJECTS,
        "features": OBJECTS,
        "unknown": st.just(1),
    },
)
USUAL = {"user_id": 1, "item_id": 2, "event_type": "view", "timestamp": 1.79e9, "parameters": {"price": 3}}


@given(st.lists(SAMPLE | st.integers(), max_size=6), st.sampled_from(["integer", "string"]))
@example([USUAL, USUAL | {"label": 1}, USUAL | {"user_id": 10**18}], "integer")
@example([USUAL | {"timestamp": 1.79e12}, USUAL | {"timestamp": True}, USUAL | {"timestamp": float("nan")}], "integer")
def test_they_are_what_pydantic_makes_of_them(samples: list[Any], json_type: JsonType) -> None:
    types = {"user": json_type, "item": json_type}
    patched = cast("Any", endpoints)
    types_of, plain = endpoints.types_of, patched.plain
    try:
        patched.types_of = lambda _: types
        fast = endpoints._readable(samples, cast("State", None))
        patched.plain = lambda *_: {}
        assert repr(_in_order(fast)) == repr(_in_order(endpoints._readable(samples, cast("State", None))))
    finally:
        patched.types_of, patched.plain = types_of, plain


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(LETTERS, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(LETTERS, max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=4), st.booleans())
@example([2**64, -(2**63) - 1, 10**18, 2**63 - 1, -0.0, 1e300, 5e-324, 0.1 + 0.2], False)
def test_a_body_is_read_as_pydantic_reads_it(samples: list[Any], has_more: bool) -> None:
    body = json.dumps({"samples": samples} | ({"more": 1} if has_more else {})).encode()
    read = samples_of(body)
    if read is not None:
        assert repr(read) == repr(Samples.model_validate_json(body))


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"samples": []}', b'{"samples": {}}', b'{"user_id": 1}', b'{"samples": [NaN]}']
)
def test_other_bodies_are_left_to_pydantic(body: bytes) -> None:
    assert samples_of(body) is None
    assert samples_of(b'{"samples": [-0, {"a": 1, "a": 2}]}') == Samples(samples=[0, {"a": 2}])


def test_the_usual_ones_are_taken() -> None:
    sample = USUAL | {"event_id": "e", "session_id": "s", "version": "1", "label": 1, "action_type": "view"}
    assert len(endpoints.plain([sample, USUAL], {"user": "integer", "item": "integer"})) == 2


def _in_order(read: tuple[list[tuple[int, dict[str, Any]]], dict[int, tuple[int, str]]]) -> Any:
    """Fields by name: their order means nothing."""
    readable, rejected = read
    return [(index, sorted(sample.items(), key=lambda field: field[0])) for index, sample in readable], rejected
