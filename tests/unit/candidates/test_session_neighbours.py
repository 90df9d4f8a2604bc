"""What the night makes of events: sessions in time order, their weights, trends, the walk."""

import numpy as np
import pytest

from recsys.candidates.session_neighbours import SessionNeighbours
from recsys.types import MICROSECONDS_PER_DAY, Catalogue, Interactions

CUT_AT = 10_000 * MICROSECONDS_PER_DAY
KEYS = np.arange(10, 20, dtype=np.int32)
Session = tuple[int, float, list[int]]  # user, age in days, item keys


def history(sessions: list[Session]) -> Interactions:
    """One event a second."""
    rows = sorted(
        (CUT_AT - int(age * MICROSECONDS_PER_DAY) + place * 1_000_000, user, item, number)
        for number, (user, age, items) in enumerate(sessions)
        for place, item in enumerate(items)
    )
    at, user, item, session = (np.array(column) for column in zip(*rows, strict=True))
    n = len(at)
    ones, nan = np.ones(n, np.float32), np.full(n, np.nan)
    return Interactions(
        user.astype(np.int32), item.astype(np.int32), np.zeros(n, np.int8), ones, at, -session, nan, ("view",), CUT_AT
    )


def catalogue() -> Catalogue:
    nowhere = np.full(len(KEYS), -1, dtype=np.int32)
    return Catalogue(KEYS, np.ones(len(KEYS), dtype=bool), nowhere, nowhere, np.zeros(len(KEYS), dtype=np.int64))


def fitted(sessions: list[Session], **params: float) -> SessionNeighbours:
    return SessionNeighbours(**params).fit(history(sessions), catalogue())  # type: ignore[arg-type]


def test_sessions_stand_in_time_order_whatever_their_ids() -> None:
    part = fitted([(1, 9.0, [10, 11]), (2, 30.0, [12, 10]), (3, 1.0, [11, 13])]).index.parts[0]
    assert part.items.values.tolist() == [2, 0, 0, 1, 1, 3]
    assert part.by_item.values.tolist() == [0, 1, 1, 2, 0, 2]


def test_old_and_long_sessions_weigh_less() -> None:
    sessions = [(1, 101.0, [10, 11]), (2, 1.0, [12, 10]), (3, 1.0, [12, 10, 11, 12])]
    weight = fitted(sessions, half_life_days=50.0, length_power=0.5).index.parts[0].weight
    np.testing.assert_allclose(weight * np.sqrt([2, 2, 4]), [0.25, 1, 1], rtol=1e-5)


def test_of_a_long_session_only_the_end_counts() -> None:
    part = fitted([(1, 1.0, [10, 11, 12, 13])], max_session_events=2).index.parts[0]
    assert part.items.values.tolist() == [2, 3]


def test_trend_prefers_what_is_recent_over_what_was() -> None:
    sessions = [(user, 60.0, [10, 12]) for user in range(4)] + [(user, 2.0, [11, 13]) for user in range(4)]
    index = fitted(sessions, popularity_power=-1.0, recent_power=2.0, recent_days=7.0).index
    np.testing.assert_allclose(index.trend, [1 / 5, 25 / 5, 1 / 5, 25 / 5])


def test_the_walk_takes_two_steps() -> None:
    model = fitted([(1, 3.0, [10, 11]), (2, 2.0, [11, 12])])
    to, at = model.index.walk_to, model.index.walk_score
    assert to.values[to.starts[0] : to.starts[1]].tolist() == [2]
    np.testing.assert_allclose(at[: to.starts[1]], [0.5])  # from 11, half of the steps go on to 12, half back
    assert to.starts[1] == to.starts[2]  # from 11 two steps only lead back


def test_the_last_events_of_a_user_count_across_sessions_and_the_newest_most() -> None:
    others = [(9, 8.0, [10, 11, 14]), (8, 8.0, [12, 13, 15])]
    for first, last, expected in ((10, 12, 13), (12, 10, 11)):
        model = fitted([*others, (1, 5.0, [first]), (1, 1.0, [last])], again=())
        assert model.candidates(np.array([1], np.int32), 1).item_key.tolist() == [[expected]]
    assert model.events.starts.tolist() == [0, 2, 5, 8]


def test_what_sessions_share_beats_what_is_popular() -> None:
    crowd = [(user, 2.0, [18, 19]) for user in range(20, 40)]
    model = fitted([*crowd, (1, 3.0, [10, 11]), (2, 3.0, [10, 11]), (3, 1.0, [10])], again=())
    found = model.candidates(np.array([3], np.int32), 5)
    assert found.item_key[0, 0] == 11
    assert found.score[0, 0] == pytest.approx(1.0)
    assert 18 not in found.item_key
