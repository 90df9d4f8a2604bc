"""What of posted events cannot be used is named, with how often, in a bounded number of words."""

from __future__ import annotations

import datetime as dt
from typing import Any

from fast_api_service.events import warnings as event_warnings
from recsys.events.event import parse
from recsys.events.names import names_of
from recsys.serving.config import BoughtRule, ServingConfig
from recsys.serving.recent import EventMeaning

NOW = dt.datetime(2026, 3, 1, 12, 5, tzinfo=dt.UTC)
NAMES = names_of(EventMeaning(), ServingConfig(), {"bought": ("purchase",)})


def warnings(*samples: dict[str, Any], owners: tuple[str, ...] = (), n_apart: int = 0) -> list[str]:
    whole = [{"user_id": "1", "item_id": "1001"} | sample for sample in samples]
    events, rejected = parse(whole, NOW, NAMES, "key")
    assert not rejected
    unknown = {event.item_id for _, event in events} - {"1001"}
    return event_warnings.warnings_of([one for _, one in events], whole, n_apart, NAMES, unknown, owners)


def test_plain_events_give_no_warning() -> None:
    used = {"quantity": 2, "price": 9.5, "device": "mobile", "campaign": "spring", "order_id": ["A1"], "nothing": None}
    assert not warnings({}, {"event_type": "purchase", "parameters": used}, {"event_type": "dislike"})


def test_types_without_weight_are_named() -> None:
    [text] = warnings({"event_type": "gift"}, {"event_type": "gift"}, {"event_type": "loan"}, {})
    assert text.startswith("event_type: 3 of 4 have no weight here")
    assert "'gift' (2), 'loan' (1)" in text
    assert "view, addtocart, transaction" in text


def test_items_that_are_not_known_are_named() -> None:
    [text] = warnings({"item_id": "4242"}, {"item_id": "4242"}, {})
    assert text.startswith("item_id: 2 of 3")
    assert "'4242' (2)" in text


def test_parameters_that_say_nothing_are_named() -> None:
    found = warnings(
        {"parameters": {"price": "9,50", "tags": ["a"], "quantity": True}},
        {"parameters": {"price": "9,50"}, "features": {"where": {}}},
    )
    assert found[0].startswith("parameters: 'price' (2), 'quantity' (1): should be a number")
    assert found[1].startswith("parameters: 'tags' (1): should be text")
    assert found[2].startswith("features: 'where' (1): should be text")


def test_a_parameter_for_which_the_model_has_no_field_is_named() -> None:
    [text] = warnings({"parameters": {"page": "x", "a": 1}}, owners=("a", "b", "c", "d"))
    assert text.startswith("parameters: 'page' (1): no field is left")


def test_a_warning_is_bounded_whatever_is_posted() -> None:
    many = [{"event_type": f"t{n}", "item_id": f"{'9' * 10}{n}", "parameters": {f"p{n}" * 50: []}} for n in range(1000)]
    found = warnings(*many)
    assert len(found) == 3
    assert all(len(text) < 500 and "and 995 more" in text for text in found)


def test_purchases_that_count_each_time_are_told() -> None:
    [text] = warnings({}, n_apart=1)
    assert text.startswith("event_id: 1 of 1 purchases")


def test_types_of_the_configuration_in_force_are_known() -> None:
    config = ServingConfig(event_weights={"gift": 2.0}, bought=(BoughtRule(event_type="loan", days=None),))
    names = names_of(EventMeaning(), config, {})
    assert names.has_meaning("gift")
    assert names.has_meaning("loan")
    assert names.stored("GIFT") == "gift"
