"""Arrays of keys against plain Python."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.keys import KeyIndex, pairs_of, parts_of, positions, runs

KEYS = st.lists(st.integers(0, 50), max_size=20)


@given(KEYS, st.lists(st.integers(-3, 60), max_size=20))
def test_positions_of_keys(keys: list[int], wanted: list[int]) -> None:
    index = KeyIndex.of(np.array(keys, dtype=np.int32))
    known = sorted(set(keys))
    assert index.keys.tolist() == known
    expected = [known.index(key) if key in known else -1 for key in wanted]
    assert index.positions(np.array(wanted, dtype=np.int32)).tolist() == expected
    assert positions(index.keys, np.array(wanted, dtype=np.int64)).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)), min_size=1))
def test_pairs_sort_as_they_do_and_come_apart_again(pairs: list[tuple[int, int]]) -> None:
    owner, key = np.array(pairs, dtype=np.int32).T
    owners, keys = parts_of(np.sort(pairs_of(owner, key)))
    assert list(zip(owners.tolist(), keys.tolist(), strict=True)) == sorted(pairs)


def test_no_key_makes_no_pair() -> None:
    rows, items = np.arange(3), np.array([[5, -1], [-1, 7], [0, -1]], dtype=np.int32)
    pairs = pairs_of(rows[:, None], items)
    assert ((pairs == -1) == (items == -1)).all()
    assert len(np.unique(pairs)) == 4


@given(KEYS)
def test_runs_begin_where_something_changes(keys: list[int]) -> None:
    ordered = sorted(keys)
    starts, place = runs(np.array(ordered, dtype=np.int64), np.zeros(len(ordered)))
    assert starts.tolist() == [n for n, key in enumerate(ordered) if key not in ordered[:n]]
    assert place.tolist() == [ordered[:n].count(key) for n, key in enumerate(ordered)]
