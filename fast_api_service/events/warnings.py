"""Warnings about parts of posted events that cannot be used; the events are stored anyway."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from recsys.action import BY_PARAMETER
from recsys.events.event import Event
from recsys.events.names import DEFAULT_TYPE, EventNames
from recsys.features.context import OUTCOMES, context_of
from recsys.serving.catalogue import ItemDictionary
from recsys.serving.ids import to_external
from recsys.serving.snapshot import Snapshot

_MAX_NAMED: Final = 5
_MAX_SHOWN: Final = 40  # characters of a name
_PLAIN: Final = (str, int, float, bool)
_NO_NUMBER = "should be a number, so it gives the event neither weight nor label"
_NOT_PLAIN = "should be text, a number, true or false, to be an input of the model"


def stored_as(samples: Iterable[Mapping[str, Any]], names: EventNames) -> dict[str, str]:
    """Posted event type → the name under which it is stored, if that differs; "" is the type of events without one,
    unless view."""
    posted: set[str] = {sample.get("event_type") or sample.get("action_type") or "" for sample in samples}
    found = {name: names.stored(name) for name in sorted(posted - {""}) if names.stored(name) != name}
    return {"": names.default} | found if "" in posted and names.default != DEFAULT_TYPE else found


def warnings_of(
    pairs: Sequence[tuple[Mapping[str, Any], Event]],
    n_apart: int,
    names: EventNames,
    snapshot: Snapshot | None,
    owners: Sequence[str],
) -> list[str]:
    """One line per kind of problem, with counts and some of the names.

    `pairs`: samples with their events, whose item ids are of the snapshot's type; `n_apart`: purchases that cannot be
    told from retries; `owners`: parameters that own a field of the model (`recsys.features.context`).
    """
    events, warnings = [event for _, event in pairs], []
    types = Counter([event.event_type for event in events])
    if unweighted := {name: n for name, n in types.items() if not names.has_meaning(name)}:
        known = ", ".join(names.declared[:20])
        text = f"have no weight here, so they count nothing: {_named(unweighted)}; this shop's are {known}"
        warnings.append(f"event_type: {sum(unweighted.values())} of {len(events)} {text}")
    if snapshot is not None and (unknown := _unknown(events, snapshot.items)):
        text = "are of items that the catalogue does not have; they count once it has them"
        warnings.append(f"item_id: {sum(unknown.values())} of {len(events)} {text}: {_named(unknown)}")
    for place in ("parameters", "features"):
        for why, unused in _unused([given for sample, _ in pairs if (given := sample.get(place))], owners).items():
            warnings.append(f"{place}: {_named(unused)}: {why}")
    if n_apart:
        text = (
            "purchases have neither event_id nor timestamp, nor the request an Idempotency-Key: sent again, they count"
        )
        warnings.append(f"event_id: {n_apart} of {len(events)} {text} again")
    return warnings


def _unknown(events: Sequence[Event], items: ItemDictionary) -> Counter[str]:
    """Ids that are not in the catalogue → number of events."""
    ids = {event.item_id for event in events}
    unknown = {id_ for id_ in ids if items.key(to_external(id_, items.json_type, "item")) is None}
    return Counter(event.item_id for event in events if event.item_id in unknown) if unknown else Counter()


def _unused(given: Sequence[Mapping[str, Any]], owners: Sequence[str]) -> dict[str, Counter[str]]:
    """Reason → the names whose values are not used, with their counts."""
    unused: dict[str, Counter[str]] = {}
    counts: Counter[str] = Counter()
    for parameters in given:
        for name, value in parameters.items():
            counts[name] += 1
            if name in BY_PARAMETER:
                is_number = type(value) is int or (type(value) is float and math.isfinite(value))
                if not is_number and value is not None:
                    unused.setdefault(_NO_NUMBER, Counter())[name] += 1
            elif value is not None and type(value) not in _PLAIN and name.casefold() not in OUTCOMES:
                unused.setdefault(_NOT_PLAIN, Counter())[name] += 1
    for name, n in counts.items():
        if why := _has_no_field(name, tuple(owners)):
            unused.setdefault(why, Counter())[name] += n
    return unused


@lru_cache(maxsize=1000)
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
