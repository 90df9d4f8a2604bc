"""What each generator brings: counted by hand on three users."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.evaluation.metrics import Labels
from recsys.evaluation.pools import EVERY, NO_LABELS, POOL, PoolCount, pool_hits, pool_report, recall_of_union

LABELS = Labels.from_pairs(np.array([1, 1, 2, 5]), np.array([10, 11, 10, 12]))
LISTS = {
    "a": np.array([[10, 20, -1], [20, 10, 30], [-1, -1, -1]], dtype=np.int32),
    "b": np.array([[11, 10, 40], [30, 20, 40], [12, -1, -1]], dtype=np.int32),
}


def test_recall_unique_share_and_overlap() -> None:
    a, b, pool = pool_report(LISTS, LABELS, sizes=(1, 3))
    assert (a["generator"], b["generator"], pool["generator"]) == ("a", "b", POOL)
    assert a["recall@1"] == np.mean([1 / 2, 0, 0])
    assert a["recall@3"] == np.mean([1 / 2, 1, 0])
    assert b["recall@1"] == np.mean([1 / 2, 0, 1])
    assert b["recall@3"] == np.mean([1, 0, 1])
    assert (pool["recall@1"], pool["recall@3"]) == (np.mean([1, 0, 1]), 1.0)
    # hits of the pool: (1,10) of both, (1,11) of b, (2,10) of a, (5,12) of b
    assert (a["unique"], b["unique"]) == (1 / 4, 2 / 4)
    assert a["overlap"] == 3 / 5  # (1,10), (2,20), (2,30) of five
    assert b["overlap"] == 3 / 7
    assert (a["candidates"], b["candidates"], pool["candidates"]) == (5 / 3, 7 / 3, 9 / 3)


def test_a_single_generator_finds_everything_alone() -> None:
    alone, _ = pool_report({"a": LISTS["a"]}, LABELS, sizes=(3,))
    assert (alone["unique"], alone["overlap"]) == (1.0, 0.0)


def test_recall_of_the_union_per_user() -> None:
    assert recall_of_union(LISTS, LABELS).tolist() == [1.0, 1.0, 1.0]
    assert recall_of_union(LISTS, LABELS, 1).tolist() == [1.0, 0.0, 1.0]


def test_what_the_pool_misses_by_group_of_items() -> None:
    """Of the labels (1,10), (1,11), (2,10), (5,12) the lists of `a` find the first and the third; 12 is not known."""
    groups = {"new items": np.array([11]), "tail items": np.array([], dtype=int)}
    found = pool_hits({"a": LISTS["a"]}, LABELS, np.array([10, 11]), groups)
    np.testing.assert_allclose(found.recall, recall_of_union({"a": LISTS["a"]}, LABELS))
    assert found.missed(np.ones(3, dtype=bool)) == {
        "missed": 2 / 4,
        "missed_new_items": 1.0,
        "missed_tail_items": None,
        "unknown_items": 1 / 4,
    }
    assert found.missed(np.array([False, True, False]))["missed"] == 0.0
    assert found.missed(np.zeros(3, dtype=bool))["missed"] is None
    assert found.n_labels[EVERY].tolist() == [2, 1, 1]


def test_counts_of_groups_of_users_add_up() -> None:
    first, second = PoolCount.of(np.array([2, 1]), np.array([1, 1])), PoolCount.of(np.array([4]), np.array([0]))
    both = first + second
    assert both == PoolCount.of(np.array([2, 1, 4]), np.array([1, 1, 0]))
    assert both.recall == pytest.approx(0.5)
    assert both.missed == pytest.approx(5 / 7)
    assert (NO_LABELS.recall, NO_LABELS.missed) == (0.0, 0.0)
    assert first + NO_LABELS == first
