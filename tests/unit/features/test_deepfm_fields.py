"""The fields that DeepFM reads: right by hand on small cases, and nothing from the event's own time or later."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.candidates.deepfm_samples import EXCLUDED, Samples, Vocabularies, systematic
from recsys.features.deepfm_fields import N_AGE, Histories, ItemTrends, Vocabulary, activity_rows, time_rows
from recsys.types import MICROSECONDS_PER_DAY as DAY
from recsys.types import Catalogue, Interactions

CUT = 20_000 * DAY


def events(user: Any, item: Any, age_days: Any, cut_at: int = CUT) -> Interactions:
    at = (CUT - np.asarray(age_days, dtype=float) * DAY).astype(np.int64)
    order = np.argsort(at, kind="stable")
    n = len(order)
    return Interactions(
        np.asarray(user, dtype=np.int32)[order],
        np.asarray(item, dtype=np.int32)[order],
        np.zeros(n, dtype=np.int8),
        np.ones(n, dtype=np.float32),
        at[order],
        np.arange(n),
        np.full(n, np.nan),
        ("view",),
        cut_at,
    )


def catalogue(n: int) -> Catalogue:
    none = np.full(n, -1, dtype=np.int32)
    return Catalogue(np.arange(n, dtype=np.int32), np.ones(n, dtype=bool), none, none, np.full(n, CUT - 400 * DAY))


def samples(history: Interactions, n_items: int, **params: Any) -> Samples:
    known = catalogue(n_items)
    defaults = {"history_length": 4, "history_half_life_days": 10.0, "n_negatives": 3, "uniform_share": 0.5}
    return Samples(history, known, Vocabularies.of(history, known, 1, 1), **{**defaults, "mask_share": 0.0, **params})


def test_a_vocabulary_gives_row_0_to_what_it_does_not_know() -> None:
    vocabulary = Vocabulary.of_frequent(np.array([5, 9, 9, 7, 7, -1, -1]), at_least=2)
    assert vocabulary.size == 3
    np.testing.assert_array_equal(vocabulary.rows(np.array([[7, 9], [5, -1], [8, 100]])), [[1, 2], [0, 0], [0, 0]])
    np.testing.assert_array_equal(Vocabulary(np.zeros(0, dtype=np.int32)).rows(np.array([3])), [0])


def test_history_is_what_the_same_user_did_strictly_earlier() -> None:
    # user 1: items 1, 2 in one instant, then 3; user 2: item 4 in between
    history = events([1, 1, 2, 1], [1, 2, 4, 3], [30, 30, 20, 10])
    made = Histories(history, history.item_key, length=4, half_life_days=10.0)
    rows, weight, activity = made.of_events(np.arange(4), history.occurred_at)
    np.testing.assert_array_equal(rows, [[0] * 3, [0] * 3, [0] * 3, [2, 1, 0]])  # nobody has four events
    np.testing.assert_array_equal(activity, activity_rows(np.array([0, 0, 0, 2])))
    np.testing.assert_allclose(weight[3], [0.25 / np.sqrt(0.5)] * 2 + [0], rtol=1e-5)  # two half-lives old
    rows, weight, _ = made.at_cut(np.array([0]))
    np.testing.assert_array_equal(rows, [[3, 2, 1]])
    np.testing.assert_allclose(weight[0, :2] / weight[0, 0], [1, 0.25], rtol=1e-5)


def test_what_a_user_spoke_against_is_among_their_negatives_alone() -> None:
    history = events([1] * 200 + [2] * 200, [1] * 400, [30.0] * 400)
    drawn = samples(history, 40, uniform_share=1.0, against=events([1, 1], [7, 7], [10, 11]))
    inputs, log_q = drawn.draw(np.ones(400), 400, np.random.default_rng(0))
    row_of_7 = drawn.static_rows[7, 0]
    assert row_of_7 == 0, "nobody has an event on it: its row is that of unknown items"
    negative = np.zeros((200, 3), dtype=np.int64)
    drawn._put_against(negative, np.arange(200), np.random.default_rng(0))
    assert 0.3 < (negative[:, -1] == 7).mean() < 0.7
    assert not negative[:, :-1].any()
    others = np.zeros((200, 3), dtype=np.int64)
    drawn._put_against(others, np.arange(200, 400), np.random.default_rng(0))
    assert not others.any()
    assert inputs["item"].shape[:2] == log_q.shape == (400, 4)


def test_trends_count_the_days_before() -> None:
    history = events([0] * 8, [0] * 7 + [1], [10, 10, 10, 10, 5.5, 5.5, 5.5, 3.5])
    known = catalogue(3)
    trends = ItemTrends(history, known, history.item_key.astype(np.int64))
    at = history.occurred_at[[0, 4, 7]]
    short = trends.of_candidates(np.tile([0, 1, 2], (3, 1)), at)[..., 0]
    np.testing.assert_array_equal(short[0], [0, 0, 0])  # nothing happened before the first day
    assert short[1, 0] > 0 == short[1, 1]  # four events of the first day, none of its own day
    assert short[2, 0] > 0 == short[2, 1]
    cut = trends.at_cut()
    assert cut[0, 0] > cut[1, 0] > 0 == cut[2, 0]
    assert (cut[:, 2] == N_AGE - 1).all()


def test_context_is_day_of_the_week_and_part_of_the_day() -> None:
    monday_noon = 4 * DAY + DAY // 2  # 5 January 1970
    np.testing.assert_array_equal(time_rows(np.array([monday_noon, 0])), [[1, 5], [4, 1]])


@settings(max_examples=50)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=30).filter(sum), st.integers(1, 200), st.integers(0, 9))
def test_systematic_draws_are_within_one_of_their_share(weight: list[float], n: int, seed: int) -> None:
    drawn = np.bincount(systematic(np.array(weight), n, np.random.default_rng(seed)), minlength=len(weight))
    share = n * np.array(weight) / sum(weight)
    assert drawn.sum() == n
    assert (np.abs(drawn - share) < 1 + 1e-6).all()


def test_a_drawn_row_is_an_event_and_its_negatives() -> None:
    random = np.random.default_rng(0)
    history = events(random.integers(0, 9, 200), random.integers(0, 20, 200), random.random(200) * 50 + 0.1)
    given_inputs, log_q = samples(history, 20).draw(np.ones(200), 150, np.random.default_rng(1))
    assert given_inputs["item"].shape == (150, 4, 6)
    assert given_inputs["history"].shape == given_inputs["history_weight"].shape == (150, 4)
    pairs = set(zip((history.user_key + 1).tolist(), (history.item_key + 1).tolist(), strict=True))
    drawn = set(zip(given_inputs["user"][:, 0].tolist(), given_inputs["item"][:, 0, 0].tolist(), strict=True))
    assert drawn <= pairs
    same = given_inputs["item"][:, 1:, 0] == given_inputs["item"][:, :1, 0]
    np.testing.assert_array_equal(log_q[:, 1:] == EXCLUDED, same)
    assert same.any()


def test_what_comes_later_changes_no_row() -> None:
    """The rows of early events are the same whether or not later events are there."""
    random = np.random.default_rng(3)
    history = events(random.integers(0, 9, 300), random.integers(0, 20, 300), random.random(300) * 50 + 0.1)
    later = history.occurred_at >= CUT - 20 * DAY
    changed = Interactions(**{**history.__dict__, "item_key": np.where(later, 19, history.item_key).astype(np.int32)})
    early = np.flatnonzero(~later)
    for made in ("histories", "trends"):
        one, other = (getattr(samples(each, 20), made) for each in (history, changed))
        at = history.occurred_at[early]
        if made == "histories":
            pairs = zip(one.of_events(early, at), other.of_events(early, at), strict=True)
        else:
            items = np.tile(np.arange(20), (len(early), 1))
            pairs = zip([one.of_candidates(items, at)], [other.of_candidates(items, at)], strict=True)
        for before, after in pairs:
            np.testing.assert_array_equal(before, after)
