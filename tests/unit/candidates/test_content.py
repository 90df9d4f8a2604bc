"""Content, by hand: items that share attributes are near, whether or not anybody touched them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.candidates import content
from recsys.candidates.content import Content, rarest
from recsys.types import Catalogue, Descriptions
from tests.unit.candidates.test_generators import catalogue, history


def described(properties: list[dict[str, Any]], title: list[str | None] | None = None) -> Catalogue:
    n_items = len(properties)
    descriptions = Descriptions(
        title or [None] * n_items, np.full(n_items, np.nan), [json.dumps(one) for one in properties]
    )
    return replace(catalogue(n_items), describe=lambda: descriptions)


def items(*keys: int) -> Any:
    return np.array(keys, dtype=np.int32)


def test_nearness_is_the_share_of_shared_attributes() -> None:
    """Four attributes of two items each, equally rare: 0 and 1 share two; 0 and 2 share one of three."""
    world = described([{"a": 1, "b": 1}, {"a": 1, "b": 1}, {"c": 1, "d": 1}, {"c": 1, "e": 1}, {"d": 1, "e": 1}])
    found = Content(title_share=0.0).fit(history([(0, 0, 1.0)]), world).similar(items(0, 2), 3)
    assert found.item_key.tolist() == [[1, -1, -1], [3, 4, -1]]
    assert found.score[0, 0] == pytest.approx(1.0)
    np.testing.assert_allclose(found.score[1, :2], 1 / (2 + 2 - 1), rtol=1e-6)


def test_a_rare_attribute_makes_nearer_than_a_common_one() -> None:
    world = described([{"a": 1, "b": 1}, {"a": 1}, {"b": 1}, {"b": 1}, {"b": 1}, {}])
    assert Content().fit(history([(0, 0, 1.0)]), world).similar(items(0), 1).item_key.tolist() == [[1]]


def test_titles_count_beside_attributes() -> None:
    world = described([{"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}], ["red mug", "lamp", "red mug", "lamp"])
    found = [Content(title_share=share).fit(history([(0, 0, 1.0)]), world) for share in (0.0, 0.4, 0.6, 1.0)]
    assert [model.similar(items(0), 2).item_key[0].tolist() for model in found] == [[1, -1], [1, 2], [2, 1], [2, -1]]


def test_users_are_led_to_items_without_events() -> None:
    world = described([{"a": 1}, {"a": 2}, {"a": 2}, {"a": 1}])
    model = Content().fit(history([(0, 0, 1.0), (1, 1, 1.0)]), world)
    found = model.candidates(items(0, 1), 2)
    assert found.item_key.tolist() == [[3, -1], [2, -1]]
    assert model.similar(items(3), 1).item_key.tolist() == [[0]]  # one without events has neighbours, too


def test_the_last_session_counts_most() -> None:
    world = described([{"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}])
    found = Content().fit(history([(0, 0, 50.0), (0, 1, 1.0)]), world).candidates(items(0), 2)
    assert found.item_key.tolist() == [[3, 2]]


def test_a_catalogue_of_which_nothing_is_said_gives_nothing() -> None:
    found = Content().fit(history([(0, 0, 1.0)]), catalogue(3)).candidates(items(0), 2)
    assert found.n_found.tolist() == [0]


def test_blocks_change_nothing(monkeypatch) -> None:
    random = np.random.default_rng(1)
    world = described([{"a": int(a), "b": int(b)} for a, b in random.integers(0, 6, (40, 2))])
    whole = Content().fit(history([(0, 0, 1.0)]), world).near
    monkeypatch.setattr(content, "ENTRIES_PER_BLOCK", 30)
    parts = Content().fit(history([(0, 0, 1.0)]), world).near
    np.testing.assert_array_equal(whole.toarray(), parts.toarray())


def test_the_most_frequent_attributes_are_left_out_of_large_catalogues() -> None:
    alike = described([{"a": 1}, {"a": 1}, {"a": 1}, {"b": 1}, {"b": 1}])
    world = Content().fit(history([(0, 0, 1.0)]), alike).near
    assert world.nnz == 3 * 2 + 2
    matrix = (world > 0).astype(np.float32).tocsr()
    assert rarest(matrix, 10**9) is matrix
    kept = rarest(matrix, 2)
    assert sorted(np.unique(kept.indices).tolist()) == [3, 4]
