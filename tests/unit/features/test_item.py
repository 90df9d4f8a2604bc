"""Item features that say who is new to an item, by hand."""

from __future__ import annotations

import pytest

from recsys.features.frame import Features
from recsys.types import MICROSECONDS_PER_DAY as DAY
from tests.unit.features.test_features import PAIRS, dataset_of

EVENTS = [
    (100.0, 1, 1, "buy", 1.0),
    (178.5, 1, 1, "buy", 1.0),  # user 1 knows item 1 already
    (178.6, 2, 1, "buy", 1.0),
    (175.0, 3, 1, "view", 1.0),
    (179.0, 3, 2, "buy", 1.0),
]


def test_first_time_users_and_busy_days_are_counted(tmp_path) -> None:
    rows = Features(dataset_of(tmp_path, EVENTS), 180 * DAY, threads=1).join(PAIRS).to_pylist()
    item = {row["item_key"]: row for row in rows}[1]
    assert item["item_n_new_7d"] == 2  # users 2 and 3
    assert item["item_new_rate_7d"] == pytest.approx(2 / 3)  # of users 1, 2 and 3
    assert item["item_new_share_7d"] == pytest.approx((2 + 1) / (3 + 2))  # of three events
    assert item["item_n_days_14d"] == 2  # 1 and 5 days ago
    assert item["item_share_7d"] == pytest.approx(3 / 4)
    assert item["item_share_90d"] == pytest.approx(4 / 5)
