"""Which model makes an item's list of similar items."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from recsys.candidates.content import Content
from recsys.steps import similar_items
from recsys.steps.similar_items import FEW_USERS, SOURCES
from recsys.types import Candidates, Keys
from tests.unit.candidates.test_content import described
from tests.unit.candidates.test_generators import history

WORLD = described([{"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}, {"a": 3}, {}])
EVENTS = history(
    [(user, item, 1.0) for user in range(FEW_USERS + 1) for item in (0, 3, 5)] + [(0, 1, 1.0), (0, 4, 1.0)]
)


class Als:
    """Says that item 5 is like all items that have events."""

    def similar(self, item_keys: Keys, n: int) -> Candidates:
        known = np.isin(item_keys, [0, 1, 4, 5])
        keys, scores = np.full((len(item_keys), n), -1, np.int32), np.full((len(item_keys), n), np.nan, np.float32)
        keys[known, 0], scores[known, 0] = np.where(item_keys[known] == 5, 0, 5), 0.5
        return Candidates(item_keys, keys, scores)


def lists(als: Any, world: Any = WORLD) -> dict[int, tuple[str, list[int]]]:
    data: Any = SimpleNamespace(interactions=lambda: EVENTS, catalogue=lambda: world)
    found: dict[int, tuple[str, list[int]]] = {}
    for part in similar_items._lists(data, als, Content(), 3):
        for owner, keys, sources in zip(part.owner_key.tolist(), part.item_key, part.source, strict=True):
            assert owner not in found
            there = keys >= 0
            [source] = np.unique(sources[there]).tolist()
            found[owner] = (SOURCES[source], keys[there].tolist())
    return found


def test_content_where_users_are_few_and_als_where_they_are_not() -> None:
    assert lists(Als()) == {
        0: ("als", [5]),
        1: ("content", [0]),  # one user
        2: ("content", [3]),  # nobody
        3: ("content", [2]),  # ALS, of older data, does not know it
        4: ("als", [5]),  # nothing is like it
        5: ("als", [0]),
    }


def test_content_alone_without_als() -> None:
    assert lists(None) == {0: ("content", [1]), 1: ("content", [0]), 2: ("content", [3]), 3: ("content", [2])}


def test_nothing_is_like_an_item_of_which_nothing_is_said() -> None:
    assert lists(None, replace(WORLD, describe=None)) == {}
