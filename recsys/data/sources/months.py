"""Times that name the month by a word, in the languages that people write: `1. März 2025`, `Mar 1, 2025 10:00 AM`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

# How words for a month begin, in lower case and without accents, from January on. English, German, French, Spanish,
# Portuguese, Italian, Dutch, Swedish, Polish and Russian.
_STEMS: Final = (
    "jan gen ene sty янв", "feb fev fevr lut фев", "mar maa mae mrz mrt мар", "apr avr abr kwi апр",
    "may mai maj mei mag май мая маи", "jun juin giu cze июн", "jul juil lug lip июл", "aug ago aou sie авг",
    "sep set wrz сен", "oct okt ott out paz окт", "nov lis ноя", "dec dez dic gru дек",
)  # fmt: skip
_MONTHS: Final = {stem: month for month, stems in enumerate(_STEMS, 1) for stem in stems.split()}
MAX_LENGTH: Final = 100  # characters of a time
_WORD: Final = r"[^\W\d_]+\.?"
_DAY: Final = r"(?P<day>\d{1,2})(?:\.|st|nd|rd|th|er|º)?"
_YEAR: Final = r"(?P<year>\d{4}|\d{2})(?:\s*[^\W\d_]\.)?"  # and Polish `r.`
_MONTH: Final = rf"(?P<month>{_WORD})"
_ZONE: Final = r"(?:\s*(?P<zone>[A-Za-z]{1,4}(?:[+-]\d{4})?|[+-]\d{2}:?\d{2})(?:\s*\(.*\))?)?"
_CLOCK: Final = (
    r"(?P<hour>\d{1,2})[:.h](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,:](?P<part>\d{1,9}))?)?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?(?:\s*Uhr)?"
)
_FIRST_CLOCK: Final = re.compile(rf"(?<!\d){_CLOCK}")
_MIDNIGHT: Final = "00:00"
_AT: Final = rf"(?:(?:,?\s+(?:-\s+|um\s+|at\s+|a\s+las\s+|,\s*)?|:|T){_CLOCK}{_ZONE})?"
_BETWEEN: Final = r"[\s/,-]+(?:de\s+|of\s+)?"
_WAYS: Final = tuple(
    re.compile(rf"(?:{_WORD},?\s+(?:den\s+)?)?{way}")
    for way in (
        rf"{_DAY}{_BETWEEN}{_MONTH}{_BETWEEN}{_YEAR}{_AT}",
        rf"{_MONTH}\s+{_DAY},?\s+{_YEAR}{_AT}",
        rf"{_MONTH}\s+{_DAY}\s+{_CLOCK}{_ZONE}\s+{_YEAR}",
        rf"{_YEAR}[\s/-]+{_MONTH}[\s/-]+{_DAY}{_AT}",
    )
)


def as_iso(text: str) -> str | None:
    """The time with the month as a number, year first, `2025-03-01 10:00:00 AM +0100`; None where it names no month."""
    clock = _FIRST_CLOCK.search(text) if len(text) <= MAX_LENGTH else None
    if clock is None:
        return _read(text)
    read = _read(f"{text[: clock.start()]}{_MIDNIGHT}{text[clock.end() :]}")  # one for all times of a day
    return None if read is None else read.replace(_MIDNIGHT, _written(clock.groupdict()), 1)


@lru_cache(maxsize=1 << 16)
def _read(text: str) -> str | None:
    if len(text) > MAX_LENGTH:
        return None
    for way in _WAYS:
        if (found := way.fullmatch(text.strip())) and (month := month_of(found["month"])):
            year = found["year"]
            if len(year) == 2:  # as strptime's %y has it
                year = f"{20 if int(year) < 69 else 19}{year}"
            day = f"{year}-{month:02}-{found['day']}"
            return day if found["hour"] is None else f"{day} {_MIDNIGHT} {_zone(found['zone'] or '')}".rstrip()
    return None


def _zone(word: str) -> str:
    """JavaScript's `GMT+0100` without the word."""
    return word.lstrip("GMTUC") if re.fullmatch(r"(?:GMT|UTC)[+-]\d{4}", word) else word


@lru_cache(maxsize=4096)
def month_of(word: str) -> int | None:
    """The number of a month by a word for it, or its beginning of three letters and more."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(c))
    return next((_MONTHS[plain[:n]] for n in (4, 3) if plain[:n] in _MONTHS), None)


def _written(clock: Mapping[str, str | None]) -> str:
    text = f"{clock['hour']}:{clock['minute']}:{clock['second'] or '00'}"
    text += f".{clock['part']}" if clock["part"] else ""
    return f"{text} {clock['half']}M" if clock["half"] else text
