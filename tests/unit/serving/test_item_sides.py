"""What is kept of items is always that of just these rows, under just these weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.serving.item_sides import N_KEPT, ItemSides

item = st.tuples(st.sampled_from([0, 1, 2, N_KEPT, N_KEPT + 1, 2 * N_KEPT + 1]), st.integers(0, 2))
steps = st.lists(st.one_of(st.none(), st.lists(item, max_size=6)), max_size=8)


@given(steps)
def test_what_is_kept_is_what_would_be_computed(histories: list[list[tuple[int, int]] | None]) -> None:
    """Also where items share a place, come twice in a call, or weights change in between (None)."""
    weight = 1.0

    def compute(rows: np.ndarray) -> np.ndarray:
        return np.stack([rows[:, 0] * weight, rows[:, 1] + weight], axis=1).astype(np.float32)

    sides = ItemSides(compute, 2, 2)
    for one in histories:
        if one is None:
            weight += 1
            sides.forget()
            continue
        rows = np.array(one, dtype=np.int32).reshape(-1, 2)
        np.testing.assert_array_equal(sides.of(rows), compute(rows))


def test_an_item_is_computed_once_until_weights_change() -> None:
    computed: list[int] = []

    def compute(rows: np.ndarray) -> np.ndarray:
        computed.extend(rows[:, 0].tolist())
        return rows.astype(np.float32)

    sides = ItemSides(compute, 1, 1)
    first, more = np.array([[5], [7]], dtype=np.int32), np.array([[7], [9], [5]], dtype=np.int32)
    for rows in (first, more, first):
        sides.of(rows)
    assert computed == [5, 7, 9]
    sides.forget()
    sides.of(first)
    assert computed == [5, 7, 9, 5, 7]
    many = np.arange(5000, dtype=np.int32)[:, None]
    np.testing.assert_array_equal(sides.of(many), many)
