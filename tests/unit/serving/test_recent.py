"""What the latest events are worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.serving.config import BoughtRule, ServingConfig
from recsys.serving.core import StoredList
from recsys.serving.recent import N_SEEDS, EventMeaning, Events, History, Recent, bought, merged, n_counted, seeds

MEANING = EventMeaning({"view": 1.0, "transaction": 5.0}, ("transaction",))
DAY_MS = 86_400_000


@given(
    st.lists(st.builds(Recent, st.integers(1, 40), st.sampled_from(["view", "gift", "dislike"]), st.integers(0, 99))),
    st.integers(0, 25),
)
def test_events_are_counted_as_seeds_take_them(events: list[Recent], n: int) -> None:
    newest_first = merged(events)
    meaning = EventMeaning({"view": 1.0})
    found = seeds(newest_first, meaning, n=n)
    counted = [event for event in newest_first if event.item_key in found and event.event_type == "view"]
    assert n_counted(newest_first, meaning, n) == len(counted)


def test_a_seed_is_worth_its_events_by_type_and_age_from_the_newest() -> None:
    events = [Recent(1, "transaction", 3 * DAY_MS), Recent(2, "view", 2 * DAY_MS), Recent(1, "view", 2 * DAY_MS)]
    assert seeds(events, MEANING) == pytest.approx({1: 5.5, 2: 0.5})
    assert seeds([Recent(7, "unheard of", 5), Recent(8, "dislike", 5)], MEANING) == {}
    assert seeds([], MEANING) == {}


def test_only_the_newest_items_are_seeds() -> None:
    events = [Recent(key, "view", -key) for key in range(100)]
    assert list(seeds(events, MEANING)) == list(range(N_SEEDS))


def test_two_histories_are_one_without_what_both_hold() -> None:
    user, session = [Recent(1, "view", 30), Recent(2, "view", 10)], [Recent(3, "view", 20), Recent(1, "view", 30)]
    assert merged(user, session) == [Recent(1, "view", 30), Recent(3, "view", 20), Recent(2, "view", 10)]


@given(
    st.lists(st.builds(Recent, st.integers(1, 9), st.sampled_from(["view", "transaction"]), st.integers(0, 10**9))),
    st.slices(9),
)
def test_events_in_columns_are_the_same_events(made: list[Recent], part: slice) -> None:
    listed = sorted(made, key=lambda event: -event.occurred_ms)
    columns = [[event[at] for event in listed] for at in range(3)]
    events = Events(*columns)
    assert list(events) == listed
    assert list(events[part]) == listed[part]
    assert [events[at] for at in range(len(events))] == listed
    assert seeds(events, MEANING) == seeds(listed, MEANING)
    assert bought(events, MEANING) == bought(listed, MEANING)
    assert merged(events, events) == merged(listed)


def test_what_was_bought() -> None:
    events = [Recent(1, "view", 1), Recent(2, "transaction", 2)]
    assert bought(events, MEANING) == {2}
    again = EventMeaning(hides_bought=False)
    assert bought(events, again) == set(), "what is bought again and again is shown"
    assert bought(events, again, ServingConfig(bought=(BoughtRule(event_type="view"),))) == {1}, "a rule wins"


def test_configuration_says_what_counts_as_bought_and_for_how_long() -> None:
    events = [Recent(1, "transaction", 9 * DAY_MS), Recent(2, "view", 9 * DAY_MS), Recent(3, "view", 2 * DAY_MS)]
    week = ServingConfig(bought=(BoughtRule(event_type="view", days=5),))
    assert bought(events, MEANING, week, now_ms=10 * DAY_MS) == {2}
    for_ever = ServingConfig(bought=(BoughtRule(event_type="view"),))
    assert bought(events, MEANING, for_ever, now_ms=10**15) == {2, 3}
    assert bought(events, MEANING, ServingConfig(bought=())) == set()


rules = st.none() | st.lists(
    st.builds(BoughtRule, event_type=st.sampled_from(["view", "transaction", "gift"]), days=st.none() | st.just(5.0)),
    max_size=3,
    unique_by=lambda rule: rule.event_type,
).map(tuple)


@given(
    events=st.sets(st.tuples(st.integers(1, 9), st.sampled_from(["view", "transaction", "gift"]), st.integers(0, 9))),
    posted=st.sets(st.integers(1, 9)),
    rules=rules,
)
def test_what_the_data_set_knew_is_judged_as_what_was_posted(
    events: set[tuple[int, str, int]], posted: set[int], rules: tuple[BoughtRule, ...] | None
) -> None:
    config, now_ms = ServingConfig(bought=rules), 10.25 * DAY_MS
    all_posted = [Recent(item, type_, day * DAY_MS) for item, type_, day in events]
    names = ("gift", "view", "transaction")
    before = [event for event in sorted(events, key=lambda event: -event[2]) if event[0] not in posted]
    columns = (
        [item for item, _, _ in before],
        [float(day) for *_, day in before],
        [names.index(type_) for _, type_, _ in before],
    )
    history = History(StoredList.of(*columns), names)
    known = [event for event in all_posted if event.item_key in posted]
    assert bought(known, MEANING, config, now_ms, history) == bought(all_posted, MEANING, config, now_ms)


def test_a_history_of_types_that_nobody_knows_hides_nothing() -> None:
    history = History(StoredList.of([1, 2, 3], [9.0, 8.0, 7.0], [0, 1, 5]), ("stray", "transaction"))
    assert bought([], MEANING, history=history) == {2}


def test_configuration_weighs_events_and_forgets_them_faster() -> None:
    events = [Recent(1, "view", 2 * DAY_MS), Recent(2, "view", DAY_MS)]
    heavy = MEANING.under(ServingConfig(event_weights={"view": 4.0}))
    assert seeds(events, heavy, half_life_hours=12) == {1: 4.0, 2: 1.0}
