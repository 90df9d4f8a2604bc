"""Names of event types: maps common synonyms to the names that the shop's data declare."""

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
DEFAULT_TYPE: Final = "view"  # of an event without a type, where the shop has this one
_TYPE: Final = re.compile(TYPE_PATTERN.replace("$", r"\Z"))


class EventNames:
    """Maps posted event types to the names under which they are stored.

    Declared types match regardless of case. Other types are stored under the first declared name of their row of
    `synonyms`; in the row BOUGHT, under one that is declared as bought, or, where the row has none of those, under the
    only such type. Unknown types stay as posted.

    `seen` is the type of a view: the shop's `view`, or its type with the smallest positive weight in `weights`.
    `default`, that of posted events without a type, is never a bought type: the user may only have viewed the item.
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
        self.type_of = lru_cache(maxsize=1000)(self._type_of)  # per event a fifth of the time
        self.seen = self.default = self.stored(DEFAULT_TYPE)
        if weights is not None and self.seen not in weights:
            positive = sorted((name for name in weights if interest_of(name, weights) > 0), key=weights.__getitem__)
            self.seen = next(iter(positive), self.seen)
            self.default = next((name for name in positive if name not in self.bought), self.default)
        # posted types that are stored as they are and have a meaning; "": none
        self.usual = self._exact.keys() & self._meant | ({""} if self.default == DEFAULT_TYPE in self._meant else set())

    def stored(self, name: str) -> str:
        """The name under which an event of this type is stored."""
        return self._exact.get(name) or self._stored.get(name.casefold(), name)

    def of(self, sample: Mapping[str, Any]) -> str:
        """The stored type of an event posted over HTTP or Kafka: that of `event_type` or `action_type`, else the
        default. InputError where it is not a valid type."""
        posted = sample.get("event_type")
        if posted is None:
            posted = sample.get("action_type", self.default)
        return self._type_of(posted)

    def _type_of(self, posted: Any) -> str:
        """The stored type of a posted one; InputError where it is not valid."""
        if not isinstance(posted, str) or not is_type(posted):
            raise InputError(
                f"event_type or action_type {str(posted)[:40]!r}: use up to 64 letters, digits and _ . : -"
            )
        return self.stored(posted)

    def has_meaning(self, name: str) -> bool:
        """Whether a stored name has a weight in force, is a bought type, or is negative by its name."""
        return name in self._meant


def is_type(text: str) -> bool:
    """Whether a text is a valid event type."""
    return _TYPE.match(text) is not None


AS_POSTED: Final = EventNames((), (), {})


def names_of(meaning: EventMeaning, config: ServingConfig, synonyms: Mapping[str, Sequence[str]]) -> EventNames:
    """The names of event types by the declarations of the data and the configuration in force."""
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
