"""A look over a column before it is read: how it writes times and numbers, and what is odd about its ids.

One answer holds for a column in all files of an import, so that a day is never taken for a month in one row and
not in the next.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.checking import Checked, is_instant, is_nothing, is_number
from recsys.data.sources.day_times import DAY_MS, DayTimes, joined
from recsys.data.sources.numbers import Decimal, ambiguous, as_numbers, decimal_of, votes
from recsys.data.sources.reading import CsvFormat, read_blocks
from recsys.data.sources.times import (
    COMPACT,
    DAY_FIRST,
    ISO,
    MONTH_FIRST,
    MONTH_NAME,
    NUMBERS,
    SINCE_MS,
    TimeFormat,
    latest_ms,
)
from recsys.errors import InputError

MAX_BLOCKS: Final = 64  # of a file; some gigabyte
MAX_WORDS: Final = 5_000  # of a block's times, evenly, that are looked at closely
MAX_CELLS: Final = 50_000  # and of its ids and numbers
MIN_SHARE: Final = 0.5  # of the times that one way of reading must make sense of
_DAY_FIRST: Final = r"^\s*(?:1[3-9]|2[0-9]|3[01])[-/.](?:0?[1-9]|1[0-2])[-/.][0-9]"
_MONTH_FIRST: Final = r"^\s*(?:0?[1-9]|1[0-2])[-/.](?:1[3-9]|2[0-9]|3[01])[-/.][0-9]"
_DOTTED: Final = "^-?[0-9]+[.,]0{1,2}$"
_SHORTENED: Final = r"^-?[1-9][.,][0-9]+[eE][+][0-9]{2}$"
_DIGITS: Final = r"^-?[0-9]+$"


@dataclass
class Found:
    """What one way of reading makes of the times so far."""

    n: int = 0  # that it makes sense of
    first: int | None = None  # milliseconds
    last: int | None = None

    def add(self, millis: pa.Array, since: int, until: int) -> None:
        good = millis.filter(
            pc.fill_null(pc.and_(pc.greater_equal(millis, since), pc.less_equal(millis, until)), False)
        )
        if len(good):
            ends = pc.min_max(good).as_py()
            self.n += len(good)
            self.first = ends["min"] if self.first is None else min(self.first, ends["min"])
            self.last = ends["max"] if self.last is None else max(self.last, ends["max"])


@dataclass
class Times:
    """Which way of writing times makes sense of a column."""

    zone: str | None
    n: int = 0
    example: str = ""
    by_day: int = 0  # dates that can only name the day first
    by_month: int = 0  # and the month
    dots: int = 0  # dates like 1.5.2024, which nobody writes with the month first
    beyond: int = 0  # dates of an unmistakable form that lie before 1970 or in the future: their rows are bad alone
    unread: str = ""  # a text that no way of reading makes sense of
    ambiguous: str = ""  # a date that is one either way
    found: dict[str, Found] = field(default_factory=dict)

    def look_at(self, checked: Checked, *, is_joined: bool = False) -> None:
        """Take in the column `timestamp`; where `is_joined`, with the text of `time`."""
        cells, texts = checked.cells("timestamp"), checked.text("timestamp", required=False)
        if is_joined:
            self.add(joined(texts, checked.text("time", required=False)))
        elif cells is None or not (is_number(cells.type) or is_instant(cells.type)):
            self.add(texts)
        elif is_number(cells.type):
            self.add(cells)

    def add(self, cells: pa.Array) -> None:
        """Text or numbers."""
        until = latest_ms()
        if is_number(cells.type):
            self._add_numbers(cells.filter(pc.invert(pc.is_null(cells, nan_is_null=True))), until)
            return
        texts = cells.filter(pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(cells)), 0), False))
        read = as_numbers(texts)
        numbers, words = texts.filter(pc.is_valid(read)), texts.filter(pc.is_null(read))
        if len(numbers):
            self._add_numbers(read.filter(pc.is_valid(read)).cast(pa.float64(), safe=False), until, numbers)
        words = words.filter(pc.invert(is_nothing(words)))
        if len(words):
            self._add_words(words, until)

    def _add_numbers(self, numbers: pa.Array, until: int, texts: pa.Array | None = None) -> None:
        self._count(numbers if texts is None else texts)
        for name in NUMBERS:
            self._of(name).add(TimeFormat(name, self.zone).numbers(numbers), SINCE_MS, until)
        whole = numbers.cast(pa.int64(), safe=False)
        for name, low in zip(COMPACT, (10**7, 10**11, 10**13), strict=True):
            fits = whole.filter(pc.and_(pc.greater_equal(whole, low), pc.less(whole, low * 10)))
            if len(fits):
                self._of(name).add(TimeFormat(name, self.zone).texts(fits.cast(pa.string())), SINCE_MS, until)

    def _add_words(self, texts: pa.Array, until: int) -> None:
        self.by_day += _n_matching(texts, _DAY_FIRST)
        self.by_month += _n_matching(texts, _MONTH_FIRST)
        texts = _some(texts, MAX_WORDS)
        self._count(texts)
        read = TimeFormat(ISO, self.zone).texts(texts)
        self._of(ISO).add(read, DAY_MS, until)
        rest = texts.filter(pc.is_null(read))
        beyond = texts.filter(pc.or_(pc.less(read, DAY_MS), pc.greater(read, until)))
        self.beyond += len(beyond)
        self.unread = self.unread or next((str(some[0].as_py()) for some in (beyond, rest) if len(some)), "")
        named = rest.filter(pc.match_substring_regex(rest, r"\p{L}{3}"))
        if len(named):
            self._of(MONTH_NAME).add(TimeFormat(MONTH_NAME, self.zone).texts(named), DAY_MS, until)
        if not len(rest):
            return
        either = [TimeFormat(name, self.zone).texts(rest) for name in (DAY_FIRST, MONTH_FIRST)]
        for name, millis in zip((DAY_FIRST, MONTH_FIRST), either, strict=True):
            self._of(name).add(millis, DAY_MS, until)
        self.dots += pc.sum(pc.match_substring_regex(rest, r"^\s*[0-9]+[.]")).as_py() or 0
        both = rest.filter(pc.and_(pc.is_valid(either[0]), pc.is_valid(either[1])))
        self.ambiguous = self.ambiguous or (both[0].as_py() if len(both) else "")

    def _count(self, cells: pa.Array) -> None:
        self.n += len(cells)
        self.example = self.example or (str(cells[0].as_py()) if len(cells) else "")

    def _of(self, name: str) -> Found:
        return self.found.setdefault(name, Found())

    def format(self, column: str, otherwise: str | None = None) -> TimeFormat:
        """The way that makes sense of most; `otherwise`: day or month first where nothing tells.

        Raises InputError where none does for half of the times, or where days and months cannot be told apart.
        """
        if not self.n:  # instants, or nothing at all: then each row says so
            return TimeFormat(ISO, self.zone)
        name = max(self.found, key=lambda one: self.found[one].n, default=ISO)
        n_read = self._total(name).n if self.found else 0
        n_meant = n_read + (self.beyond if name == ISO else 0)
        if not n_read or n_meant < MIN_SHARE * self.n:
            best = f" ({n_read:,} of {self.n:,} at best)" if n_read else ""
            raise InputError(
                f"column {column!r}: no way of reading makes sense of its times{best}, "
                f"like {self.unread or self.example!r}: "
                "as seconds, milliseconds, days of a spreadsheet or dates, most lie before 1980, in the future, or are "
                "no time "
                f"(option timestamp_format={'|'.join(NUMBERS)}|iso, or a pattern like %d.%m.%Y %H:%M, says how to read)"
            )
        if name in (DAY_FIRST, MONTH_FIRST):
            name = self._order(column, otherwise)
        return TimeFormat(name, self.zone)

    def _order(self, column: str, otherwise: str | None) -> str:
        if self.by_day != self.by_month:
            return DAY_FIRST if self.by_day > self.by_month else MONTH_FIRST
        if self.dots * 2 > self.n:
            return DAY_FIRST
        if self.by_day:
            raise InputError(
                f"column {column!r}: as many dates can only name the day first as the month ({self.by_day:,} each): "
                "it holds both, and a column is read one way; option timestamp_format=day-first or month-first says "
                "which rows are right"
            )
        if otherwise is None:
            raise InputError(
                f"column {column!r}: {self.ambiguous!r} may name the day first or the month, and no other row tells; "
                "give option timestamp_format=day-first or timestamp_format=month-first"
            )
        return otherwise

    def _total(self, name: str) -> Found:
        """With what is ISO, which is read where the day or the month comes first, too."""
        found, iso = self._of(name), self._of(ISO)
        if name not in (DAY_FIRST, MONTH_FIRST) or not iso.n:
            return found
        ends = [end for one in (found, iso) for end in (one.first, one.last) if end is not None]
        return Found(found.n + iso.n, min(ends), max(ends))

    def note(self, chosen: TimeFormat) -> str:
        """What was found, in words."""
        found = self._total(chosen.name)
        ends = [_day(at) for at in (found.first, found.last) if at is not None]
        text = f"timestamps are read as {chosen.name}: {' … '.join(dict.fromkeys(ends))}"
        if left := self.n - found.n:
            text += f"; {left:,} of {self.n:,} make no sense so (before 1980, in the future, or no time)"
        if chosen.name in (DAY_FIRST, MONTH_FIRST) and self.by_day == self.by_month:
            text += "; no date tells the day from the month"
        return f"{text}; option timestamp_format says otherwise"


@dataclass
class Ids:
    """What is odd about a column of ids that are text."""

    n: int = 0
    nothing: Counter[str] = field(default_factory=Counter)
    dotted: list[pa.Array] = field(default_factory=list)  # different ids like 12.0
    whole: list[pa.Array] = field(default_factory=list)  # and like 12
    shortened: list[pa.Array] = field(default_factory=list)  # and like 9.14896E+18, as spreadsheets write long numbers
    accented: list[pa.Array] = field(default_factory=list)  # and with letters beyond ASCII

    def add(self, texts: pa.Array) -> None:
        texts = pc.utf8_trim_whitespace(_some(texts, MAX_CELLS))
        texts = texts.filter(pc.fill_null(pc.greater(pc.utf8_length(texts), 0), False))
        self.n += len(texts)
        if not len(texts):
            return
        empty = texts.filter(is_nothing(texts))
        self.nothing.update({pair["values"]: pair["counts"] for pair in empty.value_counts().to_pylist()})
        self.dotted.append(pc.unique(texts.filter(pc.match_substring_regex(texts, _DOTTED))))
        self.whole.append(pc.unique(texts.filter(pc.match_substring_regex(texts, _DIGITS))))
        self.shortened.append(pc.unique(texts.filter(pc.match_substring_regex(texts, _SHORTENED))))
        self.accented.append(pc.unique(texts.filter(pc.invert(pc.string_is_ascii(texts)))))

    def notes(self, column: str, entity: str) -> list[str]:
        """What people should know, with the option that helps."""
        notes = []
        if self.nothing:
            words = ",".join(self.nothing)
            notes.append(
                f"{column}: {_share(self.nothing.total(), self.n)} of the ids are words for nothing ({words}), and "
                f"count as ids; option null_values={words} reads them as empty"
            )
        dotted, whole = (pc.unique(_together(arrays)) for arrays in (self.dotted, self.whole))
        if len(dotted):
            twins = pc.sum(pc.is_in(pc.replace_substring_regex(dotted, "[.,]0+$", ""), value_set=whole)).as_py()
            notes.append(
                f"{column}: {len(dotted):,} different ids end in .0, like {dotted[0].as_py()!r}; "
                f"{_share(twins, len(dotted))} of them have a twin without it, which is another {entity}; where all "
                f"ids are whole numbers, option {entity}_id_type=integer makes them one"
            )
        if len(shortened := pc.unique(_together(self.shortened))):
            notes.append(
                f"{column}: {len(shortened):,} different ids are numbers that a spreadsheet has shortened, like "
                f"{shortened[0].as_py()!r}; several {entity} ids may have become one: export the column as text"
            )
        accented = pc.unique(_together(self.accented))
        if n_twins := len(accented) - len(pc.unique(pc.utf8_normalize(accented, form="NFC"))):
            notes.append(
                f"{column}: {n_twins:,} different ids look like another one, which is written with other code points "
                f"(Unicode's NFC and NFD): each counts as {entity} of its own; write the column in one of these forms"
            )
        return notes


@dataclass
class Decimals:
    """Which decimal sign a column's numbers have."""

    counted: Counter[str] = field(default_factory=Counter)
    doubtful: str | None = None  # the first that either sign would make sense of

    def add(self, texts: pa.Array) -> None:
        texts = _some(texts, MAX_CELLS)
        self.counted.update(votes(texts))
        self.doubtful = self.doubtful or ambiguous(texts)

    def notes(self, column: str) -> list[str]:
        """What people should know, with the option that helps."""
        if self.sign is not None or self.doubtful is None:
            return []
        return [
            f"{column}: nothing tells whether the dot in {self.doubtful!r} divides thousands; it is read as a decimal "
            "point, and option decimal=, reads it as the other"
        ]

    @property
    def sign(self) -> Decimal | None:
        """None where nothing tells."""
        return decimal_of(self.counted)


