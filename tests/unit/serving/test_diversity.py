from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.candidates.als import Als
from recsys.errors import ArtifactError
from recsys.serving import fold_in
from recsys.serving.catalogue import NO_CATEGORY
from recsys.serving.diversity import reordered, similarity
from recsys.serving.item_factors import ItemFactors
from tests.contracts.generators import catalogue, checkerboard


def keys(*of: int) -> np.ndarray:
    return np.array(of, dtype=np.int64)


def categories(*of: int) -> np.ndarray:
    return np.array(of, dtype=np.int32)


def test_categories_take_turns_when_diversity_is_all_that_counts() -> None:
    alike = similarity(keys(1, 2, 3, 4, 5), categories(7, 7, 7, 8, 9))
    assert reordered(alike, 1.0, 5) == [0, 3, 4, 1, 2]
    assert reordered(alike, 0.0, 5) == [0, 1, 2, 3, 4]
    assert reordered(alike, 0.5, 2) == [0, 3]
    assert reordered(alike, 0.1, 5) == [0, 1, 2, 3, 4]  # 0.9 · 1/5 a place is worth more than 0.1


def test_items_without_a_category_are_not_alike_by_it() -> None:
    assert similarity(keys(1, 2), categories(NO_CATEGORY, NO_CATEGORY)).tolist() == [[0, 0], [0, 0]]


def test_factors_count_as_much_as_the_category_where_both_items_have_them() -> None:
    factors = ItemFactors(keys(1, 2, 3, 5), np.array([[3, 0], [0, 2], [1, 1], [0, 0]], dtype=np.float32))
    alike = similarity(keys(1, 2, 3, 4, 5, 99), categories(7, 7, 8, 7, 7, 7), factors)
    cosine = 0.5**0.5
    assert alike[0].tolist() == pytest.approx([1.0, 0.5, cosine / 2, 1.0, 1.0, 1.0], abs=1e-3)
    # 4 has no factors, 5 a vector of zeros, 99 is beyond all keys: the category alone speaks
    opposite = ItemFactors(keys(1, 2), np.array([[1, 0], [-1, 0]], dtype=np.float32))
    assert similarity(keys(1, 2), categories(7, 8), opposite)[0, 1] == 0


def test_without_any_item_there_are_no_vectors() -> None:
    factors = ItemFactors(keys(), np.zeros((0, 4), dtype=np.float32))
    assert similarity(keys(1), categories(7), factors).tolist() == [[1.0]]


@given(st.lists(st.sampled_from([NO_CATEGORY, 1, 2, 3]), max_size=12), st.floats(0, 1), st.integers(0, 14))
def test_each_choice_is_the_best_that_is_left(of: list[int], weight: float, n: int) -> None:
    alike = similarity(np.arange(len(of)), categories(*of))
    chosen = reordered(alike, weight, n)
    assert len(chosen) == len(set(chosen)) == min(n, len(of))
    for count, at in enumerate(chosen):

        def value(i: int, before: list[int] = chosen[:count]) -> float:
            nearest = max((float(alike[i, j]) for j in before), default=0.0)
            return (1 - weight) * (1 - i / len(of)) - weight * nearest

        left = [i for i in range(len(of)) if i not in chosen[:count]]
        assert value(at) >= max(value(i) for i in left) - 1e-6


def test_factors_are_read_from_the_artifact_of_the_model(tmp_path: Path) -> None:
    model = Als(factors=4, iterations=2, num_threads=1).fit(checkerboard()[0], catalogue())
    model.save(tmp_path)
    factors, _ = fold_in.read(tmp_path)
    vectors, has = factors.of(np.append(model.items.keys, 10**6))
    lengths = np.linalg.norm(model.item_factors, axis=1, keepdims=True)
    assert has.tolist() == [True] * len(model.items) + [False]
    assert np.allclose(vectors[:-1], model.item_factors / lengths, atol=1e-3)
    (tmp_path / "model.npz").write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match="train als again"):
        fold_in.read(tmp_path)
