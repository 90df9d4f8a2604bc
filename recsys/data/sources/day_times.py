"""The time of the day in a column of its own: as a text like `10:30`, or as a number of some unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.sources.numbers import as_numbers

DAY_MS: Final = 86_400_000
# Each unit in words.
UNITS: Final[Mapping[str, str]] = {
    "hours": "hours",
    "HHMM": "hours and minutes, like 1030",
    "HHMMSS": "hours, minutes and seconds, like 103000",
    "s": "seconds since midnight",
    "ms": "milliseconds since midnight",
    "days": "a part of the day, like 0.5 for noon",
}
_HOUR_MS: Final = 3_600_000


def unit_of(texts: pa.Array) -> str:
    """The unit that makes sense of a column's numbers; where several do, the one of the largest steps."""
    numbers = np.asarray(as_numbers(texts).drop_null().cast(pa.float64(), safe=False))
    numbers = numbers[(numbers >= 0) & (numbers < DAY_MS)]
    if not len(numbers):
        return "ms"
    highest = numbers.max()
    if highest < 1 and highest > 0:
        return "days"
    if (numbers == np.floor(numbers)).all():
        for unit, bound in (("hours", 24), ("HHMM", 2400), ("HHMMSS", 240_000)):
            if highest < bound and np.isfinite(_by_unit(numbers, unit)).all():
                return unit
    return "s" if highest < DAY_MS / 1000 else "ms"


def milliseconds(texts: pa.Array, unit: str) -> pa.Array:
    """Milliseconds since midnight, int64; null where a text is none."""
    numbers = as_numbers(texts).cast(pa.float64(), safe=False)
    given = np.asarray(numbers.fill_null(-1).to_numpy(zero_copy_only=False))
    found = _by_unit(given, unit)
    bad = ~((given >= 0) & (found < DAY_MS))
    return pa.array(np.round(np.where(bad, 0, found)).astype(np.int64), mask=bad)


def joined(days: pa.Array, times: pa.Array) -> pa.Array:
    """Both as one text. A day may be written with midnight, a time with the first day of a spreadsheet."""
    days = pc.replace_substring_regex(days, r"[ T]0{1,2}:00(?::00(?:[.]0+)?)?$", "")
    times = pc.replace_substring_regex(times, r"^\s*(?:1899-12-3[01]|1900-01-0[01])[ T]|^\s*T", "")
    return pc.binary_join_element_wise(days, times, " ")


def _by_unit(numbers: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
    """NaN where minutes or seconds are beyond 59."""
    if unit in ("HHMM", "HHMMSS"):
        seconds = numbers % 100 if unit == "HHMMSS" else 0 * numbers
        rest = numbers // 100 if unit == "HHMMSS" else numbers
        millis = (rest // 100) * _HOUR_MS + (rest % 100) * 60_000 + seconds * 1000
        return np.where((rest % 100 < 60) & (seconds < 60), millis, np.nan)
    return numbers * {"hours": _HOUR_MS, "s": 1000, "ms": 1, "days": DAY_MS}[unit]


@dataclass
class DayTimes:
    """Which unit a column of times of the day counts."""

    n: int = 0
    n_numbers: int = 0
    numbers: list[pa.Array] = field(default_factory=list)  # different ones

    def add(self, texts: pa.Array) -> None:
        """Take in some of the column's texts."""
        texts = texts.drop_null()
        numbers = texts.filter(pc.is_valid(as_numbers(texts)))
        self.n, self.n_numbers = self.n + len(texts), self.n_numbers + len(numbers)
        self.numbers.append(pc.unique(numbers))

    @property
    def unit(self) -> str | None:
        """None where most of the column is no number."""
        if self.n_numbers * 2 <= self.n:
            return None
        return unit_of(pc.unique(pa.concat_arrays(self.numbers)))

    def notes(self, column: str) -> list[str]:
        """What people should know."""
        if self.unit is None:
            return []
        return [
            f"{column} is read as {UNITS[self.unit]}; a pattern for both columns, like "
            "timestamp_format=%Y-%m-%d %H%M, says otherwise"
        ]
