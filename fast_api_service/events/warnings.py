"""Warnings about parts of posted events that cannot be used; the events are stored anyway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from functools import lru_cache
from types import NoneType
from typing import Any, Final

from recsys.action import BY_PARAMETER
from recsys.events.event import Event
from recsys.events.names import DEFAULT_TYPE, EventNames
from recsys.features.context import OUTCOMES, context_of

_MAX_NAMED: Final = 5
_MAX_SHOWN: Final = 40  # characters of a name
_PLAIN: Final = (str, int, float, bool, NoneType)
_NO_NUMBER = "should be a number, so it gives the event neither weight nor label"
_NOT_PLAIN = "should be text, a number, true or false, to be an input of the model"


def stored_as(posted: Iterable[str], names: EventNames) -> dict[str, str]:
    """Posted event type → the name under which it is stored, if that differs; "" is the type of events without one,
    unless view."""
    found = {name: names.stored(name) for name in sorted(posted) if name and names.stored(name) != name}
    return {"": names.default} | found if "" in posted and names.default != DEFAULT_TYPE else found


def warnings_of(
    events: Sequence[Event],
    samples: Sequence[Mapping[str, Any]],
    n_apart: int,
    names: EventNames,
    unknown_items: Set[str],
    owners: tuple[str, ...],
) -> list[str]:
    """One line per kind of problem, with counts and some of the names.

    `samples`: those with parameters or features; `n_apart`: purchases that cannot be told from retries; `owners`:
    parameters that own a field of the model (`recsys.features.context`).
    """
    warnings = []
    types = Counter([event.event_type for event in events])
    if unweighted := {name: n for name, n in types.items() if not names.has_meaning(name)}:
        known = ", ".join(names.declared[:20])
        text = f"have no weight here, so they count nothing: {_named(unweighted)}; this shop's are {known}"
        warnings.append(f"event_type: {sum(unweighted.values())} of {len(events)} {text}")
    if unknown := Counter([event.item_id for event in events if event.item_id in unknown_items]):
        text = "are of items that the catalogue does not have; they count once it has them"
        warnings.append(f"item_id: {sum(unknown.values())} of {len(events)} {text}: {_named(unknown)}")
    for place in ("parameters", "features"):
        for why, unused in _unused([given for sample in samples if (given := sample.get(place))], owners).items():
            warnings.append(f"{place}: {_named(unused)}: {why}")
    if n_apart:
        text = (
            "purchases have neither event_id nor timestamp, nor the request an Idempotency-Key: sent again, they count"
        )
        warnings.append(f"event_id: {n_apart} of {len(events)} {text} again")
    return warnings


def _unused(given: Sequence[Mapping[str, Any]], owners: tuple[str, ...]) -> dict[str, Counter[str]]:
    """Reason → the names whose values are not used, with their counts."""
    unused: dict[str, Counter[str]] = {}
    kinds: Counter[tuple[str, Any]] = Counter(
        [(name, type(value)) for parameters in given for name, value in parameters.items()]
    )
    for (name, kind), n in kinds.items():
        for why in _reasons(name, kind, owners):
            unused.setdefault(why, Counter())[name] += n
    return unused


@lru_cache(maxsize=1000)
def _reasons(name: str, kind: Hashable, owners: tuple[str, ...]) -> tuple[str, ...]:
    """Why a value of this type is not used; numbers are finite."""
    of_kind = ""
    if name in BY_PARAMETER:
        of_kind = "" if kind in (int, float, NoneType) else _NO_NUMBER
    elif kind not in _PLAIN and name.casefold() not in OUTCOMES:
        of_kind = _NOT_PLAIN
    return tuple(filter(None, (of_kind, _has_no_field(name, owners))))


def _has_no_field(name: str, owners: tuple[str, ...]) -> str:
    """Why a parameter can never be an input of the model; empty where it can, or for outcomes of the action."""
    if name.strip().casefold() in OUTCOMES:
        return ""
    _, unused = context_of({name: "a value"}, owners)
    return unused.get(name, "")


def _named(counts: Mapping[str, int]) -> str:
    """`'name' (n), …`, most frequent first."""
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{name[:_MAX_SHOWN]!r} ({n})" for name, n in most[:_MAX_NAMED])
    return shown + (f" and {len(most) - _MAX_NAMED} more" if len(most) > _MAX_NAMED else "")