def _some(texts: pa.Array, n: int) -> pa.Array:
    """All, or `n` of them evenly, the first and the last included."""
    return texts if len(texts) <= n else texts.take(np.linspace(0, len(texts) - 1, n).astype(np.int64))


def _n_matching(texts: pa.Array, pattern: str) -> int:
    return pc.sum(pc.match_substring_regex(texts, pattern)).as_py() or 0


def _together(arrays: list[pa.Array]) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.string()), *arrays])


def _share(n: int, of: int) -> str:
    return f"{n:,} of {of:,} ({n / of:.1%})"


def _day(millis: int) -> str:
    return dt.datetime.fromtimestamp(millis / 1000, dt.UTC).date().isoformat()


@dataclass
class Survey:
    """What is looked at, by the name of the column here; the same objects for all files of an import."""

    times: Times | None = None
    day_times: DayTimes | None = None  # of the second column, where there is one
    ids: dict[str, Ids] = field(default_factory=dict)
    decimals: dict[str, Decimals] = field(default_factory=dict)

    def look_over(self, path: Path, where: Mapping[str, str], csv: CsvFormat, null_values: Collection[str]) -> None:
        """Read the columns of one file; InputError as `read_blocks`."""
        wanted = [*self.ids, *self.decimals]
        if self.times is not None:
            wanted.append("timestamp")
        if self.day_times is not None:
            wanted.append("time")
        if not wanted:
            return
        columns = {name: where.get(name, name) for name in wanted}
        for block in islice(read_blocks(path, list(dict.fromkeys(columns.values())), csv=csv), MAX_BLOCKS):
            checked = Checked(block, columns, null_values)
            for name, ids in self.ids.items():
                ids.add(checked.text(name, required=False))
            for name, decimals in self.decimals.items():
                if (cells := checked.cells(name)) is not None and not is_number(cells.type):
                    decimals.add(checked.text(name, required=False))
            if self.day_times is not None:
                self.day_times.add(_some(checked.text("time", required=False), MAX_WORDS))
            if self.times is not None:
                self.times.look_at(checked, is_joined=self.day_times is not None and self.day_times.unit is None)
