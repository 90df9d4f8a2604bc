"""The order in which events are learned is not that in which partitions happen to come together."""

from __future__ import annotations

import datetime as dt
import random

from hypothesis import given
from hypothesis import strategies as st

from recsys.events.event import Event, parse
from recsys.updater.order import in_order

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def event(number: int, user: int, age_s: int) -> Event:
    raw = {"event_id": f"e{number}", "item_id": "1", "timestamp": NOW - dt.timedelta(seconds=age_s)}
    who = {"user_id": str(user)} if user % 2 else {"session_id": f"s{user}"}
    [(_, made)], _ = parse([raw | who], NOW)
    return made


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=40), st.randoms(use_true_random=False))
def test_any_mixture_of_the_users_gives_one_order_in_which_each_has_their_own(
    made: list[tuple[int, int]], chance: random.Random
) -> None:
    events = [event(number, user, age_s) for number, (user, age_s) in enumerate(made)]
    by_user = [[one for one, (user, _) in zip(events, made, strict=True) if user == each] for each in range(6)]
    waiting = [list(mine) for mine in by_user if mine]
    mixed = []
    while waiting:
        mine = chance.choice(waiting)
        mixed.append(mine.pop(0))
        waiting = [mine for mine in waiting if mine]
    ordered = in_order(mixed)
    assert ordered == in_order(events)
    for mine in by_user:
        assert [one for one in ordered if one in mine] == mine
    if all(mine == sorted(mine, key=lambda one: one.occurred_at) for mine in by_user):
        assert [one.occurred_at for one in ordered] == sorted(one.occurred_at for one in events)
