"""The checks that turn the cells of a block into values of a stream.

Nothing is lost on the way: each record of a file ends in the rows of a chunk, among its rejected, or among
those left out on purpose. A cell that is not needed and cannot be read costs itself alone: it is left empty and
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.flags import flag
from recsys.data.sources.base import STREAMS, Chunk, Rejected
from recsys.data.sources.day_times import DAY_MS, joined, milliseconds
from recsys.data.sources.numbers import Decimal, per_value, read_numbers
from recsys.data.sources.reading import Block, decoded
from recsys.data.sources.times import SINCE_MS, TimeFormat, latest_ms
from recsys.data.sources.words import NOTHING
from recsys.ids import BLANKS, INTEGER_ID_PATTERN, MAX_DIGITS, MAX_ID_LENGTH, WHOLE_FRACTION, IdType

MAX_UNKNOWN_TYPES: Final = 20  # of a block, that are named
_EXACT: Final = 2**53  # whole numbers below are exact as floats
_EXACT_SINGLE: Final = 2**24  # as floats of 32 bits
_FRACTION: Final = f"{WHOLE_FRACTION}$"
_WHOLE: Final = f"^-?[0-9]+{_FRACTION}"
_LONG: Final = rf"^-?0*[1-9][0-9]{{{MAX_DIGITS},}}{_FRACTION}"
_PLAIN: Final = INTEGER_ID_PATTERN.replace("$", _FRACTION)
_SCIENTIFIC: Final = r"^[+-]?[0-9]+(?:[.,][0-9]+)?[eE][+-]?[0-9]+$"
_ID_OPTION: Final = {
    column: f" (option {column}_id_type=string takes any text)" for column in ("user", "item", "category")
}
MAX_WORDS: Final = 5  # of a block, that are no word for yes or no and are named
AVAILABLE_UNREAD: Final = "no word for yes or no: the item counts as unavailable"


class Checked:
    """Values of one block, and the rows that are bad or left out: the first reason counts."""

    def __init__(
        self, block: Block, where: Mapping[str, str] | None = None, null_values: Collection[str] = frozenset()
    ) -> None:
        """`where`: the file's column name by the name used here, when they differ. `null_values`: texts that stand
        for an empty cell."""
        self.block = block
        self.n = len(block.lines)
        self.reason = np.full(self.n, "", dtype=object)
        self.keep = np.ones(self.n, dtype=bool)
        self.left_out: Counter[str] = Counter()
        self._where = dict(where or {})
        self._null_values = pa.array(sorted(null_values), pa.string())
        self._emptied: list[tuple[str, NDArray[np.bool_]]] = []

    def cells(self, column: str) -> pa.Array | None:
        """The raw cells of a column, None when the file has no such column."""
        return self.block.cells.get(self._where.get(column, column))

    def is_empty(self, column: str) -> pa.Array:
        """Which cells hold nothing but blanks, or NaN."""
        cells = self.cells(column)
        if cells is None:
            return pa.array([True] * self.n)
        if pa.types.is_string(cells.type) or pa.types.is_binary(cells.type):
            texts = pc.ascii_trim_whitespace(cells) if pa.types.is_string(cells.type) else cells
            return pc.fill_null(pc.equal(pc.binary_length(texts), 0), True)
        return pc.is_null(cells, nan_is_null=True)

    def reject(self, bad: Any, reason: str) -> None:
        """Send the rows of a mask to quarantine."""
        mask = _mask(bad) & self.keep
        if mask.any():
            self.reason[mask] = reason
            self.keep &= ~mask

    def leave_out(self, rows: Any, reason: str) -> None:
        """Leave the rows of a mask out on purpose, counted under `reason`; zero is counted too."""
        mask = _mask(rows) & self.keep
        self.left_out[reason] += int(mask.sum())
        self.keep &= ~mask

    def empty(self, cells: Any, reason: str) -> None:
        """Count cells that are left empty; of rows that are loaded."""
        mask = _mask(cells)
        if mask.any():
            self._emptied.append((reason, mask))

    def text(self, column: str, *, required: bool = True, max_length: int | None = None) -> pa.Array:
        """A column as text, null where empty or bad. Such rows are rejected when it is `required`; otherwise bad cells
        are counted."""
        name, texts = self._where.get(column, column), self._texts(column, required)
        if max_length is not None:
            too_long = pc.greater(pc.utf8_length(texts), max_length)
            texts = self._without(texts, too_long, f"{name} is longer than {max_length} characters", required)
        if required:
            self.reject(pc.is_null(texts), f"{name} is empty")
        return texts

    def identifier(self, column: str, id_type: IdType, *, required: bool = True) -> pa.Array:
        """A column of ids as text, without blanks at their ends (see `recsys.ids`); null where bad or empty.

        Whole numbers written as floats (`12.0`) are that number where ids are integers.
        """
        name, option = self._where.get(column, column), _ID_OPTION.get(column, "")
        texts, cells = self._texts(column, required), self.cells(column)
        if cells is not None and pa.types.is_floating(cells.type):
            exact = _EXACT if pa.types.is_float64(cells.type) else _EXACT_SINGLE
            lossy = pc.greater_equal(pc.abs(cells), pa.scalar(exact, cells.type))
            reason = f"{name} is a float so large that digits may be lost; write the column as text or whole numbers"
            texts = self._without(texts, lossy, reason, required)
        return self.identifiers_of(texts, id_type, name, option, required=required)

    def identifiers_of(
        self, texts: pa.Array, id_type: IdType, name: str, option: str = "", *, required: bool = True
    ) -> pa.Array:
        """As `identifier`, of texts. `option`: a hint for who has longer or other ids."""
        ids = _trimmed(texts)
        if id_type == "string":
            too_long = pc.greater(pc.utf8_length(ids), MAX_ID_LENGTH)
            ids = self._without(ids, too_long, f"{name} is longer than {MAX_ID_LENGTH} characters", required)
        else:
            ids = self._whole(ids, name, option, required)
        if required:
            self.reject(pc.is_null(ids), f"{name} is empty")
        return ids

    def _texts(self, column: str, required: bool) -> pa.Array:
        name, cells = self._where.get(column, column), self.cells(column)
        if cells is None:
            return pa.nulls(self.n, pa.string())
        texts = self._as_text(cells, name, required)
        texts = pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.string()), texts)
        if len(self._null_values):
            nothing = pc.is_in(pc.utf8_trim_whitespace(texts), value_set=self._null_values)
            texts = pc.if_else(nothing, pa.scalar(None, pa.string()), texts)
        return self._without(texts, pc.match_substring(texts, "\0"), f"{name} holds a NUL character", required)

    def _whole(self, ids: pa.Array, name: str, option: str, required: bool) -> pa.Array:
        if pc.all(pc.match_substring_regex(ids, INTEGER_ID_PATTERN)).as_py() is not False:
            return ids
        ids = self._without(ids, is_nothing(ids), f"{name} is a word for nothing", required)
        for pattern, is_bad, reason in (
            (_SCIENTIFIC, True, "is written with an exponent, so that digits may be lost"),
            (_WHOLE, False, "is no whole number"),
            (_LONG, True, f"has more than {MAX_DIGITS} digits"),
            (_PLAIN, False, "begins with a zero or is -0"),
        ):
            bad = pc.equal(pc.match_substring_regex(ids, pattern), is_bad)
            ids = self._without(ids, bad, f"{name} {reason}{option}", required)
        return pc.replace_substring_regex(ids, "[.,]0*$", "")

    def number(self, column: str, *, required: bool = True, decimal: Decimal | None = None) -> pa.Array:
        """A column of finite numbers, float64; null where bad or empty. `decimal`: the column's decimal sign."""
        name = self._where.get(column, column)
        cells = self.cells(column)
        if cells is None:
            return pa.nulls(self.n, pa.float64())
        if pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
            numbers = cells.cast(pa.float64(), safe=False)
            if not required:  # NaN is how floating columns say "none"
                numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        else:
            texts = self.text(column, required=required)
            if not required:
                texts = pc.if_else(is_nothing(texts), pa.scalar(None, pa.string()), texts)
            numbers = read_numbers(texts, decimal)
            unread = pc.and_(pc.is_valid(texts), pc.is_null(numbers))
            hint = "" if decimal else ", or the decimal sign is not known (option decimal)"
            numbers = self._without(numbers, unread, f"{name} is no number{hint}", required)
        infinite = pc.invert(pc.is_finite(numbers))
        numbers = self._without(numbers, infinite, f"{name} is not finite", required)
        if required:
            self.reject(pc.is_null(numbers), f"{name} is empty")
        return numbers

    def flag(self, column: str) -> pa.Array:
        """A column of words for yes and no as `1` and `0`, null where empty; what is neither is no, and counted."""
        cells = self.cells(column)
        if cells is not None and pa.types.is_boolean(cells.type):
            return cells.cast(pa.int8()).cast(pa.string())
        texts = self.text(column, required=False)
        return self.flags_of(texts)

    def flags_of(self, texts: pa.Array) -> pa.Array:
        """As `flag`, of texts."""
        texts = _trimmed(texts)
        flags = per_value(texts, flag, pa.bool_())
        unread = pc.and_(pc.is_valid(texts), pc.is_null(flags))
        for word in pc.unique(texts.filter(unread)).to_pylist()[:MAX_WORDS]:
            self.empty(pc.equal(texts, word), f"available {word[:40]!r} is {AVAILABLE_UNREAD}")
            unread = pc.and_(unread, pc.not_equal(texts, word))
        self.empty(unread, f"available is {AVAILABLE_UNREAD}")
        flags = pc.if_else(pc.is_valid(texts), pc.fill_null(flags, False), pa.scalar(None, pa.bool_()))
        return flags.cast(pa.int8()).cast(pa.string())

    def timestamp(self, column: str, written: TimeFormat) -> pa.Array:
        """A column of instants as milliseconds since the epoch, int64. What lies in the future is bad, on the first day
        of 1970 (no time, but a clock's zero) or before, and what a number puts before 1980. `time`, where there is such
        a column, is the time of the day."""
        name = self._where.get(column, column)
        since = SINCE_MS if written.is_number else DAY_MS
        if written.of_day is not None:
            day = self._instants(column, replace(written, zone=None))
            millis = written.localized(pc.add(day, self._of_day(written.of_day)))
        else:
            millis = self._instants(column, written)
        self.reject(pc.is_null(millis), f"{name} is no time as timestamp_format={written.name} reads it")
        self.reject(
            pc.less(millis, since), f"{name} lies before {'1980' if since > DAY_MS else '1970-01-02'}: wrong unit?"
        )
        self.reject(pc.greater(millis, latest_ms()), f"{name} lies more than a day in the future: wrong unit?")
        return millis

    def _instants(self, column: str, written: TimeFormat) -> pa.Array:
        name, cells = self._where.get(column, column), self.cells(column)
        is_joined = "time" in self._where and written.of_day is None
        if cells is not None and not is_joined and is_instant(cells.type):
            zone = getattr(cells.type, "tz", None)
            millis = cells.cast(pa.timestamp("ms", zone), safe=False).cast(pa.int64())
            self.reject(pc.is_null(millis), f"{name} is empty")
            return millis if zone else written.localized(millis)
        if cells is not None and not is_joined and written.is_number and is_number(cells.type):
            self.reject(pc.is_null(cells, nan_is_null=True), f"{name} is empty")
            return written.numbers(cells)
        texts = self.text(column)
        return written.texts(joined(texts, self.text("time")) if is_joined else texts)

    def _of_day(self, unit: str) -> pa.Array:
        millis = milliseconds(self.text("time"), unit)
        self.reject(pc.is_null(millis), f"{self._where['time']} is no time of a day in {unit}")
        return pc.fill_null(millis, 0)

    def chunk(self, stream: str, columns: Mapping[str, Any]) -> Chunk:
        """The good rows as a chunk of a stream; columns that are not given are null."""
        schema = STREAMS[stream]
        keep = pa.array(self.keep)
        arrays = []
        for item in schema:
            values = columns.get(item.name)
            if values is None:
                values = pa.nulls(self.n, item.type)
            arrays.append(values.cast(item.type) if self.keep.all() else values.filter(keep).cast(item.type))
        rejected = [*self.block.rejected, *self._rejected()]
        rejected.sort(key=lambda row: row.line)
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        return Chunk(batch, self.block.end, rejected, dict(self.left_out), self.emptied, lines=self.block.lines_read)

    @property
    def emptied(self) -> dict[str, int]:
        """Cells of the good rows that were left empty, by reason."""
        counted: Counter[str] = Counter()
        for reason, mask in self._emptied:
            counted[reason] += int((mask & self.keep).sum())
        return dict(+counted)

    def _without(self, values: pa.Array, bad: Any, reason: str, required: bool) -> pa.Array:
        """`values` with null where bad; such rows are rejected when the column is needed, else the cell is counted."""
        bad = pc.fill_null(bad, False)
        if not pc.any(bad).as_py():
            return values
        if required:
            self.reject(bad, reason)
        else:
            self.empty(bad, reason)
        return pc.if_else(bad, pa.scalar(None, values.type), values)

    def _rejected(self) -> list[Rejected]:
        rows = np.flatnonzero(self.reason != "")
        if not len(rows):
            return []
        cells = [_as_shown(column.take(pa.array(rows))) for column in self.block.cells.values()]
        return [
            Rejected(int(self.block.lines[row]), str(self.reason[row]), ",".join(_shown(cell) for cell in values))
            for row, values in zip(rows, zip(*cells, strict=True), strict=True)
        ]

    def _as_text(self, cells: pa.Array, name: str, required: bool) -> pa.Array:
        if pa.types.is_dictionary(cells.type):
            cells = cells.dictionary_decode()
        if pa.types.is_string(cells.type):
            return cells
        if pa.types.is_floating(cells.type):
            return _float_texts(cells)
        if not pa.types.is_binary(cells.type):
            return cells.cast(pa.string())
        try:
            return cells.cast(pa.string())
        except pa.ArrowInvalid:  # some cell is not UTF-8
            texts = [None if cell is None else decoded(cell) for cell in cells.to_pylist()]
            bad = pc.and_(pc.is_valid(cells), pa.array([text is None for text in texts]))
            return self._without(pa.array(texts, pa.string()), bad, f"{name} is not UTF-8", required)


