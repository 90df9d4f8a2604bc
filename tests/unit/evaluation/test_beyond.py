"""Diversity, serendipity and exposure: known answers, and what holds for any lists."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from recsys.evaluation import beyond, metrics
from recsys.evaluation.metrics import Labels

# items 0 and 1: the same two users; item 2: one of them; item 3: another user; item 4: nobody
OWNERS = csr_array(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32))
CATEGORY = np.array([7, 7, 8, -1, 8])


def lists(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.int32)


def test_diversity_by_hand() -> None:
    found = beyond.diversity(lists([0, 1, -1], [0, 3, -1], [0, 1, 2], [0, 4, -1], [0, -1, -1]), OWNERS)
    half = 1 - 1 / np.sqrt(2)
    np.testing.assert_allclose(found, [0.0, 1.0, 2 * half / 3, 1.0, np.nan])


def test_category_diversity_by_hand() -> None:
    found = beyond.category_diversity(lists([0, 1, -1], [0, 2, -1], [0, 1, 2], [0, 3, -1]), CATEGORY)
    np.testing.assert_allclose(found, [0.0, 1.0, 2 / 3, np.nan])  # an item without a category says nothing


def test_serendipity_by_hand() -> None:
    labels = Labels.from_pairs(np.array([1, 1, 2, 3]), np.array([5, 6, 5, 7]))
    expected = lists([5, 0], [5, 6], [7, 8])
    found = beyond.serendipity(lists([5, 6], [5, 6], [8, 9]), expected, labels, k=2)
    np.testing.assert_allclose(found, [0.5, 0.0, 0.0])  # 6 is relevant and nobody would expect it


def test_gini_by_hand() -> None:
    assert beyond.gini(lists([0], [1], [2], [3]), 4) == 0.0
    assert beyond.gini(lists([0], [0], [0]), 4) == pytest.approx(3 / 4)
    assert beyond.gini(lists([0, 1], [0, -1]), 2) == pytest.approx((-1 * 1 + 1 * 2) / (2 * 3))
    assert beyond.gini(lists([-1]), 4) == 0.0


def test_personalisation_by_hand() -> None:
    assert beyond.personalisation(lists([0, 1], [1, 0], [-1, -1])) == pytest.approx(0.0)
    assert beyond.personalisation(lists([0, 1], [2, 3])) == pytest.approx(1.0)
    assert np.isnan(beyond.personalisation(lists([0, 1], [-1, -1])))


def test_only_some_of_many_lists_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond, "MAX_LISTS", 3)
    found = beyond.diversity(np.tile(lists([0, 3]), (10, 1)), OWNERS)
    assert np.isnan(found).sum() == 7
    assert np.nanmin(found) == 1.0


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, csr_array, np.random.Generator, int]:
    n_users, n_items, k = draw(st.integers(1, 8)), draw(st.integers(2, 20)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = np.full((n_users, k), -1, dtype=np.int32)
    for row in found:
        length = rng.integers(0, min(k, n_items) + 1)
        row[:length] = rng.permutation(n_items)[:length]
    return found, csr_array((rng.random((n_items, 6)) < 0.4).astype(np.float32)), rng, n_items


@given(worlds())
def test_diversity_and_personalisation_agree_with_plain_loops(world) -> None:
    found, owners, _, _ = world
    have = owners.toarray().astype(np.float64)
    distances = []
    for row in found:
        pairs = list(combinations([int(item) for item in row if item >= 0][:10], 2))
        sizes = [np.sqrt(have[a].sum() * have[b].sum()) for a, b in pairs]
        alike = [float(have[a] @ have[b]) / size if size else 0.0 for (a, b), size in zip(pairs, sizes, strict=True)]
        distances.append(1 - np.mean(alike) if pairs else np.nan)
    np.testing.assert_allclose(beyond.diversity(found, owners), distances, atol=1e-9)
    shown = [set(row[:10][row[:10] >= 0].tolist()) for row in found]
    filled = [one for one in shown if one]
    cosines = [len(a & b) / np.sqrt(len(a) * len(b)) for a, b in combinations(filled, 2)]
    expected = 1 - np.mean(cosines) if cosines else np.nan
    np.testing.assert_allclose(beyond.personalisation(found), expected, atol=1e-9)


@given(worlds())
def test_shares_stay_in_bounds_and_names_and_order_do_not_count(world) -> None:
    found, owners, rng, n_items = world
    renamed = rng.permutation(n_items).astype(np.int32)
    other = np.where(found >= 0, renamed[found], -1)
    assert beyond.gini(found, n_items) == pytest.approx(beyond.gini(other, n_items))
    assert 0 <= beyond.gini(found, n_items) <= 1 - 1 / n_items + 1e-12
    same = csr_array(owners.toarray()[np.argsort(renamed)])
    np.testing.assert_allclose(beyond.diversity(other, same, k=12), beyond.diversity(found[:, ::-1], owners, k=12))
    values = beyond.diversity(found, owners)
    assert ((values[~np.isnan(values)] >= -1e-9) & (values[~np.isnan(values)] <= 1 + 1e-9)).all()


@given(worlds())
def test_serendipity_is_at_most_precision_and_nothing_for_what_is_expected(world) -> None:
    found, _, rng, n_items = world
    n = len(found)
    users = np.repeat(np.arange(n), 2)
    labels = Labels.from_pairs(users, rng.integers(0, n_items, len(users)))
    assert not beyond.serendipity(found, found, labels).any()
    none = np.full_like(found, -1)
    np.testing.assert_allclose(beyond.serendipity(found, none, labels), metrics.accuracy(found, labels)["precision@10"])
    assert (
        beyond.serendipity(found, found[:, ::-1], labels, k=3) <= metrics.accuracy(found, labels, (3,))["precision@3"]
    ).all()
