"""Who is judged."""

from __future__ import annotations

import numpy as np

from recsys.evaluation.metrics import Labels
from recsys.ranking.windows import is_held_out
from recsys.steps.judge import drawn

EVERYBODY = np.arange(20_000)
LABELS = Labels.from_pairs(EVERYBODY, EVERYBODY % 7)


def test_where_there_are_too_many_they_are_drawn_at_random() -> None:
    """Keys are given in order of appearance: the first ones are the oldest customers, and none of them is new."""
    judged = drawn(LABELS, 500, 1, held_out_only=False).user_key
    assert len(judged) == 500
    assert judged.max() > 19_000
    assert abs(judged.mean() - 10_000) < 1_000
    np.testing.assert_array_equal(judged, drawn(LABELS, 500, 1, held_out_only=False).user_key)
    assert not np.array_equal(judged, drawn(LABELS, 500, 2, held_out_only=False).user_key)


def test_of_held_out_users_too() -> None:
    judged = drawn(LABELS, 500, 1, held_out_only=True).user_key
    assert len(judged) == 500
    assert is_held_out(judged).all()
    assert judged.max() > 19_000
    assert len(drawn(LABELS, 5_000, 1, held_out_only=True)) == is_held_out(EVERYBODY).sum()
