"""Popular items by category: what the contract suite of generators does not cover."""

from __future__ import annotations

import numpy as np

from recsys.candidates.popular import Popular, heaviest_of_a_day
from recsys.types import Catalogue, Interactions


def fitted() -> Popular:
    """Item i has i + 1 events, items 0 … 3; categories 5, 6, 7, 7."""
    items = np.repeat(np.arange(4), np.arange(1, 5)).astype(np.int32)
    n = len(items)
    interactions = Interactions(
        np.arange(n, dtype=np.int32),
        items,
        np.zeros(n, dtype=np.int8),
        np.ones(n, dtype=np.float32),
        np.arange(n, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        np.ones(n),
        ("view",),
        n,
    )
    keys = np.arange(4, dtype=np.int32)
    categories = np.array([5, 6, 7, 7], dtype=np.int32)
    catalogue = Catalogue(
        keys, np.array([True, True, True, True]), categories, np.full(4, -1, dtype=np.int32), np.zeros(4, np.int64)
    )
    return Popular().fit(interactions, catalogue)


def by_category(model: Popular, parents: dict[int, int | None] | None = None) -> dict[int, list[int]]:
    found = model.top_by_category(3, parents)
    return {
        int(owner): [int(key) for key in row if key >= 0]
        for owner, row in zip(found.owner_key, found.item_key, strict=True)
    }


def test_each_category_has_its_own_items_best_first() -> None:
    assert by_category(fitted()) == {5: [0], 6: [1], 7: [3, 2]}


def test_items_count_in_all_categories_above() -> None:
    assert by_category(fitted(), {5: 1, 6: 1, 7: 6, 1: None}) == {1: [3, 2, 1], 5: [0], 6: [3, 2, 1], 7: [3, 2]}


def test_a_ring_of_categories_ends() -> None:
    assert by_category(fitted(), {5: 6, 6: 5}) == {5: [1, 0], 6: [1, 0], 7: [3, 2]}


def test_a_user_makes_an_item_popular_once_a_day() -> None:
    day = 86_400_000_000
    # a bot views item 0 a thousand times in a day, three people view item 1, one views and buys item 2
    rows = [(9, 0, 1.0, i) for i in range(1000)] + [(user, 1, 1.0, user) for user in range(3)]
    rows += [(4, 2, 1.0, 5), (4, 2, 5.0, 6), (4, 2, 5.0, 2 * day)]
    rows.sort(key=lambda row: row[3])
    users, items, weights, at = (np.array(column) for column in zip(*rows, strict=True))
    n = len(rows)
    zeros = np.zeros(n, dtype=np.int64)
    interactions = Interactions(
        users.astype(np.int32),
        items.astype(np.int32),
        zeros.astype(np.int8),
        weights.astype(np.float32),
        at,
        zeros,
        np.ones(n),
        ("view",),
        3 * day,
    )
    left = heaviest_of_a_day(interactions)
    found = sorted(zip(left.user_key.tolist(), left.item_key.tolist(), left.weight.tolist(), strict=True))
    assert found == [(0, 1, 1.0), (1, 1, 1.0), (2, 1, 1.0), (4, 2, 5.0), (4, 2, 5.0), (9, 0, 1.0)]
    assert left.occurred_at[left.user_key == 9].tolist() == [999], "of equal ones the last"
    three = np.arange(3, dtype=np.int32)
    catalogue = Catalogue(three, np.ones(3, bool), np.full(3, -1, np.int32), np.full(3, -1, np.int32), zeros[:3])
    assert Popular().fit(interactions, catalogue).top(3)[0].tolist() == [2, 1, 0]
