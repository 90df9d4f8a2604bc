"""What actions count: pure code."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.action import ABANDONED, AGAINST, BY_PARAMETER, HEAVIEST, WEAK, Action, action_of, interest_of

WEIGHTS = {"view": 1.0, "transaction": 5.0, "report": -2.0, "ping": 0.0}


def action(event_type: str = "view", label: float | None = None, **parameters: object) -> Action:
    return action_of(event_type, label, parameters, WEIGHTS)


def test_a_plain_event_counts_what_its_type_does() -> None:
    assert action() == Action(1.0, 1.0)
    assert action("transaction") == Action(1.0, 5.0)
    assert action("of a type that nobody named").weight == 0
    assert action_of("dislike", None, {}, {}) == Action(0.0, 1.0), "what speaks against an item needs no weight"
    assert action("report") == Action(0.0, 2.0)
    assert action("ping").weight == 0


@pytest.mark.parametrize(("stars", "label"), [(1, 0.0), (2, 0.25), (4, 0.75), (5, 1.0), (9, 1.0), (-3, 0.0)])
def test_stars_are_the_label(stars: int, label: float) -> None:
    assert action(stars=stars).label == label


def test_bounced_and_abandoned_views_are_weak_negatives() -> None:
    for weak in (action(duration=1.5), action(completion=0.02), action(duration_s=0), action("skip")):
        assert weak == Action(0.0, WEAK)
    assert action(completion=ABANDONED).label == 1
    assert action(completion=80) == action(completion=0.8)
    assert action(stars=5, duration=1).label == 0, "what was left at once was not rated"


def test_more_of_it_counts_more() -> None:
    assert action(duration=600).weight > action(duration=60).weight > action(duration=10).weight > 0
    assert action("transaction", quantity=8).weight == 20
    assert action(price=100.0).weight > action(price=10.0).weight > 1
    assert action(completion=0.9).weight > action(completion=0.3).weight


def test_the_label_that_the_client_gives_wins() -> None:
    assert action(label=0.0, stars=5) == Action(0.0, 1.0)
    assert action(label=1.0, duration=0) == Action(1.0, 1.0)
    assert action("dislike", label=1.0) == Action(1.0, 1.0)
    assert action(label=7.0).label == 1
    assert action(label=math.nan).label == 1, "no number, no label"


def test_only_what_speaks_for_an_item_is_interest() -> None:
    assert [interest_of(name, WEIGHTS) for name in ("view", "transaction", "ping", "report", "unnamed")] == [
        1,
        5,
        0,
        0,
        0,
    ]
    assert not any(interest_of(name, {name: 2.0}) for name in AGAINST)


values = st.one_of(st.none(), st.booleans(), st.text(max_size=5), st.floats(), st.integers(), st.lists(st.integers()))


@given(
    st.sampled_from([*WEIGHTS, "dislike", "other"]),
    st.none() | st.floats(),
    st.dictionaries(st.sampled_from([*BY_PARAMETER, "device", "note"]), values),
)
def test_any_parameters_give_a_bounded_action(
    event_type: str, label: float | None, parameters: dict[str, object]
) -> None:
    action = action_of(event_type, label, parameters, WEIGHTS)
    assert 0 <= action.label <= 1
    assert 0 <= action.weight <= HEAVIEST * 5
    if label is not None and math.isfinite(label):
        assert action.label == min(max(label, 0.0), 1.0)
