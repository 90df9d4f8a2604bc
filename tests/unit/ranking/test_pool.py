from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.ranking.pool import build_pool, within_user
from recsys.types import Candidates


class Fixed:
    """A generator with given scores: (users, items), NaN where unknown."""

    def __init__(self, name: str, table: list[list[float]]) -> None:
        self.name, self.table = name, np.array(table, dtype=np.float32)

    def candidates(self, user_keys, n, *, seen=None) -> Candidates:
        scores = self.table[user_keys].copy()
        if seen is not None:
            scores[seen.toarray() > 0] = np.nan
        order = np.argsort(np.where(np.isnan(scores), np.inf, -scores), axis=1, kind="stable")[:, :n]
        found = np.take_along_axis(scores, order, axis=1)
        return Candidates(user_keys, np.where(np.isnan(found), -1, order).astype(np.int32), found)

    def scores(self, user_keys, item_keys) -> np.ndarray:
        return np.take_along_axis(self.table[user_keys], np.maximum(item_keys, 0), axis=1)


NAN = np.nan
USERS = np.array([0, 1, 2], dtype=np.int32)
A = Fixed("a", [[4, 3, 2, 1], [1, 2, 3, 4], [NAN] * 4])
B = Fixed("b", [[0, 0, 0, 9], [5, NAN, NAN, 4], [NAN] * 4])


def test_union_with_scores_of_all_generators() -> None:
    pool = build_pool([A, B], USERS, 2)
    assert pool.sizes.tolist() == [3, 3, 0]  # {0, 1} and {3, 0}; {3, 2} and {0, 3}; nothing
    assert pool.item_key.tolist() == [0, 1, 3, 0, 2, 3]
    assert pool.columns["a_found"].tolist() == [1, 1, 0, 0, 1, 1]
    assert pool.columns["b_found"].tolist() == [1, 0, 1, 1, 0, 1]
    assert pool.columns["a_score"].tolist() == [4, 3, 1, 1, 3, 4]
    assert pool.columns["a_rank"].tolist() == [1, 2, 3, 3, 2, 1]
    np.testing.assert_allclose(pool.columns["b_score"], [0, 0, 9, 5, NAN, 4])
    np.testing.assert_allclose(pool.columns["b_rank"], [2, 2, 1, 1, NAN, 2])
    np.testing.assert_allclose(pool.columns["a_share"], [1, 2 / 3, 0, 0, 2 / 3, 1])
    np.testing.assert_allclose(pool.columns["b_share"], [0, 0, 1, 1, NAN, 0])
    assert pool.row_of_user.tolist() == [0, 0, 0, 1, 1, 1]
    assert pool.padded(pool.item_key, -1).tolist() == [[0, 1, 3], [0, 2, 3], [-1, -1, -1]]


def test_each_generator_may_have_its_own_length() -> None:
    pool = build_pool([A, B], USERS, {"a": 1, "b": 1})
    assert pool.item_key.tolist() == [0, 3, 0, 3]


def test_generators_must_have_names_of_their_own() -> None:
    with pytest.raises(InputError, match="distinct"):
        build_pool([A, A], USERS, 2)
    with pytest.raises(InputError, match="distinct"):
        build_pool([], USERS, 2)


@given(
    st.lists(
        st.lists(st.one_of(st.integers(-3, 3).map(float), st.just(NAN)), min_size=4, max_size=4), min_size=1, max_size=5
    )
)
def test_ranks_and_shares_follow_the_scores(rows: list[list[float]]) -> None:
    scores = np.array(rows, dtype=np.float32)
    rank, share = within_user(scores)
    for row in range(len(scores)):
        for column in range(4):
            if np.isnan(scores[row, column]):
                assert np.isnan(rank[row, column])
                assert np.isnan(share[row, column])
            else:
                assert rank[row, column] == 1 + (scores[row] > scores[row, column]).sum()
                assert 0 <= share[row, column] <= 1
