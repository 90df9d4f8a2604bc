"""Rules, against a plain loop over lists that says what they should do."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from recsys import rules
from recsys.types import Catalogue, Lists

N_ITEMS = 12
CATALOGUE = Catalogue(
    item_key=np.arange(2, 2 + 2 * N_ITEMS, 2, dtype=np.int32),  # even keys from 2 to 24
    available=np.arange(N_ITEMS) % 5 != 0,  # not 2, 12, 22
    category_key=np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, -1, -1, -1], dtype=np.int32),
    parent_category_key=np.array([7, 7, 7, 7, 7, 7, 8, 8, 8, -1, -1, -1], dtype=np.int32),
    first_seen_at=np.zeros(N_ITEMS, dtype=np.int64),
)
CATEGORY = dict(zip(CATALOGUE.item_key.tolist(), CATALOGUE.category_key.tolist(), strict=True))
PARENT = dict(zip(CATALOGUE.item_key.tolist(), CATALOGUE.parent_category_key.tolist(), strict=True))
AVAILABLE = set(CATALOGUE.item_key[CATALOGUE.available].tolist())

one_list = st.lists(st.integers(0, 26), max_size=8, unique=True)


def as_lists(rows: list[list[int]], source: int = 0) -> Lists:
    k = max((len(row) for row in rows), default=0)
    item = np.full((len(rows), k), -1, dtype=np.int32)
    score = np.full((len(rows), k), np.nan, dtype=np.float32)
    for i, row in enumerate(rows):
        item[i, : len(row)] = row
        score[i, : len(row)] = 100 - np.arange(len(row))
    return Lists(np.arange(len(rows), dtype=np.int32), item, score, np.full((len(rows), k), source, dtype=np.int16))


def items(lists: Lists) -> list[list[int]]:
    return [row[row >= 0].tolist() for row in lists.item_key]


@given(
    own=st.lists(one_list, min_size=1, max_size=4),
    backfill=one_list,
    bought=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 26))),
    excluded=st.sets(st.integers(0, 26), max_size=4),
    categories=st.none() | st.sets(st.integers(0, 8), min_size=1, max_size=3),
    most=st.none() | st.integers(1, 3),
    length=st.integers(1, 12),
)
def test_every_rule_holds_and_nothing_else_is_lost(
    own: list[list[int]],
    backfill: list[int],
    bought: set[tuple[int, int]],
    excluded: set[int],
    categories: set[int] | None,
    most: int | None,
    length: int,
) -> None:
    seen = np.zeros((len(own), 27), dtype=np.int8)
    for row, item in bought:
        if row < len(own):
            seen[row, item] = 1
    chosen = [
        rules.available(CATALOGUE),
        rules.not_seen(sp.csr_matrix(seen)),
        rules.not_excluded(np.array(sorted(excluded), dtype=np.int32)),
    ]
    if categories is not None:
        chosen.append(rules.in_categories(CATALOGUE, np.array(sorted(categories), dtype=np.int32)))
    result = rules.apply(
        as_lists(own),
        chosen,
        length,
        backfill=as_lists([backfill], source=1),
        quota=None if most is None else rules.Quota(CATALOGUE, most),
    )
    expected = []
    for row, candidates in enumerate(own):
        kept: list[int] = []
        for item in [*candidates, *backfill]:
            fits = item in AVAILABLE and not seen[row, item] and item not in excluded and item not in kept
            if categories is not None:
                fits = fits and bool({CATEGORY.get(item), PARENT.get(item)} & categories)
            if fits and most is not None and CATEGORY[item] >= 0:
                fits = [CATEGORY[k] for k in kept].count(CATEGORY[item]) < most
            if fits:
                kept.append(item)
        expected.append(kept[:length])
    assert items(result) == expected
    assert result.item_key.shape == (len(own), length)
    for row, candidates in enumerate(own):
        n = len(expected[row])
        scores = result.score[row]
        assert np.isfinite(scores[:n]).all()
        assert np.isnan(scores[n:]).all()
        assert (np.diff(scores[:n]) <= 0).all()
        assert result.source[row, :n].tolist() == [int(item not in candidates) for item in expected[row]]


def test_scores_of_a_list_of_its_own_are_not_touched() -> None:
    own = as_lists([[4, 6, 8]])
    result = rules.apply(own, [rules.available(CATALOGUE)], 5, backfill=as_lists([[10, 4]], source=3))
    assert items(result) == [[4, 6, 8, 10]]
    assert result.score[0, :4].tolist() == [100.0, 99.0, 98.0, 97.0]
    assert result.source[0].tolist() == [0, 0, 0, 3, 0]


def test_an_empty_list_is_filled_whole() -> None:
    result = rules.apply(as_lists([[], [4]]), [], 2, backfill=as_lists([[6, 8]], source=1))
    assert items(result) == [[6, 8], [4, 6]]
    assert result.score[0].tolist() == [0.0, -1.0]


def test_filled_scores_stay_apart_beside_large_ones() -> None:
    own = Lists(np.array([1]), np.array([[4]]), np.array([[3e9]], dtype=np.float32), np.zeros((1, 1), dtype=np.int16))
    result = rules.apply(own, [], 4, backfill=as_lists([[6, 8, 10]]))
    assert (np.diff(result.score[0]) < 0).all()


def test_neighbours_never_hold_their_owner() -> None:
    lists = as_lists([[4, 6], [6, 8]])
    owners = np.array([6, 6], dtype=np.int32)
    assert items(rules.apply(lists, [rules.not_own(owners)], 2)) == [[4], [8]]


@pytest.mark.parametrize("rule", [rules.available, lambda c: rules.in_categories(c, np.array([1], dtype=np.int32))])
def test_an_empty_catalogue_allows_nothing(rule: object) -> None:
    none = np.array([], dtype=np.int32)
    empty = Catalogue(none, none.astype(bool), none, none, none.astype(np.int64))
    assert items(rules.apply(as_lists([[4, 6]]), [rule(empty)], 2)) == [[]]  # type: ignore[operator]
