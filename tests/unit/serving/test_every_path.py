"""Rules on every path, against a plain reading of them: never an item that may not be shown, never one twice, and
always as many as there can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from recsys.serving import cascade, filters
from recsys.serving.catalogue import ItemDictionary
from recsys.serving.config import Policy, ServingConfig, SourceName, Surface, SurfaceConfig
from recsys.serving.filters import Filters, Range
from recsys.serving.fold_in import FoldIn
from recsys.serving.item_factors import ItemFactors
from recsys.serving.item_numbers import numbers_in
from recsys.serving.recent import Recent, merged
from recsys.serving.snapshot import ALL_ITEMS, Query, Snapshot, UserState
from recsys.serving.sources import FOLD_IN
from tests.unit.serving.test_cascade import (
    BELOW,
    N_ITEMS,
    PARENTS,
    histories,
    history_of,
    index_of,
    lists_of_keys,
    neighbour_lists,
    snapshot_of,
    stored,
)

UNKNOWN_CATEGORY = 77


@dataclass(frozen=True)
class Thing:
    """An item as the tests know it."""

    category: int | None
    available: bool
    properties: Mapping[str, Any]


# numbers as JSON, as text, and what is no number
values = st.sampled_from([0, 1, 4, 5, 2.5, -3, "1", "2.5", "n7.000", "red", "", "1e3", True, None])
things = st.builds(
    Thing,
    st.none() | st.sampled_from(sorted(PARENTS)),
    st.sampled_from([True, True, False]),
    st.fixed_dictionaries({"price": values}, optional={"weight": values, "recommendation_weight": values}),
)
shops = st.dictionaries(st.integers(1, N_ITEMS), things, min_size=5, max_size=N_ITEMS)
bounds = st.one_of(
    st.just(Range()),
    st.builds(lambda low: Range(min=low), st.integers(-3, 8)),
    st.builds(lambda high: Range(max=high), st.integers(-3, 8)),
    st.builds(lambda low, width: Range(min=low, max=low + width), st.integers(-3, 8), st.integers(0, 6)),
)


def rarely(strategy: st.SearchStrategy[Any], otherwise: Any = None) -> st.SearchStrategy[Any]:
    """One time in three; rules that are all there at once leave nothing to look at."""
    return st.integers(0, 2).flatmap(lambda n: strategy if n == 2 else st.just(otherwise))


category_ids = st.lists(st.sampled_from([*PARENTS, UNKNOWN_CATEGORY]), min_size=1, max_size=2).map(tuple)
some_filters = st.builds(
    Filters,
    categories=rarely(category_ids, ()),
    excluded_categories=rarely(category_ids, ()),
    properties=st.dictionaries(
        st.sampled_from(["price", "price", "price", "weight", "none has this"]), bounds, max_size=1
    ),
)
surfaces = st.builds(
    SurfaceConfig,
    sources=st.permutations(get_args(SourceName)).map(tuple),
    blend=st.sampled_from(get_args(Policy)),
    recent_weight=st.sampled_from([0.0, 0.5, 3.0]),
    filters=rarely(some_filters),
    max_per_category=rarely(st.integers(1, 3)),
    diversity=st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0]),
)


def plain_number(value: Any) -> float | None:
    known = {"1": 1.0, "2.5": 2.5, "n7.000": 7.0}
    return known.get(value) if isinstance(value, str) else None if value is True or value is None else value


def matches(thing: Thing, requested: Filters | None) -> bool:
    if requested is None:
        return True
    below = {child for id_ in requested.categories for child in BELOW.get(id_, ())}
    left_out = {child for id_ in requested.excluded_categories for child in BELOW.get(id_, ())}
    if (requested.categories and thing.category not in below) or thing.category in left_out:
        return False
    for name, of in requested.properties.items():
        value = plain_number(thing.properties.get(name))
        if value is None or (of.min is not None and value < of.min) or (of.max is not None and value > of.max):
            return False
    return True


def n_at_most(keys: set[int], shop: Mapping[int, Thing], quota: int | None) -> int:
    """How many of the keys can be shown together."""
    by_category = Counter(shop[key].category for key in keys)
    return sum(n if quota is None or own is None else min(n, quota) for own, n in by_category.items())


def snapshot_of_shop(shop: Mapping[int, Thing], defaults: Mapping[int, Sequence[int]]) -> Snapshot:
    items = ItemDictionary("integer")
    for key, thing in shop.items():
        items.add(key, str(1000 + key), thing.category, thing.available, numbers_in(thing.properties))
    return replace(snapshot_of({}, defaults), items=items)


def factors_of(keys: Sequence[int]) -> ItemFactors:
    """Of every other key, so that some items have none."""
    of = np.array([key for key in keys if key % 2], dtype=np.int64)
    return ItemFactors(of, np.random.default_rng(1).normal(size=(len(of), 4)).astype(np.float32))


def fold_in_of(factors: ItemFactors) -> FoldIn:
    ones = np.ones(len(factors.order))
    params = {"half_life_days": 90, "alpha": 1, "regularization": 0.1, "bm25_k1": 10, "bm25_b": 0.4}
    return FoldIn(factors, ones, ones, 3.0, 1.0, params)


@settings(max_examples=300)
@given(
    shop=shops,
    defaults=st.dictionaries(st.sampled_from([ALL_ITEMS, *PARENTS]), lists_of_keys),
    i2i=neighbour_lists,
    similar=neighbour_lists,
    ranked=st.none() | lists_of_keys,
    personal=st.none() | lists_of_keys,
    history=histories,
    before=st.none() | histories,
    seq=st.none() | histories,
    category=rarely(st.sampled_from(sorted(PARENTS))),
    excluded=st.sets(st.integers(1, N_ITEMS), max_size=6),
    context=st.lists(st.integers(1, N_ITEMS), max_size=3),
    candidates=rarely(st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=20)),
    requested=rarely(some_filters),
    top_k=st.integers(1, N_ITEMS + 5),
    surface=st.sampled_from(get_args(Surface)),
    configured=surfaces,
    with_factors=st.booleans(),
)
def test_a_recommendation_keeps_all_rules_and_is_as_long_as_it_can_be(
    shop: dict[int, Thing],
    defaults: dict[int, list[int]],
    i2i: dict[int, list[int]],
    similar: dict[int, list[int]],
    ranked: list[int] | None,
    personal: list[int] | None,
    history: list[Recent],
    before: list[Recent] | None,
    seq: list[Recent] | None,
    category: int | None,
    excluded: set[int],
    context: list[int],
    candidates: list[int] | None,
    requested: Filters | None,
    top_k: int,
    surface: Surface,
    configured: SurfaceConfig,
    with_factors: bool,
) -> None:
    bought = {event.item_key for event in [*history, *(before or ())] if event.event_type == "transaction"}
    possible = {
        key
        for key, thing in shop.items()
        if thing.available
        and key not in {*excluded, *bought, *context}
        and (category is None or thing.category in BELOW[category])
        and (candidates is None or key in candidates)
        and matches(thing, requested)
        and matches(thing, configured.filters)
    }
    n_possible = n_at_most(possible, shop, configured.max_per_category)
    event(f"possible: {min(n_possible, 5)}")
    factors = factors_of(list(shop))
    snapshot = replace(
        snapshot_of_shop(shop, defaults),
        neighbours={"i2i": index_of(i2i), "similar": index_of(similar)},
        factors=factors if with_factors else None,
        fold_in=fold_in_of(factors) if with_factors else None,
    )
    user = UserState(
        None if ranked is None else stored(ranked),
        None if personal is None else stored(personal),
        merged(history),
        None if seq is None else merged(seq),
        None if before is None else history_of(before),
    )
    restriction = None if requested is None else filters.resolve(requested, snapshot.items, snapshot.categories)
    query = Query(top_k, category, excluded, context, candidates, surface, restriction=restriction)
    config = ServingConfig(surfaces={surface: configured})
    picks = cascade.recommend(snapshot, user, query, config)
    keys = [pick.item_key for pick in picks]
    event(f"folded in: {any(pick.source == FOLD_IN for pick in picks)}")
    if any(pick.source == FOLD_IN for pick in picks):
        assert with_factors
        assert ranked is None
        assert personal is None
    assert set(keys) <= possible
    assert len(keys) == len(set(keys)) == min(top_k, n_possible)
    assert n_at_most(set(keys), shop, configured.max_per_category) == len(keys)
    off = config.model_copy(update={"surfaces": {surface: configured.model_copy(update={"diversity": 0.0})}})
    by_relevance = cascade.recommend(snapshot, user, query, off)
    assert keys[:1] == [pick.item_key for pick in by_relevance][:1]  # what is best stays the best
    if top_k >= n_possible:
        assert {pick.item_key for pick in by_relevance} == set(keys) or configured.max_per_category is not None


@given(shop=shops, i2i=st.none() | lists_of_keys, similar=st.none() | lists_of_keys, top_k=st.integers(1, 15))
def test_neighbours_are_available_distinct_and_never_the_item_itself(
    shop: dict[int, Thing], i2i: list[int] | None, similar: list[int] | None, top_k: int
) -> None:
    lists = {kind: {1: stored(keys)} for kind, keys in (("i2i", i2i), ("similar", similar)) if keys is not None}
    picks = cascade.neighbours(replace(snapshot_of_shop(shop, {}), lists=lists), 1, top_k=top_k)
    keys = [pick.item_key for pick in picks]
    possible = {key for key in {*(i2i or ()), *(similar or ())} if key != 1 and key in shop and shop[key].available}
    assert set(keys) <= possible
    assert len(keys) == len(set(keys)) == min(top_k, len(possible))
