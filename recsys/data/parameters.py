"""What clients told of events, without what tells one user from another.

Parameters are any words: an e-mail address or the number of an order names somebody as well as an id does, and a data
set stays when a user is erased. So a data set keeps a value only where several users told it, text in small letters and
numbers by sign and power of two, which is all that DeepFM reads of them (`recsys.features.context`).
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import numpy as np
import pyarrow as pa

from recsys import columns as col

N_USERS: Final = 5  # who told a value at least
_LONGEST: Final = 200  # characters of a text
_Value = tuple[str, str]  # name, value as JSON


def of_several(events: pa.Table, n_users: int = N_USERS) -> pa.Table:
    """`events` (columns `parameters`, JSON objects or null, and `user_key`) with the values that so many users told."""
    texts = events[col.PARAMETERS].combine_chunks().dictionary_encode()
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if not len(texts.dictionary):
        return events
    code = texts.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    values_by_text = [_values(text) for text in texts.dictionary.to_pylist()]
    common = _common(values_by_text, code, events[col.USER_KEY].to_numpy(), n_users)
    kept = [_text([value for value in values if value in common]) for values in values_by_text]
    column = pa.array([*kept, None], pa.string()).take(pa.array(code % (len(kept) + 1)))
    return events.set_column(events.schema.get_field_index(col.PARAMETERS), col.PARAMETERS, column)


def _common(values_by_text: list[list[_Value]], code: np.ndarray, user_key: np.ndarray, n_users: int) -> set[_Value]:
    """Of the values of each text (`code` is an event's), those that at least `n_users` told."""
    number: dict[_Value, int] = {}
    of_text = [[number.setdefault(value, len(number)) for value in values] for values in values_by_text]
    n_values = np.array([len(values) for values in of_text])
    flat = np.fromiter((value for values in of_text for value in values), np.int64, int(n_values.sum()))
    starts = np.cumsum(n_values) - n_values
    pairs = np.unique(np.stack([code, user_key], axis=1)[code >= 0], axis=0)
    repeats = n_values[pairs[:, 0]]
    ends = np.cumsum(repeats)
    place = np.arange(int(repeats.sum())) - np.repeat(ends - repeats, repeats) + np.repeat(starts[pairs[:, 0]], repeats)
    by_user = np.unique(np.stack([flat[place], np.repeat(pairs[:, 1], repeats)], axis=1), axis=0)
    n = np.bincount(by_user[:, 0], minlength=len(number))
    return {value for value, place in number.items() if n[place] >= n_users}


def _values(text: str) -> list[_Value]:
    """Names, in small letters, with what of their values is kept; other values are no inputs of a model."""
    given = json.loads(text)
    if not isinstance(given, dict):
        return []
    rounded = {name.strip().casefold(): _rounded(value) for name, value in sorted(given.items())}
    return [(name, json.dumps(value)) for name, value in rounded.items() if value is not None]


def _text(values: list[_Value]) -> str | None:
    """As a JSON object; null where nothing is left."""
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in values) + "}" if values else None


def _rounded(value: Any) -> bool | int | float | str | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.strip().casefold()[:_LONGEST].strip() or None
    if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if value == 0:
        return 0
    power = abs(value).bit_length() - 1 if isinstance(value, int) else math.frexp(value)[1] - 1
    size: int | float = 1 << power if power >= 0 else 2.0**power
    return size if value > 0 else -size
