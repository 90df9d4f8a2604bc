"""What an event type is called here: the usual words for one action, and the one that this shop's data declare."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from recsys.action import AGAINST, BOUGHT, SYNONYMS, interest_of
from recsys.errors import InputError
from recsys.serving.config import ServingConfig
from recsys.serving.recent import EventMeaning

TYPE_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"
DEFAULT_TYPE: Final = "view"  # of an event that names none, where the shop has such a type
_TYPE: Final = re.compile(TYPE_PATTERN.replace("$", r"\Z"))


class EventNames:
    """Which name an event type is stored under.

    A type that is declared stays what it is, whatever the case of its letters. Of the others, those of one row of
    `synonyms` mean the same: its declared name, the first one where there are several; in the row BOUGHT, one that is
    declared as bought, and where the row names none, the only type that is. What is found nowhere stays as it was
    posted.

    `seen` is the type that a look stands for where none is named: the shop's view, or its lightest type with a positive
    weight in `weights`. `default`, that of posted events without a type, is never one that is bought: nobody has
    bought what they may only have looked at.
    """

    def __init__(
        self,
        declared: Iterable[str],
        bought: Iterable[str],
        synonyms: Mapping[str, Iterable[str]] = SYNONYMS,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.bought = tuple(bought)
        self.declared = tuple(dict.fromkeys((*declared, *self.bought)))
        self._stored: dict[str, str] = {}
        for row, others in synonyms.items():
            names = [name.casefold() for name in (row, *others)]
            candidates = self.bought if row == BOUGHT else self.declared
            by_fold = {name.casefold(): name for name in reversed(candidates)}
            here = [by_fold[name] for name in names if name in by_fold]
            here += self.bought if row == BOUGHT and len(self.bought) == 1 else []
            if here:
                self._stored |= dict.fromkeys(names, here[0])
        for name in (*AGAINST, *reversed(self.declared)):
            self._stored[name.casefold()] = name
        self._exact = {name: name for name in (*AGAINST, *self.declared)}
        self._meant = {*AGAINST, *self.bought, *(self.declared if weights is None else weights)}
        self.seen = self.default = self.stored(DEFAULT_TYPE)
        if weights is not None and self.seen not in weights:
            positive = sorted((name for name in weights if interest_of(name, weights) > 0), key=weights.__getitem__)
            self.seen = next(iter(positive), self.seen)
            self.default = next((name for name in positive if name not in self.bought), self.default)

    def stored(self, name: str) -> str:
        """The name under which an event of this type is stored."""
        return self._exact.get(name) or self._stored.get(name.casefold(), name)

    def of(self, sample: Mapping[str, Any]) -> str:
        """The type of a posted event, from whatever way it came: `event_type` or `action_type` as it is stored, or what
        counts where there is none. InputError where it can be no type."""
        posted = sample.get("event_type")
        if posted is None:
            posted = sample.get("action_type", self.default)
        if not isinstance(posted, str) or not is_type(posted):
            raise InputError(f"event_type {str(posted)[:40]!r}: use up to 64 letters, digits and _ . : -")
        return self.stored(posted)

    def has_meaning(self, name: str) -> bool:
        """Whether a stored name has a weight in force, is bought, or speaks against the item anyway."""
        return name in self._meant


def is_type(text: str) -> bool:
    """Whether a text can be an event type."""
    return _TYPE.match(text) is not None


AS_POSTED: Final = EventNames((), (), {})


def names_of(meaning: EventMeaning, config: ServingConfig, synonyms: Mapping[str, Sequence[str]]) -> EventNames:
    """The names of event types under what the data declare and the configuration in force."""
    of_rules = () if config.bought is None else tuple(rule.event_type for rule in config.bought)
    weights = (*meaning.weights, *(config.event_weights or ()), *of_rules)
    in_force = tuple((dict.fromkeys(of_rules, 0.0) | dict(meaning.under(config).weights)).items())
    rows = tuple((row, tuple(names)) for row, names in synonyms.items())
    return _names(weights, tuple(meaning.bought), rows, in_force)


@lru_cache(maxsize=8)
def _names(
    declared: tuple[str, ...],
    bought: tuple[str, ...],
    synonyms: tuple[tuple[str, tuple[str, ...]], ...],
    weights: tuple[tuple[str, float], ...],
) -> EventNames:
    return EventNames(declared, bought, dict(synonyms), dict(weights))
