import math
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.serving.catalogue import ItemDictionary
from recsys.serving.item_numbers import MAX_NAMES, NUMBER, PRICE, number, numbers_in, numbers_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0), (-2.5, -2.5), ("3", 3.0), ("-0.50", -0.5), ("n277.200", 277.2), ("n-1.000", -1.0),
        (True, None), (None, None), ("", None), ("red", None), ("1e3", None), ("1_000", None), (" 1", None),
        ("nan", None), ("n", None), ("\u0661", None), ("1\n", None), ("9" * 256, None), (10**300, None),
        ("1." + "0" * 300, None), (math.inf, None), (math.nan, None), ([1], None), ({"a": 1}, None),
    ],
)  # fmt: skip
def test_a_number_is_a_number_or_a_text_that_is_one(value: Any, expected: float | None) -> None:
    assert number(value) == expected


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**100), 10**100))
def test_a_number_is_the_same_as_json_and_as_text(value: float) -> None:
    text = f"{Decimal(repr(value)):f}"  # as Postgres writes it
    assert re.fullmatch(NUMBER, text)
    expected = float(value) if not value or 1e-250 < abs(value) < 1e255 else None
    assert number(value) == number(text) == expected
    (of_many,) = numbers_of(text)
    assert of_many == expected or (expected is None and math.isnan(of_many))


changes = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.dictionaries(st.sampled_from(["price", "weight", "size"]), st.sampled_from([1, 2.5, "3", "red"])),
    )
)


@given(changes)
def test_columns_hold_what_the_last_change_said(changes: list[tuple[int, dict[str, Any]]]) -> None:
    items = ItemDictionary("integer")
    for key, properties in changes:
        items.add(key, str(key), None, True, numbers_in(properties))
    for key, properties in dict(changes).items():
        for name in items.numbers.names:
            column = items.numbers.column(name)
            assert column is not None
            expected = number(properties.get(name))
            assert math.isnan(column[key]) if expected is None else column[key] == expected
    assert set(items.numbers.names) == {name for _, of in changes for name in numbers_in(of)}


def test_so_many_properties_are_held_and_the_price_always() -> None:
    items = ItemDictionary("integer")
    items.add(1, "1", None, True, {f"p{n:02}": 1.0 for n in range(MAX_NAMES + 5)})
    assert len(items.numbers.names) == MAX_NAMES
    items.add(2, "2", None, True, {PRICE: 9.99, "late": 1.0})
    assert items.numbers.column("late") is None
    price = items.numbers.column(PRICE)
    assert price is not None
    assert (math.isnan(price[1]), price[2]) == (True, 9.99)
