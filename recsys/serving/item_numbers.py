"""Numeric properties of items, in columns indexed by key, for filters such as by price."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.columns import RECOMMENDATION_WEIGHT

PRICE: Final = "price"
ALWAYS: Final = (PRICE, RECOMMENDATION_WEIGHT)  # in memory, however many other numbers there are
MAX_NAMES: Final = 32  # kept in memory, besides those of ALWAYS; 8 bytes per item each
# Also in text, and in RetailRocket's form (n277.200). The pattern means the same in Postgres and Python; with a bound
# on the digits Postgres would take ten times as long.
NUMBER: Final = r"n?-?[0-9]+(\.[0-9]+)?"
MISSING: Final = "NaN"  # among texts of `numbers_of`
_NUMBER = re.compile(NUMBER)
# The same of many, each followed by NUL. Possessive, so that nothing is kept for going back.
_NUMBERS = re.compile(rf"(?:(?:{MISSING}|n?+-?+[0-9]++(?:\.[0-9]++)?+)\0)*+")
_LEAST, _GREATEST = 1e-250, 1e255  # amounts of a number, if not 0; written out it has fewer than 300 characters
_MAX_CHARACTERS: Final = 300  # of a number as text
_NAN = math.nan


class ItemNumbers:
    """A column of float64 for each name, NaN where an item has no such number; all of equal length."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._columns: dict[str, array[float]] = {name: array("d") for name in names}
        self._n_rows = 0

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return sorted(self._columns)

    def column(self, name: str) -> array[float] | None:
        """Numbers by item key; None for a property without a column."""
        return self._columns.get(name)

    def extend(self, n: int) -> None:
        """Extend all columns by `n` keys."""
        self._n_rows += n
        for column in self._columns.values():
            column.extend(array("d", [_NAN]) * n)

    def put(self, item_key: int, numbers: Mapping[str, float]) -> None:
        """Replace all numbers of an item.

        A new name gets a column up to MAX_NAMES; those of ALWAYS do in any case.
        """
        for name in numbers:
            if name not in self._columns and (name in ALWAYS or len(self._columns) < MAX_NAMES):
                self._columns[name] = array("d", [_NAN]) * self._n_rows
        for name, column in self._columns.items():
            column[item_key] = numbers.get(name, _NAN)

    def put_all(self, item_keys: NDArray[np.int32], numbers: Mapping[str, NDArray[np.float64]]) -> None:
        """As `put` for each of `item_keys` (n,), items without numbers so far. `numbers`: by name, (n,), NaN where an
        item has none."""
        for name, values in numbers.items():
            if np.isnan(values).all():
                continue
            if name not in self._columns and (name in ALWAYS or len(self._columns) < MAX_NAMES):
                self._columns[name] = array("d", [_NAN]) * self._n_rows
            if name in self._columns:
                np.asarray(self._columns[name])[item_keys] = values


def numbers_in(properties: Mapping[str, Any]) -> dict[str, float]:
    """The properties that are numbers, as JSON numbers or text."""
    found = ((name, number(value)) for name, value in properties.items())
    return {name: value for name, value in found if value is not None}


def number(value: Any) -> float | None:
    """A JSON value as a number: a number, or text in the form of one; None otherwise."""
    if isinstance(value, str):
        is_number = len(value) <= _MAX_CHARACTERS and _NUMBER.fullmatch(value)
        value = float(value.lstrip("n")) if is_number else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value and not _LEAST < abs(value) < _GREATEST:
        return None
    return float(value)


def numbers_of(texts: str) -> NDArray[np.float64]:
    """Texts separated by NUL as numbers, each as by `number`; NaN for those that are none, (n,)."""
    each = texts.split("\0")
    if max(map(len, each)) > _MAX_CHARACTERS or not _NUMBERS.fullmatch(texts + "\0"):
        return np.array(list(map(number, each)), dtype=np.float64)
    values = np.array(list(map(float, texts.replace("n", "").split("\0"))))
    amount = np.abs(values)
    values[~((amount > _LEAST) & (amount < _GREATEST) | (amount == 0))] = _NAN
    return values
