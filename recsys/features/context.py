"""What is told of a request besides its user and its time: device, page, campaign, arm of an experiment …

`device` and up to four other parameters are fields of DeepFM; their values are hashed into a bounded number of rows,
by the same function for the events of the night, those of the day and for requests. The most frequent names of the
night own a field each; others share the fields that are left, by a hash of the name. Row 0: nothing is told.

What is known only after the action (`OUTCOMES`) is not context: see research/decisions/0013.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.action import BY_PARAMETER
from recsys.types import Texts

DEVICE: Final = "device"
N_SHARED: Final = 4  # fields for all other parameters
CONTEXT_FIELDS: Final = (DEVICE, *(f"context_{n}" for n in range(1, N_SHARED + 1)))
CONTEXT_SIZES: Final = (32, *(256 for _ in range(N_SHARED)))  # rows, the first is "unknown"
# What a request may tell of its moment and its user, in place of what the service knows: the least and the greatest.
REQUEST_FEATURES: Final = {"day_of_week": (1, 7), "part_of_day": (1, 8), "hour": (0, 23), "n_events": (0, 10**9)}
# Known only once the user has acted, or a name of the item that they acted on.
OUTCOMES: Final = frozenset(BY_PARAMETER) | {
    *("transaction_id", "order_id", "amount", "total", "revenue", "item_id", "product_id", "sku"),
}
_LONGEST: Final = 200  # characters of a value that count
_OUTCOME = "known only after the action, so it is label and weight of events and no input"
_NO_VALUE = "should be text, a number, true or false"
_FULL = f"no field is left for it: of {N_SHARED} each has another parameter"


class ContextInput(NamedTuple):
    """A parameter that is an input: its name, the field (a position in `CONTEXT_FIELDS`) and the row there."""

    name: str
    field: int
    row: int


def context_of(given: Mapping[str, Any], owners: Sequence[str] = ()) -> tuple[list[ContextInput], dict[str, str]]:
    """The parameters of one event or request that are inputs, at most one for each field; name → why not, for others.

    `owners`: names that own a field, in the order of the fields behind `device`. Names count without regard to case.
    What `REQUEST_FEATURES` names is passed over: the moment has fields of its own.
    """
    inputs: dict[int, ContextInput] = {}
    unused: dict[str, str] = {}
    names = sorted((name.strip().casefold(), name) for name in given)
    owned = {DEVICE, *owners}
    names.sort(key=lambda pair: pair[0] not in owned)  # who owns a field comes first
    for name, as_given in names:
        if name in REQUEST_FEATURES:
            continue
        word, field = value_word(given[as_given]), _field(name, owners)
        if name in OUTCOMES:
            unused[as_given] = _OUTCOME
        elif word is None:
            unused[as_given] = _NO_VALUE
        elif field is None or field in inputs:
            unused[as_given] = _FULL
        else:
            inputs[field] = ContextInput(as_given, field, 1 + _hash(f"{name}\0{word}") % (CONTEXT_SIZES[field] - 1))
    return list(inputs.values()), unused


def value_word(value: Any) -> str | None:
    """A value as one word of a vocabulary; None where it is none.

    Text without regard to case and space around it. Numbers by sign and ⌊log2⌋ of their size, so that 9 and 12 are
    one word: what only looks like a number (a campaign's) should come as text.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value.strip().casefold()[:_LONGEST] or None
    if not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value == 0:
        return "#0"
    size = abs(value)
    power = size.bit_length() - 1 if isinstance(size, int) else math.frexp(size)[1] - 1
    return f"#{'-' if value < 0 else '+'}{power}"


def context_rows(parameters: Texts | None, n: int, owners: Sequence[str]) -> NDArray[np.int32]:
    """Rows of the context's fields of `n` events, (n, n_fields), from their parameters as JSON objects."""
    result = np.zeros((n, len(CONTEXT_FIELDS)), dtype=np.int32)
    if parameters is None:
        return result
    by_text = np.zeros((len(parameters.texts) + 1, len(CONTEXT_FIELDS)), dtype=np.int32)  # the last: none
    for place in np.unique(parameters.code[parameters.code >= 0]).tolist():
        for one in context_of(_object(parameters.texts[place]), owners)[0]:
            by_text[place, one.field] = one.row
    return by_text[parameters.code]


def owners_of_fields(parameters: Texts | None) -> tuple[str, ...]:
    """The names, at most `N_SHARED`, that most events tell, the most frequent first."""
    if parameters is None:
        return ()
    n_events: Counter[str] = Counter()
    texts, counts = np.unique(parameters.code[parameters.code >= 0], return_counts=True)
    for place, count in zip(texts.tolist(), counts.tolist(), strict=True):
        given = _object(parameters.texts[place])
        for name in {name.strip().casefold() for name, value in given.items() if value_word(value) is not None}:
            n_events[name] += count
    wanted = [name for name in n_events if name not in OUTCOMES and name not in REQUEST_FEATURES and name != DEVICE]
    return tuple(sorted(wanted, key=lambda name: (-n_events[name], name))[:N_SHARED])


def _field(name: str, owners: Sequence[str]) -> int | None:
    if name == DEVICE:
        return 0
    if name in owners:
        return 1 + owners.index(name)
    n_left = N_SHARED - len(owners)
    return 1 + len(owners) + _hash(name) % n_left if n_left > 0 else None


def _hash(text: str) -> int:
    """The same in every process, unlike Python's own."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest())


def _object(text: str) -> Mapping[str, Any]:
    value = json.loads(text)
    return value if isinstance(value, dict) else {}