_NOTHING = pa.array(sorted(NOTHING))


def is_nothing(texts: pa.Array) -> pa.Array:
    """Which texts are words that stand for nothing."""
    return pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(texts)), value_set=_NOTHING)


def as_declared(event: pa.Array, names: Collection[str]) -> pa.Array:
    """Event types without blanks at their ends; one of `names` where only the case tells it from that one."""
    event = _trimmed(event)
    by_case: dict[str, list[str]] = {}
    for name in names:
        by_case.setdefault(name.casefold(), []).append(name)

    def declared(text: str) -> str:
        alike = by_case.get(text.casefold(), [])
        return alike[0] if len(alike) == 1 else text

    return per_value(event, lambda text: None if text is None else declared(text), pa.string())


def reject_unweighed(checked: Checked, event: pa.Array, weights: Mapping[str, float], fix: str) -> None:
    """Send rows of event types without a weight to quarantine; the reason names the type, and what gives it one."""
    strays = pc.and_(pc.is_valid(event), pc.invert(pc.is_in(event, value_set=pa.array(list(weights), pa.string()))))
    for name in pc.unique(event.filter(strays)).to_pylist()[:MAX_UNKNOWN_TYPES]:
        checked.reject(pc.equal(event, name), f"event {name[:100]!r} has no weight ({fix})")
    checked.reject(strays, f"event has no weight ({fix})")


