"""Attributes of items, by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from recsys.features.attributes import attributes, titles
from recsys.types import Catalogue, Descriptions

NAN = float("nan")


def shop(n_items: int, categories: list[int] | None = None) -> Catalogue:
    unknown = np.full(n_items, -1, dtype=np.int32)
    own = unknown if categories is None else np.array(categories, dtype=np.int32)
    at = np.zeros(n_items, dtype=np.int64)
    return Catalogue(np.arange(n_items, dtype=np.int32), np.ones(n_items, dtype=bool), own, unknown, at)


def descriptions(properties: list[Any], price: list[float] | None = None, title: list[str | None] | None = None) -> Any:
    n_items = len(properties)
    texts = [one if isinstance(one, str) else json.dumps(one) for one in properties]
    return Descriptions(title or [None] * n_items, np.array(price or [NAN] * n_items), texts)


def shared(properties: list[Any], price: list[float] | None = None) -> Any:
    """How many attributes each two items share."""
    has = attributes(shop(len(properties)), descriptions(properties, price)).astype(bool).astype(int)
    return (has @ has.T).toarray()


def test_weights_are_the_logarithm_of_rarity() -> None:
    of = attributes(
        shop(4, [7, 7, 3, 3]), descriptions([{"brand": "x"}, {"brand": "x"}, {"brand": "X "}, {"brand": "alone"}])
    )
    rows = [sorted(of[i].data.round(5).tolist()) for i in range(4)]
    two, three = np.log(4 / 2).round(5), np.log(4 / 3).round(5)
    np.testing.assert_allclose(rows[0], [three, two], atol=1e-5)
    assert rows[0] == rows[1] == rows[2]
    np.testing.assert_allclose(rows[3], [two], atol=1e-5)  # a brand of one item is shared with none


def test_what_all_have_says_nothing() -> None:
    assert attributes(shop(3, [5, 5, 5]), descriptions([{"colour": "red"}] * 3)).shape == (3, 0)


@pytest.mark.parametrize(("one", "other", "n"), [
    (["a", "b"], "a|c", 1), ("a, b", "b;a", 2), (12, "12", 1), (True, True, 1), (None, None, 0),
    ({"a": 1}, {"a": 1}, 0), ("", "", 0), ("x" * 65, "x" * 65, 0), ("Red", "red", 1),
])  # fmt: skip
def test_values_of_a_property(one: Any, other: Any, n: int) -> None:
    assert shared([{"tags": one}, {"tags": other}, {"tags": "nothing"}])[0, 1] == n


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "7", '{"a": NaN}'])
def test_what_is_no_object_says_nothing_of_its_item_alone(text: str) -> None:
    near = shared([text, {"brand": "x"}, {"brand": "x"}, {"brand": "y"}])
    assert near[1, 2] == 1
    assert near[0, 1:].sum() == 0


def test_near_prices_share_ranges() -> None:
    near = shared([{}] * 201, [*np.linspace(1, 100, 200), NAN])
    assert near[50, 51] >= 1
    assert near[50, 50] == 2
    assert near[50, 150] == near[50, 200] == 0


def test_fractions_are_numbers_and_integers_are_codes() -> None:
    near = shared([{"weight": 1 + i / 100, "code": i // 2} for i in range(200)])
    assert near[100, 101] >= 2  # code and at least one range of the weight
    assert near[99, 100] >= 1
    assert near[0, 150] == 0


def test_properties_that_are_no_attributes() -> None:
    names = ["title", "price", "available", "categoryid", "recommendation_weight"]
    assert attributes(shop(4), descriptions([dict.fromkeys(names, i // 2) for i in range(4)])).nnz == 0


def test_titles() -> None:
    of = titles(shop(4), descriptions([{}] * 4, title=["red mug", "red lamp", None, "blue lamp"]))
    near = (of @ of.T).toarray()
    assert near[0, 1] > 0
    assert near[0, 3] == near[2].sum() == 0
    assert titles(shop(2), None).nnz == 0
