"""The shared pieces of the generators against plain Python."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.candidates.base import (
    LEAST_DECAY,
    best_of_dense,
    best_of_sparse,
    freshness,
    item_trend,
    load_model,
    seen_positions,
    user_item_matrix,
)
from recsys.errors import ArtifactError
from recsys.keys import KeyIndex
from recsys.types import MICROSECONDS_PER_DAY, Interactions

TABLES = st.lists(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=4, max_size=4), min_size=1, max_size=6
).map(lambda rows: np.array(rows, dtype=np.float32))


def history(users: list[int], items: list[int], ages: list[float], weights: list[float]) -> Interactions:
    at = np.array([int((10_000 - age) * MICROSECONDS_PER_DAY) for age in ages])
    n = len(users)
    return Interactions(
        np.array(users, dtype=np.int32),
        np.array(items, dtype=np.int32),
        np.zeros(n, dtype=np.int8),
        np.array(weights, dtype=np.float32),
        at,
        np.arange(n),
        np.full(n, np.nan),
        ("view",),
        10_000 * MICROSECONDS_PER_DAY,
    )


def best_in_python(row: list[float], n: int, least: float) -> list[int]:
    chosen = [column for column, score in enumerate(row) if score > least]
    return (sorted(chosen, key=lambda column: (-row[column], column)) + [-1] * n)[:n]


@given(TABLES, st.integers(1, 6))
def test_the_best_of_a_sparse_matrix_are_its_largest_positive_entries(table: np.ndarray, n: int) -> None:
    positions, scores = best_of_sparse(sp.csr_matrix(table), n)
    for row, found, values in zip(table.tolist(), positions.tolist(), scores.tolist(), strict=True):
        expected = best_in_python(row, n, least=0.0)
        assert found == expected
        np.testing.assert_array_equal(values, [row[column] if column >= 0 else np.nan for column in expected])


@given(TABLES, st.integers(1, 6))
def test_the_best_of_a_dense_matrix_leave_out_what_is_masked(table: np.ndarray, n: int) -> None:
    masked = np.where(table == 2.0, -np.inf, table).astype(np.float32)
    positions, scores = best_of_dense(masked, n)
    for row, found, values in zip(masked.tolist(), positions.tolist(), scores.tolist(), strict=True):
        kept = [column for column in found if column >= 0]
        assert found == kept + [-1] * (n - len(kept))
        assert [row[column] for column in kept] == sorted((x for x in row if x > -np.inf), reverse=True)[:n]
        np.testing.assert_array_equal(values, [row[column] if column >= 0 else np.nan for column in found])


def test_the_best_of_many_rows_and_columns_come_block_by_block() -> None:
    """Blocks hold 2^(33 - bits of a column) rows: 2^31 columns leave four rows to a block."""
    row = np.repeat(np.arange(11), 2)
    column = np.tile([5, 2**31 - 2], 11)
    score = np.arange(1, 23, dtype=np.float32)
    wide = sp.csr_matrix((score, (row, column)), shape=(11, 2**31 - 1))
    positions, scores = best_of_sparse(wide, 1)
    assert positions[:, 0].tolist() == [2**31 - 2] * 11
    assert scores[:, 0].tolist() == list(range(2, 24, 2))


def test_a_matrix_sums_repeats_and_leaves_out_unknown_keys() -> None:
    events = history([5, 5, 9, 2], [7, 7, 3, 7], [1, 2, 3, 4], [1, 2, 4, 8])
    users, items = KeyIndex(np.array([5, 9], dtype=np.int32)), KeyIndex(np.array([3, 7], dtype=np.int32))
    matrix = user_item_matrix(events, events.weight, users, items)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix.toarray(), [[0, 3], [4, 0]])


def test_decay_halves_each_half_life_from_the_newest_event_on() -> None:
    events = history([1] * 4, [1] * 4, [3040, 3010, 3000, 3000], [1] * 4)
    np.testing.assert_allclose(freshness(events, 10.0), [2**-4, 0.5, 1, 1])
    np.testing.assert_allclose(freshness(events, 0.001), [LEAST_DECAY, LEAST_DECAY, 1, 1])


def test_trend_tells_rising_from_falling_items_and_doubts_small_numbers() -> None:
    rising, falling, once = 0, 1, 2
    items = [rising] * 100 + [falling] * 100 + [once]
    ages = [1.0] * 80 + [200.0] * 20 + [200.0] * 80 + [1.0] * 20 + [1.0]
    events = history([1] * 201, items, ages, [3.0] * 201)
    index = KeyIndex(np.array([rising, falling, once], dtype=np.int32))
    trend = item_trend(events, index, 20.0, 1.0)
    assert trend[rising] > trend[once] > 1 > trend[falling]
    assert trend[once] < 1.3  # one event proves little
    np.testing.assert_allclose(item_trend(events, index, 20.0, 2.0), trend**2, rtol=1e-5)
    np.testing.assert_array_equal(item_trend(events, index, 20.0, 0.0), 1.0)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=15))
def test_seen_keys_become_positions(pairs: list[tuple[int, int]]) -> None:
    items = KeyIndex(np.array([2, 3, 7], dtype=np.int32))
    row, key = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    seen = sp.coo_array((np.ones(len(pairs)), (row, key)), shape=(3, 10)).tocsr()
    mask = seen_positions(seen, items, 3)
    assert mask is not None
    np.testing.assert_array_equal(mask.toarray(), seen.toarray()[:, [2, 3, 7]] > 0)
    assert seen_positions(None, items, 3) is None


def test_a_model_that_cannot_be_read_is_an_artifact_error(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "model.json").write_text('{"name": "als", "format": 1')
    with pytest.raises(ArtifactError, match="train it again"):
        load_model(tmp_path, "als")
