"""A shop too small to learn from is told so, in words that say what to do."""

from __future__ import annotations

import pytest

from recsys.errors import TooFewLabelsError
from recsys.ranking.ranker import RankerParams
from recsys.ranking.two_stage import WindowExamples, train_on


def test_windows_without_a_label_among_the_candidates_are_too_few() -> None:
    nothing = WindowExamples(None, None)
    with pytest.raises(TooFewLabelsError, match="RECSYS_LABEL_WINDOW_DAYS"):
        train_on([nothing, nothing], RankerParams())
