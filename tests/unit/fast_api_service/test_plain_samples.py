"""Samples that are checked by columns come out as pydantic would have them."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from fast_api_service.routers import events
from fast_api_service.state import State
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
    patched = cast("Any", events)
    types_of, plain = events.types_of, patched.plain
    try:
        patched.types_of = lambda _: types
        fast = events._readable(samples, cast("State", None))
        patched.plain = lambda *_: {}
        assert repr(_in_order(fast)) == repr(_in_order(events._readable(samples, cast("State", None))))
    finally:
        patched.types_of, patched.plain = types_of, plain


def test_the_usual_ones_are_taken() -> None:
    sample = USUAL | {"event_id": "e", "session_id": "s", "version": "1", "label": 1, "action_type": "view"}
    assert len(events.plain([sample, USUAL], {"user": "integer", "item": "integer"})) == 2


def _in_order(read: tuple[list[tuple[int, dict[str, Any]]], dict[int, tuple[int, str]]]) -> Any:
    """Fields by name: their order means nothing."""
    readable, rejected = read
    return [(index, sorted(sample.items(), key=lambda field: field[0])) for index, sample in readable], rejected
