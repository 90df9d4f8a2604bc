from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.ranking.windows import is_held_out, is_validation, place_of_user, training_windows
from recsys.types import MICROSECONDS_PER_DAY as DAY
from recsys.types import Interactions


def interactions(first_day: int, end_day: int) -> Interactions:
    at = np.arange(first_day, end_day, dtype=np.int64) * DAY
    n = len(at)
    zeros = np.zeros(n, dtype=np.int32)
    ones = np.ones(n, dtype=np.float32)
    return Interactions(
        zeros, zeros, zeros.astype(np.int8), ones, at, at, ones.astype(np.float64), ("buy",), end_day * DAY
    )


def test_windows_end_with_the_data_oldest_first() -> None:
    found = training_windows(interactions(0, 100), n=3, days=14)
    assert [(w.cut_at // DAY, w.end_at // DAY) for w in found] == [(58, 72), (72, 86), (86, 100)]


def test_windows_before_the_first_event_are_left_out_and_none_left_is_an_error() -> None:
    assert len(training_windows(interactions(80, 100), n=3, days=14)) == 1
    with pytest.raises(InputError, match="less than one label window"):
        training_windows(interactions(90, 100), n=3, days=14)


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=50))
def test_the_split_of_users_is_stable_and_apart(keys: list[int]) -> None:
    users = np.array(keys, dtype=np.int32)
    place = place_of_user(users)
    assert ((place >= 0) & (place < 1)).all()
    np.testing.assert_array_equal(place, place_of_user(users.astype(np.int64)))
    assert not (is_held_out(users) & is_validation(users)).any()


def test_the_split_has_the_shares_it_says() -> None:
    users = np.arange(20_000, dtype=np.int32)
    assert is_held_out(users).mean() == pytest.approx(0.1, abs=0.01)
    assert is_validation(users).mean() == pytest.approx(0.15, abs=0.01)
