"""What is particular to each generator; what they share is in tests/contracts/test_candidate_generators.py."""

import numpy as np
import pytest

from recsys.candidates.covisitation import Covisitation, last_events
from recsys.candidates.ease import Ease
from recsys.candidates.popular import Popular
from recsys.candidates.recent import Recent
from recsys.errors import InputError
from recsys.types import MICROSECONDS_PER_DAY, Catalogue, Interactions

CUT_AT = 10_000 * MICROSECONDS_PER_DAY


def history(events: list[tuple[int, int, float]], weight: list[float] | None = None) -> Interactions:
    """Events (user, item, age in days), each its own session."""
    n = len(events)
    ages = np.array([age for _, _, age in events])
    order = np.argsort(-ages, kind="stable")
    user, item = (np.array([event[i] for event in events], dtype=np.int32)[order] for i in (0, 1))
    weights = np.ones(n, dtype=np.float32) if weight is None else np.array(weight, dtype=np.float32)[order]
    at = CUT_AT - (ages[order] * MICROSECONDS_PER_DAY).astype(np.int64)
    return Interactions(
        user, item, np.zeros(n, dtype=np.int8), weights, at, np.arange(n), np.full(n, np.nan), ("view",), CUT_AT
    )


def catalogue(n_items: int, category: list[int] | None = None) -> Catalogue:
    unknown = np.full(n_items, -1, dtype=np.int32)
    return Catalogue(
        np.arange(n_items, dtype=np.int32),
        np.ones(n_items, dtype=bool),
        unknown if category is None else np.array(category, dtype=np.int32),
        unknown,
        np.zeros(n_items, dtype=np.int64),
    )


def test_popular_prefers_the_last_days_and_orders_the_rest_by_all_time() -> None:
    events = [(u, 0, 300.0) for u in range(9)] + [(u, 1, 300.0) for u in range(5)] + [(u, 2, 1.0) for u in range(3)]
    model = Popular().fit(history(events), catalogue(4))
    keys, scores = model.top(10)
    assert keys.tolist() == [2, 0, 1]  # item 3 has no event and is never proposed
    assert (np.diff(scores) < 0).all()
    assert model.top(1)[0].tolist() == [2]


def test_popular_weighs_events() -> None:
    events = [(0, 0, 1.0), (1, 0, 1.0), (2, 1, 1.0)]
    assert Popular().fit(history(events, [1, 1, 5]), catalogue(2)).top(1)[0].tolist() == [1]


def test_popular_by_category() -> None:
    events = [(u, item, 1.0) for item, n in [(0, 3), (1, 5), (2, 4), (3, 9)] for u in range(n)]
    found = Popular().fit(history(events), catalogue(5, [7, 4, 7, -1, 5])).top_by_category(3)
    assert found.owner_key.tolist() == [4, 7]  # no category: not listed; a category without events: neither
    assert found.item_key.tolist() == [[1, -1, -1], [2, 0, -1]]


def test_recent_orders_own_items_by_decayed_count() -> None:
    events = [(1, 5, 3.0), (1, 5, 2.0), (1, 2, 1.0), (1, 4, 900.0), (2, 3, 1.0)]
    found = Recent().fit(history(events), catalogue(6)).candidates(np.array([1], dtype=np.int32), 4)
    assert found.item_key.tolist() == [[5, 2, 4, -1]]


def test_covisitation_knows_before_from_after() -> None:
    events = [event for u in range(5) for event in [(u, 0, 2.0), (u, 1, 1.9)]]
    model = Covisitation(backward=0.25).fit(history(events), catalogue(2))
    forth, back = (model.similar(np.array([item], dtype=np.int32), 1) for item in (0, 1))
    assert forth.item_key.tolist() == [[1]]
    assert back.item_key.tolist() == [[0]]
    assert back.score[0, 0] == pytest.approx(0.25 * forth.score[0, 0])


def test_covisitation_reaches_no_farther_than_hours_unless_in_one_session() -> None:
    far_apart = history([(1, 0, 20.0), (1, 1, 10.0), (1, 2, 9.9)])
    item = np.array([0], dtype=np.int32)
    assert Covisitation().fit(far_apart, catalogue(3)).similar(item, 2).n_found.tolist() == [0]
    in_one_session = Interactions(**{**far_apart.__dict__, "session_id": np.zeros(3, dtype=np.int64)})
    assert Covisitation().fit(in_one_session, catalogue(3)).similar(item, 2).item_key.tolist() == [[1, 2]]


def test_covisitation_prefers_the_nearer_and_the_newer() -> None:
    nearer = history([(u, item, 1.0 - item / 100) for u in range(3) for item in range(4)])
    assert Covisitation().fit(nearer, catalogue(4)).similar(np.array([0], dtype=np.int32), 3).item_key.tolist() == [
        [1, 2, 3]
    ]
    newer = history([(0, 0, 300.0), (0, 1, 299.9), (1, 0, 2.0), (1, 2, 1.9)])
    assert Covisitation().fit(newer, catalogue(3)).similar(np.array([0], dtype=np.int32), 2).item_key.tolist() == [
        [2, 1]
    ]


def test_last_events_are_bounded_by_user() -> None:
    kept = last_events(history([(2, 0, 5.0), (1, 1, 4.0), (2, 2, 3.0), (2, 3, 2.0), (1, 4, 1.0)]), 2)
    assert kept.user_key.tolist() == [1, 1, 2, 2]
    assert kept.item_key.tolist() == [1, 4, 2, 3]


def test_ease_solves_its_normal_equations() -> None:
    """B minimises |X - XB|² + l2|B|² with zero diagonal: off the diagonal the gradient vanishes."""
    random = np.random.default_rng(3)
    x = random.random((30, 6)) < 0.4
    x[:, 0] |= ~x.any(axis=1)
    users, items = np.nonzero(x)
    events = history([(u, i, 1.0) for u, i in zip(users.tolist(), items.tolist(), strict=True)])
    b = Ease(l2=2.0, trend=0.0).fit(events, catalogue(6)).weights.astype(np.float64)
    gram = x.T.astype(float) @ x
    gradient = gram @ b - gram + 2.0 * b
    np.testing.assert_allclose(gradient[~np.eye(6, dtype=bool)], 0.0, atol=1e-4)
    np.testing.assert_array_equal(np.diag(b), 0.0)


def test_ease_leaves_large_catalogues_alone() -> None:
    with pytest.raises(InputError, match="leave ease out"):
        Ease(max_items=2).fit(history([(0, i, 1.0) for i in range(3)]), catalogue(3))
