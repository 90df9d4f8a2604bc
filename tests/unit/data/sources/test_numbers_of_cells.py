"""What a cell means: words for yes and no, numbers and money as people write them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.flags import flag
from recsys.data.sources.base import ITEM_PROPERTIES
from recsys.data.sources.checking import AVAILABLE_UNREAD
from recsys.data.sources.numbers import decimal_of, number, votes
from recsys.errors import InputError
from tests.unit.data.sources.cells import Read, checked, table


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (
            "0",
            ["0", "0.0", "FALSE", "False", "no", "N", "out of stock", "outofstock", "unavailable", "-1", " 0", "off"],
        ),
        ("0", ["sold out", "OutOfStock", "out_of_stock", "https://schema.org/OutOfStock", "-0,5", "f", "none", "null"]),
        ("1", ["1", "1.0", "3", "TRUE", "yes", "Y", "in stock", "in_stock", "InStock", "on", " true ", "12,0"]),
        (None, ["", " "]),
    ],
)
def test_words_for_yes_and_no(expected, words):
    assert checked(available=words).flag("available").to_pylist() == [expected] * len(words)


def test_what_is_neither_yes_nor_no_is_no_and_counted():
    block = checked(available=["perhaps", "none", "null", "1"])
    assert block.flag("available").to_pylist() == ["0", "0", "0", "1"]
    assert block.emptied == {f"available {word!r} is {AVAILABLE_UNREAD}": 1 for word in ("perhaps", "none", "null")}
    many = checked(available=[f"w{i}" for i in range(7)])
    assert many.flag("available").to_pylist() == ["0"] * 7
    assert many.emptied[f"available is {AVAILABLE_UNREAD}"] == 2
    assert checked(available=pa.array([True, False, None])).flag("available").to_pylist() == ["1", "0", None]
    assert checked(available=[2.0, 0.0, float("nan")]).flag("available").to_pylist() == ["1", "0", None]


@given(st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3)))
def test_numbers_are_compared_as_numbers(value):
    assert flag(np.format_float_positional(value)) is (value > 0)


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("12,50", ",", 12.5), ("$5.00", ".", 5.0), ("1.299,00", ",", 1299.0), ("1,299.00", ".", 1299.0),
        ("€ 3", ".", 3.0), ("1 299,00", ",", 1299.0), ("1\u00a0299,00 €", ",", 1299.0), ("1'299.00", ".", 1299.0),
        ("1,299", ".", 1299.0), ("1,299", ",", 1.299), ("1,299", None, None), ("0,299", None, None),
        ("1.299", ",", 1299.0), ("-5", None, -5.0), ("-$5.00", ".", -5.0), ("12,-", ",", 12.0),
        ("1.299", None, 1.299), ("EUR 12.00", ".", 12.0),
        ("₹1,00,000.50", ".", 100000.5), ("5.-", ".", 5.0),
        ("12,50", ".", None), ("1.2.3", ".", None), ("ten", None, None), ("a12", None, None), ("1,29,9.0", ".", None),
        (".5", ".", 0.5), ("1e3", None, 1000.0), ("12.50 kr", ".", 12.5), ("", None, None), (",", ",", None),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text, decimal, value):
    assert number(text, decimal) == value


@pytest.mark.parametrize("text", ["- " + " " * 1_000_000 + "x", "1" * 1_000_000, "1 " * 500_000])
def test_a_long_text_is_no_number_and_takes_no_time(text):
    assert number(text, ".") is None
    assert votes(pa.array([text])) == {}


@given(
    cents=st.lists(st.integers(0, 10**9), min_size=2, max_size=20),
    marks=st.sampled_from([(".", ","), (",", "."), (",", " "), (".", ""), (",", ""), (",", "\u00a0")]),
    money=st.sampled_from(["", "$", "€ "]),
)
def test_a_column_of_prices_is_read_as_it_was_written(cents, marks, money):
    decimal, group = marks
    texts = [money + f"{cent / 100:,.2f}".replace(",", "G").replace(".", decimal).replace("G", group) for cent in cents]
    found = decimal_of(votes(pa.array(texts)))
    assert found == decimal
    block = checked(price=texts)
    assert block.number("price", required=False, decimal=found).to_pylist() == [cent / 100 for cent in cents]


def test_the_decimal_sign_is_the_columns(tmp_path):
    text = (
        "user;item;at;paid\n".replace(";", ",") + 'a,b,2024-05-01,"12,50"\na,b,2024-05-01,"1,299"\na,b,2024-05-01,ten\n'
    )
    read = Read(table(tmp_path, text, value="paid"))
    assert [row["value"] for row in read.rows] == [12.5, 1.299, None]
    assert read.emptied == {"paid is no number": 1}
    text = 'user,item,at,paid\na,b,2024-05-01,"1,299"\na,b,2024-05-01,NULL\n'
    read = Read(table(tmp_path, text, value="paid"))
    assert [row["value"] for row in read.rows] == [None, None]
    assert read.emptied == {"paid is no number, or the decimal sign is not known (option decimal)": 1}
    assert [row["value"] for row in Read(table(tmp_path, text, value="paid", decimal=".")).rows] == [1299.0, None]
    with pytest.raises(InputError, match="option decimal=x"):
        table(tmp_path, text, value="paid", decimal="x")


def test_prices_of_items_are_plain_numbers_and_bad_ones_cost_themselves(tmp_path):
    things = 'item,price,title\na,"1.299,00 €",A\nb,cheap,B\nc,"0,50",C\n'
    source = table(tmp_path, "user,item,at\nann,a,2024-05-01\n", {"things.csv": things}, items="things.csv")
    read = Read(source, ITEM_PROPERTIES)
    assert {(row["itemid"], row["property"]): row["value"] for row in read.rows} == {
        ("a", "price"): "1299", ("c", "price"): "0.5", ("a", "title"): "A", ("b", "title"): "B", ("c", "title"): "C",
    }  # fmt: skip
    assert read.emptied == {"price is no number": 1}
