from typing import Any

import pytest
from pydantic import ValidationError

from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.eligibility import NumberRange, Restriction
from recsys.serving.filters import Filters, resolve

TREE = CategoryTree("integer", {1: "901", 2: "902", 3: "903"}, {1: None, 2: 1, 3: None})
ITEMS = ItemDictionary("integer")
ITEMS.add(1, "1", 1, True, {"price": 1.0})


def test_categories_are_meant_with_all_below_them() -> None:
    filters = Filters.model_validate({"categories": ["901"], "excluded_categories": [902]})
    assert resolve(filters, ITEMS, TREE) == Restriction({1, 2}, frozenset({2}))
    assert resolve(Filters(), ITEMS, TREE) == Restriction()


def test_a_bound_that_is_not_given_is_none() -> None:
    filters = Filters.model_validate({"properties": {"price": {"max": 5}}})
    assert resolve(filters, ITEMS, TREE).ranges == (NumberRange("price", -float("inf"), 5.0),)


def test_what_the_catalogue_does_not_have_is_named_and_matches_nothing() -> None:
    warnings: list[str] = []
    filters = Filters.model_validate(
        {"categories": [4242], "excluded_categories": ["abc"], "properties": {"weight": {"min": 1}}}
    )
    found = resolve(filters, ITEMS, TREE, warnings)
    assert found.categories == frozenset()
    assert warnings == [
        "filters.categories: there is no category '4242'",
        "filters.excluded_categories: there is no category 'abc'",
        "filters.properties: no item is known to have a number 'weight', so none matches",
    ]


def test_the_filters_of_a_surface_are_looked_up_once_a_tree() -> None:
    tree = CategoryTree("integer", {1: "901", 2: "902"}, {1: None, 2: 1})
    filters = Filters.model_validate({"categories": [901, "4242"], "excluded_categories": [902]})
    warnings: list[str] = []
    for _ in range(3):
        resolve(filters, ITEMS, tree, warnings)
    assert tree.below.cache_info().misses == 2  # one for each of the two lists
    assert warnings == ["filters.categories: there is no category '4242'"] * 3  # and said each time


def test_a_range_that_holds_no_number_is_told() -> None:
    warnings: list[str] = []
    resolve(Filters.model_validate({"properties": {"price": {"min": 2, "max": 1}}}), ITEMS, TREE, warnings)
    assert warnings == ["filters.properties: min of 'price' is greater than its max, so no item matches"]
    resolve(Filters.model_validate({"properties": {"price": {"min": 1, "max": 1}}}), ITEMS, TREE, warnings)
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"properties": {"price": {"min": float("nan")}}}, "finite"),
        ({"properties": {"price": {"min": "1"}}}, "valid number"),
        ({"properties": {"price": {"least": 1}}}, "least"),
        ({"properties": {"": {"min": 1}}}, "at least 1 character"),
        ({"properties": {"a\0": {"min": 1}}}, "match pattern"),
        ({"properties": {f"p{n}": {"min": 1} for n in range(17)}}, "at most 16"),
        ({"categories": [1.5]}, "an id is"),
        ({"categories": list(range(101))}, "at most 100"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_filters_are_refused_and_the_reason_is_told(body: Any, word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        Filters.model_validate(body)
