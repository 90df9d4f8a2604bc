"""Updates of stored objects, on random objects."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.serving.catalogue_changes import MAX_PROPERTIES, MAX_PROPERTIES_BYTES, ItemState, cycle, updated_properties

values = (
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5) | st.lists(st.integers(-99, 99), max_size=2)
)
properties = st.dictionaries(st.sampled_from("abcdef"), values, max_size=6)
changes = st.fixed_dictionaries(
    {},
    optional={
        "category_id": st.none() | st.sampled_from(["1", "2"]),
        "available": st.booleans(),
        "title": st.none() | st.text(max_size=5),
        "price": st.none() | st.integers(0, 9),
        "properties": properties,
    },
)


@given(st.lists(changes, max_size=5))
def test_the_last_word_on_each_field_and_property_stands(posted: list[dict[str, Any]]) -> None:
    state = ItemState()
    for change in posted:
        state = state.updated(change)
        assert state.updated(change) == state  # idempotent
    for name, default in (("category_id", None), ("available", True), ("title", None), ("price", None)):
        values_posted = [change[name] for change in posted if name in change]
        assert getattr(state, name) == (values_posted[-1] if values_posted else default)
    for name in "abcdef":
        values_posted = [change["properties"][name] for change in posted if name in change.get("properties", {})]
        assert state.properties.get(name) == (values_posted[-1] if values_posted else None)
    row = ItemState.stored(state.category_id, state.available, state.title, state.stored_properties)
    assert row == state


@pytest.mark.parametrize(("text", "price"), [("2.55", 2.55), ("n12", None), ("nan", None), (True, None), (3, 3.0)])
def test_raw_prices_are_text(text: Any, price: float | None) -> None:
    state = ItemState.stored(None, True, None, {"price": text, "790": "n12"})
    assert (state.price, state.properties) == (price, {"790": "n12"})


def test_properties_are_bounded_but_what_is_there_already_hinders_nobody() -> None:
    full = {str(i): "" for i in range(MAX_PROPERTIES)}
    assert updated_properties({}, full) == full
    with pytest.raises(InputError, match="65 names, at most 64"):
        updated_properties(full, {"one more": 1})
    assert len(updated_properties(full, {"one more": 1, "0": None})) == MAX_PROPERTIES
    with pytest.raises(InputError, match="at most 16384"):
        updated_properties({}, {"text": "é" * (MAX_PROPERTIES_BYTES // 2)})
    crowded = ItemState(properties=full | {"from raw data": 1})
    assert not crowded.updated({"available": False}).available
    with pytest.raises(InputError, match="66 names"):
        crowded.updated({"price": 1.0})


@given(
    st.dictionaries(st.integers(0, 7), st.none() | st.integers(0, 7), max_size=8),
    st.integers(0, 7),
    st.none() | st.integers(0, 7),
)
def test_a_cycle_is_one_that_leads_back(parents: dict[int, int | None], key: int, parent: int | None) -> None:
    named = {str(child): None if up is None else str(up) for child, up in parents.items()}
    way = cycle(named, str(key), None if parent is None else str(parent))
    after = named | {str(key): None if parent is None else str(parent)}
    reached, at = set(), after[str(key)]
    while at is not None and at not in reached:
        reached.add(at)
        at = after.get(at)
    assert bool(way) == (str(key) in reached)
    if way:
        assert way[0] == way[-1] == str(key)
        assert all(after[child] == up for child, up in pairwise(way))
