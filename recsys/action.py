"""What an action says: how much it counts, and whether it speaks for the item or against it. By night and by day.
Also the usual words for one action.

What is known only after the action (stars, completion, duration, quantity) makes label and weight, never an input of
the network: when a pair is scored, it has not happened. What is known before (hour, day, device …) is input, see
`recsys.features.context`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

WEAK: Final = 0.3  # what a sign of disinterest counts, of the weight of its event
HEAVIEST: Final = 20.0  # times the weight of the event's type
BOUNCE_S: Final = 3.0  # a shorter look is none
ABANDONED: Final = 0.1  # less of it was read, heard or seen than this
_USUAL_S: Final = 30.0  # a look of this length counts once

# Types of events that speak against an item whatever their weight in the configuration, and what of it they count.
AGAINST: Final[Mapping[str, float]] = {
    "dislike": 1.0,
    "return": 1.0,
    "removefromcart": WEAK,
    "abandon": WEAK,
    "bounce": WEAK,
    "skip": WEAK,
    "hide": 1.0,
}

BOUGHT: Final = "bought"  # of the synonyms, the row that stands for what the data declare as bought
SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = {
    BOUGHT: ("transaction", "purchase", "order", "buy", "checkout", "sale"),
    "addtocart": ("cart", "add_to_cart", "add-to-cart", "add_cart", "basket", "add_to_basket"),
    "view": ("click", "pageview", "page_view", "page-view", "view_item", "product_view", "detail"),
}


class Action(NamedTuple):
    """`label` 1: for the item, 0: against it, or between; `weight` ≥ 0, that of a plain view being that of its type."""

    label: float
    weight: float


def _stars(value: float, of: Action) -> Action:
    """1 to 5."""
    return of._replace(label=min(max((value - 1) / 4, 0.0), 1.0))


def _completion(value: float, of: Action) -> Action:
    """A share, or per cent where it is above 1."""
    share = min(max(value / 100 if value > 1 else value, 0.0), 1.0)
    return Action(0.0, of.weight * WEAK) if share < ABANDONED else of._replace(weight=of.weight * (0.5 + share))


def _duration_s(value: float, of: Action) -> Action:
    if value < BOUNCE_S:
        return Action(0.0, of.weight * WEAK)
    return of._replace(weight=of.weight * min(max(math.log1p(value) / math.log1p(_USUAL_S), 0.5), 2.0))


def _quantity(value: float, of: Action) -> Action:
    return of._replace(weight=of.weight * (1 + math.log2(max(value, 1.0)))) if value > 0 else of


def _price(value: float, of: Action) -> Action:
    """What was paid in all counts a little: ten times the price, a tenth more."""
    return of._replace(weight=of.weight * (1 + 0.1 * math.log10(1 + max(value, 0.0))))


# Name of a parameter → what it does to the action, in this order: what makes it a weak negative comes last.
BY_PARAMETER: Final[Mapping[str, Callable[[float, Action], Action]]] = {
    "quantity": _quantity,
    "price": _price,
    "stars": _stars,
    "rating": _stars,
    "completion": _completion,
    "duration": _duration_s,
    "duration_s": _duration_s,
}


def interest_of(event_type: str, weight_by_type: Mapping[str, float]) -> float:
    """What a plain event of a type counts as a sign of interest in its item, ≥ 0: nothing where it speaks against it,
    nor where the type has no weight."""
    return 0.0 if event_type in AGAINST else max(weight_by_type.get(event_type, 0.0), 0.0)


def action_of(
    event_type: str, label: float | None, parameters: Mapping[str, Any], weight_by_type: Mapping[str, float]
) -> Action:
    """Label and weight of an event. An explicit `label` (cut to [0, 1]) wins over what type and parameters say of it.

    A type with a negative weight speaks against the item, one with weight 0 says nothing, nor does a type that is
    not named, except those of `AGAINST`: they have weight 1. Parameters that are no finite numbers say nothing.
    """
    weight = weight_by_type.get(event_type, 1.0 if event_type in AGAINST else 0.0)
    share = AGAINST.get(event_type, 1.0)
    against = weight < 0 or event_type in AGAINST
    action = Action(0.0 if against else 1.0, abs(weight) * share)
    if not against:
        for name, rule in BY_PARAMETER.items():
            value = parameters.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                action = rule(float(value), action)
    if label is not None and math.isfinite(label):
        action = Action(min(max(float(label), 0.0), 1.0), abs(weight) if action.label == 0.0 else action.weight)
    return action._replace(weight=min(action.weight, HEAVIEST * max(abs(weight), 1.0)))
