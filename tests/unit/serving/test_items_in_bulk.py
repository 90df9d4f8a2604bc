"""Rows added in bulk give what the same rows give one by one."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.ids import is_id
from recsys.serving.catalogue import NO_CATEGORY, ItemDictionary, ItemRows
from recsys.serving.ids import JsonType, read_id, read_ids
from recsys.serving.item_numbers import MISSING, PRICE, ItemNumbers, number, numbers_of

NAMES = (PRICE, "weight", "rare")
IDS = {
    "integer": ["0", "7", "-7", "42", "9" * 18, "-" + "9" * 18, "1" + "0" * 18, "9" * 5000, "01", "-0", "+1", "1_0",
                "5.0", "sale", "", " 3", "\u0663", "8\n"],
    "string": ["a", "A", "7", "with blank", "tab\tin it", "line\nin it", "é", "x" * 128, "x" * 129, "", " ", " pad ",
               "\u00a0b", "half\ud800", "nul\0nul"],
}  # fmt: skip
TEXTS = ["1", "-2.50", "n277.200", "n-1.000", "007", "red", "", "nan", "NaN", "-NaN", "inf", "1e3", "1_000", " 1", "+1",
         ".5", "1.", "n", "-", "\u0661", "1\n", "9" * 256, None]  # fmt: skip

Row = tuple[int, str, int | None, bool, list[str | None]]  # key, id, category, available, texts of numbers


def portions(kind: JsonType) -> st.SearchStrategy[list[tuple[bool, list[Row]]]]:
    """Rows in portions; those that are in order have ascending keys, greater than those of the portions before."""
    ids = st.sampled_from(IDS[kind]) | st.integers(0, 10**6).map(str)
    numbers = st.lists(st.sampled_from(TEXTS[:3] + TEXTS), min_size=len(NAMES), max_size=len(NAMES))
    row = st.tuples(st.integers(0, 30), ids, st.none() | st.integers(0, 9), st.booleans(), numbers)
    return st.lists(st.tuples(st.booleans(), st.lists(row, max_size=12)), max_size=4)


def in_order(rows: list[Row], first: int) -> list[Row]:
    return [(first + key, *row) for key, row in sorted({key: row for key, *row in rows}.items())]


def bulk(rows: list[Row], texts: list[list[str | None]]) -> ItemRows:
    return ItemRows(
        np.array([key for key, *_ in rows], dtype=np.int32),
        [id_ for _, id_, *_ in rows],
        np.array([NO_CATEGORY if row[2] is None else row[2] for row in rows], dtype=np.int32),
        np.array([row[3] for row in rows], dtype=bool),
        {
            name: numbers_of("\0".join(MISSING if text is None else text for text in column))
            for name, column in zip(NAMES, texts, strict=False)
        },
    )


def contents(items: ItemDictionary) -> dict[str, Any]:
    names = items.numbers.names
    columns = {name: np.array(items.numbers.column(name)).tolist() for name in names}
    return {
        "size": (len(items), items.n_available, items.unreadable),
        "ids": [(type(id_), id_) for id_ in items.id_by_key],
        "keys": [items.key(id_) for id_ in items.id_by_key if id_ is not None],
        "available": items.available_by_key().tolist(),
        "categories": items.categories_of(slice(None)).tolist(),
        "numbers": {name: [None if math.isnan(one) else one for one in column] for name, column in columns.items()},
    }


@pytest.mark.parametrize("kind", ["integer", "string"])
@given(data=st.data())
def test_rows_in_bulk_are_rows_one_by_one(kind: JsonType, data: st.DataObject) -> None:
    given_names = data.draw(st.sampled_from([(), (PRICE, "weight"), NAMES]))
    expected = ItemDictionary(kind, ItemNumbers(given_names))
    found = ItemDictionary(kind, ItemNumbers(given_names))
    for place, (is_in_order, rows) in enumerate(data.draw(portions(kind))):
        some = in_order(rows, 31 * place) if is_in_order else rows
        for key, id_, category, available, texts in some:
            numbers = {name: number(text) for name, text in zip(NAMES, texts, strict=True)}
            with suppress(InputError):
                known = {name: one for name, one in numbers.items() if one is not None}
                expected.add(key, id_, category, available, known)
        if some:
            found.add_all(bulk(some, [list(column) for column in zip(*(row[4] for row in some), strict=True)]))
        assert contents(found) == contents(expected)


@pytest.mark.parametrize("kind", ["integer", "string"])
@given(data=st.data())
def test_ids_in_bulk_are_ids_one_by_one(kind: JsonType, data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.sampled_from(IDS[kind]) | st.integers().map(str) | st.text(max_size=4), min_size=1))
    expected = [read_id(text, kind, "item") for text in texts if is_id(text, kind)]
    assert read_ids(texts, kind) == (expected if len(expected) == len(texts) else None)


@given(st.lists(st.sampled_from([text for text in TEXTS if text is not None]) | st.decimals(allow_nan=False).map(str)))
def test_numbers_in_bulk_are_numbers_one_by_one(texts: list[str]) -> None:
    found = numbers_of("\0".join(texts)).tolist() if texts else []
    assert [None if math.isnan(one) else one for one in found] == [number(text) for text in texts]


@given(st.lists(st.from_regex(r"\An?-?[0-9]{1,20}(\.[0-9]{1,20})?\Z") | st.just(MISSING), min_size=1))
def test_so_are_columns_of_numbers_alone(texts: list[str]) -> None:
    found = numbers_of("\0".join(texts)).tolist()
    assert [None if math.isnan(one) else one for one in found] == [number(text) for text in texts]


def test_numbers_need_no_memory_beyond_their_own() -> None:
    text = "\0".join(["n277.200"] * 500_000)  # a pattern that remembered each repetition would fail here
    assert numbers_of(text).sum() == pytest.approx(277.2 * 500_000)


def test_an_id_that_was_put_right_is_left_out_no_more() -> None:
    items = ItemDictionary("integer")
    items.add_all(bulk([(5, "sale", None, True, [])], []))
    assert (items.unreadable, len(items)) == ({5}, 0)
    items.add_all(bulk([(5, "7", None, True, [])], []))
    assert (items.unreadable, items.id(5)) == (set(), 7)
