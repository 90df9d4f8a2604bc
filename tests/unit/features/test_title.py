"""Titles, by hand: who bought red things is near to red things, and a word in fashion lifts every item that has it."""

from __future__ import annotations

import numpy as np

from recsys.features.frame import Features
from recsys.types import MICROSECONDS_PER_DAY as DAY
from tests.unit.features.test_features import PAIRS, dataset_of

TITLES = [
    (0.0, 1, "title", "Red mug"),
    (0.0, 2, "title", "RED lamp"),
    (0.0, 3, "title", "blue lamp"),
    (190.0, 3, "title", "red red"),
]
EVENTS = [(150.0, 1, 1, "buy", 1.0), (151.0, 2, 3, "buy", 1.0), (178.0, 2, 2, "view", 1.0)]


def columns_at(tmp_path, at_day: float) -> dict[str, np.ndarray]:
    features = Features(dataset_of(tmp_path, EVENTS, TITLES), round(at_day * DAY), threads=1).join(PAIRS)
    return {name: features[name].to_numpy().reshape(5, 5) for name in ("item_title_trend", "pair_title_similarity")}


def test_similarity_follows_the_words_of_the_users_own_items(tmp_path) -> None:
    near = columns_at(tmp_path, 180)["pair_title_similarity"]
    assert near[0, 1] > near[0, 2] == 0.0  # user 1 bought the red mug: the red lamp is near, the blue one is not
    assert 0.99 < near[0, 0] <= 1.0001
    assert np.isnan(near[0, 3:]).all()  # items 4 and 5 have no title
    assert np.isnan(near[2:]).all()  # users without events


def test_trend_is_that_of_the_words(tmp_path) -> None:
    trend = columns_at(tmp_path, 180)["item_title_trend"][0]
    assert trend[1] > 0  # "red" and "lamp" were seen in the last two weeks
    assert np.isnan(trend[3])


def test_a_later_title_changes_nothing_before(tmp_path) -> None:
    before = columns_at(tmp_path, 180)["pair_title_similarity"]
    (tmp_path / "later").mkdir()
    after = columns_at(tmp_path / "later", 195)["pair_title_similarity"]
    assert before[0, 2] == 0.0
    assert after[0, 2] > 0.5  # by then item 3 is red
