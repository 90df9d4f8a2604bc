"""How a column writes its times, and their reading as milliseconds since the epoch."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.sources import months
from recsys.data.sources.day_times import DAY_MS
from recsys.data.sources.numbers import as_numbers, per_value
from recsys.errors import InputError
from recsys.instants import LATEST_AHEAD

SINCE_MS: Final = 315_532_800_000  # 1980: a number that means an earlier instant is of another unit
_FIRST_LOCAL: Final = -62_135_510_400_000  # 0001-01-02: what is earlier, or later than the next, has no zone's time
_LAST_LOCAL: Final = 253_402_128_000_000  # 9999-12-30
_EXCEL_DAYS: Final = 25_569  # from 1899-12-30 to 1970
_PER_MS: Final[Mapping[str, float]] = {"s": 1e-3, "ms": 1.0, "us": 1e3, "ns": 1e6, "excel": 1 / DAY_MS}  # of each unit
NUMBERS: Final = tuple(_PER_MS)
DAY_FIRST, MONTH_FIRST, ISO = "day-first", "month-first", "iso"  # the first two read what is ISO, too
COMPACT: Final = ("%Y%m%d", "%Y%m%d%H%M", "%Y%m%d%H%M%S")
MONTH_NAME: Final = "month-name"  # the month by a word, in any order and language that `months` knows
NAMES: Final = (*NUMBERS, ISO, DAY_FIRST, MONTH_FIRST, MONTH_NAME)
_ORDERS: Final = {
    ISO: ("a", "b", "c"),
    DAY_FIRST: ("c", "b", "a"),
    MONTH_FIRST: ("c", "a", "b"),
}  # which part is the year, the month, the day
# Words for zones that mean one offset wherever they are written, in hours.
_ZONE_WORDS: Final[Mapping[str, int]] = {
    **{"Z": 0, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "MSK": 3, "JST": 9},
    **{"EST": -5, "EDT": -4, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7},
}
_ZONE: Final = rf"(?P<zone>z|{'|'.join(_ZONE_WORDS)}|[+-][0-9]{{2}}:?(?:[0-9]{{2}})?(?: ?(?:UTC|GMT))?)"
_PARTS: Final = (
    r"^\s*(?P<a>[0-9]{1,4})(?P<mark>[-/.])(?P<b>[0-9]{1,2})[-/.](?P<c>[0-9]{1,4})"
    r"(?:(?:,?\s+(?:-\s+|um\s+)?|T)(?P<hour>[0-9]{1,2})[:.](?P<minute>[0-9]{2})"
    r"(?:[:.](?P<second>[0-9]{2})(?:[.,](?P<part>[0-9]{1,9}))?)?"
    rf"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?(?:\s*Uhr)?(?:\s*{_ZONE})?)?\s*$"
)
_ZONED: Final = r":[0-9]{2}(?:[.,][0-9]+)?\s*(?:Z|z|UTC|GMT|[+-][0-9]{2}:?(?:[0-9]{2})?(?: ?(?:UTC|GMT))?)\s*$"
_NO_ZONE: Final = np.iinfo(np.int32).min


@dataclass(frozen=True)
class TimeFormat:
    """One of NAMES, or a strptime pattern. `zone`: of times that name none; None is UTC. `of_day`: the unit in
    which a second column counts the time of the day; None where it is a text, or there is none."""

    name: str
    zone: str | None = None
    of_day: str | None = None

    @classmethod
    def of(cls, name: str, zone: str | None) -> TimeFormat:
        """From the options; InputError for one that is unknown."""
        name = name if "%" in name else name.lower()
        if "%" in name:
            try:
                pd.to_datetime(pd.Series(["-"]), format=name, errors="coerce")
            except ValueError as error:
                raise InputError(f"option timestamp_format={name} is no strptime pattern: {error}") from None
        elif name not in NAMES:
            raise InputError(
                f"option timestamp_format={name} is unknown; use {', '.join(NAMES)} or a pattern like %d.%m.%Y %H:%M"
            )
        return cls(name, checked_zone(zone))

    @property
    def is_number(self) -> bool:
        """Whether it counts units of time from a day on."""
        return self.name in _PER_MS

    def numbers(self, values: pa.Array) -> pa.Array:
        """Milliseconds of a numeric array; null where null, or beyond all bounds."""
        if self.name == "ms" and pa.types.is_integer(values.type):
            return values.cast(pa.int64())
        if self.name in ("us", "ns") and pa.types.is_integer(values.type):
            return pa.array(_integers(values) // int(_PER_MS[self.name]), mask=_null(values))
        given = np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        millis = (given - (_EXCEL_DAYS if self.name == "excel" else 0)) / _PER_MS[self.name]
        bad = ~(np.abs(millis) < 1e17)
        found = pa.array(np.round(np.where(bad, 0, millis)).astype(np.int64), mask=bad)
        return self.localized(found) if self.name == "excel" else found

    def texts(self, texts: pa.Array) -> pa.Array:
        """Milliseconds of texts, int64; null where one cannot be read."""
        if self.is_number:
            return self.numbers(as_numbers(texts))
        encoded = texts.dictionary_encode()
        return self._words(encoded.dictionary).take(encoded.indices)

    def _words(self, texts: pa.Array) -> pa.Array:
        if self.name == ISO:
            return self._iso(texts)
        if self.name == MONTH_NAME:
            return TimeFormat(ISO, self.zone)._iso(per_value(texts, months.as_iso, pa.string()))
        if self.name in _ORDERS:
            read = self._by_parts(texts)
            return read if not read.null_count else pc.coalesce(read, TimeFormat(ISO, self.zone)._words(texts))
        return self._by_pattern(texts)

    def localized(self, millis: pa.Array) -> pa.Array:
        """Instants of local times; one that occurs twice is the first, one that is passed over the next that occurs."""
        if self.zone is None:
            return millis
        in_reach = pc.and_(pc.greater_equal(millis, _FIRST_LOCAL), pc.less(millis, _LAST_LOCAL))
        local = pd.Series(pc.if_else(in_reach, millis, None).cast(pa.timestamp("ms")).to_pandas())
        zoned = local.dt.tz_localize(self.zone, ambiguous=np.ones(len(local), bool), nonexistent="shift_forward")
        found = pa.array(zoned.dt.tz_convert("UTC").dt.tz_localize(None), pa.timestamp("ms")).cast(pa.int64())
        return pc.if_else(in_reach, found, millis)

    def _iso(self, texts: pa.Array) -> pa.Array:
        zoned = pc.fill_null(pc.match_substring_regex(texts, _ZONED), False)
        n_zoned = pc.sum(zoned).as_py() or 0
        try:
            if n_zoned == len(texts):
                plain = pc.replace_substring_regex(texts, r"\s*(?:Z|z|UTC|GMT)\s*$", "Z")
                plain = pc.replace_substring_regex(plain, r"\s*([+-][0-9]{2}:?[0-9]{2})Z?$", r"\1")
                return _milliseconds(plain.cast(pa.timestamp("us", "UTC")))
            if not n_zoned:
                return self.localized(_milliseconds(texts.cast(pa.timestamp("us"))))
        except pa.ArrowInvalid:
            pass
        found = self._by_parts(texts)
        rest = pc.and_(pc.is_null(found), pc.is_valid(texts))
        if not pc.any(rest).as_py():
            return found
        odd = texts.filter(rest)
        instants = per_value(odd, _from_iso, pa.timestamp("us", "UTC"))
        local = per_value(odd, _from_local_iso, pa.timestamp("us"))
        found_odd = pc.coalesce(_milliseconds(instants), self.localized(_milliseconds(local)))
        return pc.replace_with_mask(found, rest, found_odd)

    def _by_parts(self, texts: pa.Array) -> pa.Array:
        parts = pc.extract_regex(texts, pattern=_PARTS)
        given = {
            name: parts.field(name) for name in ("a", "b", "c", "hour", "minute", "second", "part", "half", "zone")
        }
        year_at, month_at, day_at = _ORDERS[self.name]
        fits = pc.fill_null(pc.greater_equal(pc.utf8_length(given[year_at]), 2), False)
        n_digits = _filled(pc.utf8_length(given[year_at]), 0)
        year, month, day = (_number(given[at]) for at in (year_at, month_at, day_at))
        ok = _null(parts) ^ True
        ok &= np.asarray(fits.to_numpy(zero_copy_only=False), bool)
        ok &= (n_digits == 4) | ((n_digits == 2) & (self.name != ISO))
        if self.name == ISO:
            ok &= _filled(pc.utf8_length(given["c"]), 0) <= 2
        else:
            ok &= _filled(pc.utf8_length(given["a"]), 0) <= 2
        year = np.where(n_digits == 2, year + np.where(year < 69, 2000, 1900), year)  # as strptime's %y has it
        ok &= (month >= 1) & (month <= 12) & (day >= 1) & (year >= 1)
        months = ((np.where(ok, year, 1970) - 1970) * 12 + np.where(ok, month, 1) - 1).astype("datetime64[M]")
        days = months.astype("datetime64[D]") + (np.where(ok, day, 1) - 1).astype("timedelta64[D]")
        ok &= days.astype("datetime64[M]") == months
        hour, minute, second = (_number(given[name]) for name in ("hour", "minute", "second"))
        half = np.asarray(pc.fill_null(pc.utf8_lower(given["half"]), "").to_numpy(zero_copy_only=False))
        ok &= (half == "") | ((hour >= 1) & (hour <= 12))
        hour = np.where(half == "", hour, hour % 12 + np.where(half == "p", 12, 0))
        ok &= (hour <= 23) & (minute <= 59) & (second <= 59)
        part = _number(pc.utf8_slice_codeunits(pc.utf8_rpad(given["part"], 3, "0"), 0, 3))
        millis = days.astype(np.int64) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + part
        offset = per_value(pc.fill_null(given["zone"], ""), _offset_ms, pa.int32()).to_numpy()
        local = self.localized(pa.array(np.where(ok, millis, 0)))
        there = np.where(offset == _NO_ZONE, np.asarray(local.to_numpy(zero_copy_only=False)), millis - offset)
        return pa.array(there, mask=~ok)

    def _by_pattern(self, texts: pa.Array) -> pa.Array:
        zoned = "%z" in self.name or "%Z" in self.name
        read = pd.to_datetime(pd.Series(texts.to_pylist(), dtype=object), format=self.name, errors="coerce", utc=zoned)
        if zoned:
            read = read.dt.tz_localize(None)
        millis = _milliseconds(pa.array(read.astype("datetime64[us]"), pa.timestamp("us")))
        return millis if zoned else self.localized(millis)


def checked_zone(zone: str | None) -> str | None:
    """The option `timezone`; InputError for one that is unknown."""
    if zone is None or zone.upper() in ("UTC", "GMT", "Z"):
        return None
    try:
        return zoneinfo.ZoneInfo(zone).key
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise InputError(f"option timezone={zone} is unknown; write it as Europe/Berlin, or UTC") from None


def latest_ms() -> int:
    """What is later lies in the future: now, and a day of tolerance for clocks and zones."""
    return int((dt.datetime.now(dt.UTC) + LATEST_AHEAD).timestamp() * 1000)


def _from_iso(text: str) -> dt.datetime | None:
    at = _any_iso(text)
    return at.astimezone(dt.UTC) if at is not None and at.tzinfo else None


def _from_local_iso(text: str) -> dt.datetime | None:
    at = _any_iso(text)
    return at if at is not None and not at.tzinfo else None


def _any_iso(text: str) -> dt.datetime | None:
    text = text.strip()
    for word in ("UTC", "GMT"):
        if text.upper().endswith(word):
            text = text[:-3].rstrip()
            text = text if "+" in text or text[-6:-5] == "-" else text + "+00:00"
    try:
        at = dt.datetime.fromisoformat(text)
        return at if 1 < at.year < 9999 else None
    except (ValueError, OverflowError):
        return None


def _offset_ms(zone: str) -> int:
    if not zone:
        return int(_NO_ZONE)
    if zone[0] not in "+-":
        return _ZONE_WORDS[zone.upper()] * 3_600_000
    digits = "".join(character for character in zone if character.isdigit()).ljust(4, "0")
    return (-1 if zone[0] == "-" else 1) * (int(digits[:2]) * 60 + int(digits[2:4])) * 60_000


def _milliseconds(times: pa.Array) -> pa.Array:
    return pc.floor_temporal(times, unit="millisecond").cast(pa.timestamp("ms", times.type.tz)).cast(pa.int64())


def _integers(values: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False))


def _number(texts: pa.Array) -> NDArray[np.int64]:
    filled = pc.fill_null(texts, "")
    return np.asarray(pc.if_else(pc.equal(filled, ""), "0", filled).cast(pa.int64()).to_numpy(zero_copy_only=False))


def _filled(values: pa.Array, by: int) -> NDArray[Any]:
    return np.asarray(pc.fill_null(values, by).to_numpy(zero_copy_only=False))


def _null(values: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(pc.is_null(values).to_numpy(zero_copy_only=False), dtype=bool)