def is_number(kind: pa.DataType) -> bool:
    """Integers and floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_instant(kind: pa.DataType) -> bool:
    """Days and instants."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _trimmed(texts: pa.Array) -> pa.Array:
    texts = pc.utf8_trim(texts, characters=BLANKS)
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.string()), texts)


def _float_texts(cells: pa.Array) -> pa.Array:
    """Floats as text: whole numbers without a fraction, cell by cell; NaN is null."""
    cells = cells.cast(pa.float64())
    cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, pa.float64()), cells)
    whole = pc.and_(pc.equal(pc.floor(cells), cells), pc.less(pc.abs(cells), float(_EXACT)))
    plain = pc.if_else(whole, cells, pa.scalar(None, pa.float64())).cast(pa.int64()).cast(pa.string())
    return pc.coalesce(plain, cells.cast(pa.string()))


def _as_shown(cells: pa.Array) -> list[Any]:
    try:
        return list(cells.to_pylist())
    except (OverflowError, ValueError):  # instants beyond those that Python knows
        return list(cells.cast(pa.int64()).to_pylist())


def _shown(cell: Any) -> str:
    if cell is None:
        return ""
    return cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)


def _mask(rows: Any) -> NDArray[np.bool_]:
    if isinstance(rows, pa.Array | pa.ChunkedArray):
        return np.asarray(pc.fill_null(rows, False).to_numpy(zero_copy_only=False), dtype=bool)
    return np.asarray(rows, dtype=bool)
