"""The usual words for an action are stored under the one that the data declare."""

from __future__ import annotations

import datetime as dt

import pytest

from recsys.events.event import parse
from recsys.events.names import EventNames

NOW = dt.datetime(2026, 3, 1, 12, 5, tzinfo=dt.UTC)
SHOP = EventNames(["view", "addtocart", "transaction"], ["transaction"])
BUY = {"user_id": "1", "item_id": "2", "event_type": "purchase"}


@pytest.mark.parametrize(
    ("declared", "bought", "posted", "stored"),
    [
        (["view", "addtocart", "transaction"], ["transaction"], "purchase", "transaction"),
        (["view", "addtocart", "transaction"], ["transaction"], "BUY", "transaction"),
        (["view", "addtocart", "transaction"], ["transaction"], "bought", "transaction"),
        (["view", "addtocart", "transaction"], ["transaction"], "Transaction", "transaction"),
        (["view", "addtocart", "transaction"], ["transaction"], "PageView", "view"),
        (["view", "addtocart", "transaction"], ["transaction"], "add-to-cart", "addtocart"),
        (["view", "addtocart", "transaction"], ["transaction"], "gift", "gift"),  # nobody's word for anything
        (["Click", "Buy"], ["Buy"], "transaction", "Buy"),  # of one row, the one that is declared
        (["Click", "Buy"], ["Buy"], "view", "Click"),
        (["Click", "Buy"], ["Buy"], "addtocart", "addtocart"),  # no word of the row is declared
        (["seen", "kauf"], ["kauf"], "order", "kauf"),  # declared as bought, whatever it is called
        (["view", "order", "transaction"], ["transaction"], "order", "order"),  # declared by itself
        (["view", "order", "transaction"], ["transaction"], "purchase", "transaction"),  # not the order, which is not
        (["liked", "rated"], ["liked", "rated"], "purchase", "purchase"),  # which of the two nobody knows
        (["view"], [], "purchase", "purchase"),
        (["view"], ["view"], "Dislike", "dislike"),
    ],
)
def test_a_posted_type_is_stored_under_the_declared_word(
    declared: list[str], bought: list[str], posted: str, stored: str
) -> None:
    assert EventNames(declared, bought).stored(posted) == stored


def test_the_words_are_a_setting() -> None:
    names = EventNames(["view", "kauf"], ["kauf"], {"bought": ["erworben"], "view": ["blick"]})
    assert [names.stored(name) for name in ("erworben", "Blick", "purchase")] == ["kauf", "view", "purchase"]


def test_a_retry_stays_one_whatever_the_words_are_by_then() -> None:
    for named in ({"event_id": "e"}, {"timestamp": NOW}):
        before, after = (parse([BUY | named], NOW, names)[0][0][1] for names in (EventNames(["view"], []), SHOP))
        assert (before.event_type, after.event_type) == ("purchase", "transaction")
        assert (before.event_id, before.digest) == (after.event_id, after.digest)
    first, again = (parse([BUY], NOW, names, "key")[0][0][1] for names in (EventNames(["view"], []), SHOP))
    assert (first.event_id, first.digest) == (again.event_id, again.digest)


def test_purchases_that_nothing_tells_apart_are_each_counted_unless_the_request_has_a_key() -> None:
    def ids(idempotency_key: str = "", **more: object) -> set[str]:
        moments = (NOW, NOW + dt.timedelta(minutes=1))
        return {parse([BUY | more], now, SHOP, idempotency_key)[0][0][1].event_id for now in moments}

    assert len(ids()) == 2
    assert len(ids("key")) == len(ids(timestamp=NOW)) == len(ids(event_id="e")) == 1
    assert ids("key") != ids("another")
    assert len(ids(event_type="view")) == 1  # a view is one within ten minutes
    in_a_year = parse([BUY], NOW + dt.timedelta(days=300), SHOP, "key")[0][0][1].event_id
    assert ids("key") == {in_a_year}
    assert len({event.event_id for _, event in parse([BUY, BUY], NOW, SHOP, "key")[0]}) == 2


@pytest.mark.parametrize(
    ("weights", "bought", "seen", "default"),
    [
        ({"view": 1.0, "order": 5.0}, ["order"], "view", "view"),
        ({"Click": 3.0, "hover": 1.0}, [], "Click", "Click"),  # its word for a view, though not the lightest
        ({"view": 0.0, "listen": 1.0}, [], "view", "view"),  # declared to say nothing
        ({"listen": 2.0, "skip": 0.1, "bad": -1.0, "none": 0.0, "start": 1.0}, [], "start", "start"),
        ({"transaction": 1.0}, ["transaction"], "transaction", "view"),  # nobody has bought what they may have seen
        ({"rated": 1.0, "save": 2.0}, ["rated"], "rated", "save"),
        ({"hide": 1.0}, [], "view", "view"),
    ],
)
def test_what_names_no_type_is_a_view_or_the_lightest_type_of_the_shop(
    weights: dict[str, float], bought: list[str], seen: str, default: str
) -> None:
    names = EventNames(weights, bought, weights=weights)
    assert (names.seen, names.default) == (seen, default)
    ((_, event),), _ = parse([{"user_id": "1", "item_id": "2"}], NOW, names)
    assert event.event_type == default
