"""The checks that turn the cells of a block into values of a stream.

Nothing is lost on the way: each record of a file ends in the rows of a chunk, among its rejected, or among
those left out on purpose.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.sources.base import STREAMS, Chunk, Rejected
from recsys.data.sources.reading import Block, decoded
from recsys.ids import IdType

MAX_ID_LENGTH = 256  # characters; Postgres indexes the ids
MAX_TIMESTAMP_MS = 4_102_444_800_000  # the year 2100: beyond it, the unit is wrong

TimestampFormat = Literal["s", "ms", "iso"]


class Checked:
    """Values of one block, and the rows that are bad or left out: the first reason counts."""

    def __init__(self, block: Block, where: Mapping[str, str] | None = None) -> None:
        """`where`: the file's column name by the name used here, when they differ."""
        self.block = block
        self.n = len(block.lines)
        self.reason = np.full(self.n, "", dtype=object)
        self.keep = np.ones(self.n, dtype=bool)
        self.left_out: Counter[str] = Counter()
        self._where = dict(where or {})

    def cells(self, column: str) -> pa.Array | None:
        """The raw cells of a column, None when the file has no such column."""
        return self.block.cells.get(self._where.get(column, column))

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

    def text(self, column: str, *, required: bool = True, max_length: int | None = None) -> pa.Array:
        """A column as text; empty becomes null, and is bad when `required`."""
        name = self._where.get(column, column)
        cells = self.cells(column)
        if cells is None:
            return pa.nulls(self.n, pa.string())
        texts = self._as_text(cells, name)
        texts = pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.string()), texts)
        self.reject(pc.match_substring(texts, "\0"), f"{name} holds a NUL character")
        if max_length is not None:
            self.reject(pc.greater(pc.utf8_length(texts), max_length), f"{name} is longer than {max_length} characters")
        if required:
            self.reject(pc.is_null(texts), f"{name} is empty")
        return texts

    def identifier(self, column: str, id_type: IdType, *, required: bool = True) -> pa.Array:
        """A column of ids as text; of type `integer` they are whole numbers, written without leading zeros."""
        if id_type == "string":
            return self.text(column, required=required, max_length=MAX_ID_LENGTH)
        numbers = self.integer(column, required=required)
        return numbers.cast(pa.string())

    def integer(self, column: str, *, required: bool = True) -> pa.Array:
        """A column of whole numbers within ±10^18, int64; null where bad or empty."""
        name = self._where.get(column, column)
        cells = self.cells(column)
        if cells is None:
            return pa.nulls(self.n, pa.int64())
        if pa.types.is_integer(cells.type):
            numbers = cells.cast(pa.int64())
        elif pa.types.is_floating(cells.type):  # whole numbers with gaps, as pandas writes them
            whole = pc.and_kleene(pc.is_finite(cells), pc.equal(pc.floor(cells), cells))
            self.reject(pc.and_(pc.is_valid(cells), pc.invert(pc.fill_null(whole, True))), f"{name} is no whole number")
            numbers = pc.if_else(whole, cells, pa.scalar(None, cells.type)).cast(pa.int64())
        else:
            texts = self.text(column, required=required)
            good = pc.match_substring_regex(texts, r"^-?[0-9]{1,18}$")
            self.reject(pc.invert(pc.fill_null(good, True)), f"{name} is no whole number")
            numbers = pc.if_else(good, texts, pa.scalar(None, pa.string())).cast(pa.int64())
        if required:
            self.reject(pc.is_null(numbers), f"{name} is empty")
        return numbers

    def number(self, column: str, *, required: bool = True) -> pa.Array:
        """A column of finite numbers, float64; null where bad or empty."""
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
            numbers = _parsed(texts, pa.float64(), _float)
            self.reject(pc.and_(pc.is_valid(texts), pc.is_null(numbers)), f"{name} is no number")
        self.reject(pc.invert(pc.fill_null(pc.is_finite(numbers), True)), f"{name} is not finite")
        if required:
            self.reject(pc.is_null(numbers), f"{name} is empty")
        return numbers

    def timestamp(self, column: str, unit: TimestampFormat) -> pa.Array:
        """A column of instants as milliseconds since the epoch, int64; times without a zone are UTC."""
        name = self._where.get(column, column)
        cells = self.cells(column)
        if cells is not None and (pa.types.is_timestamp(cells.type) or pa.types.is_date(cells.type)):
            millis = cells.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
            self.reject(pc.is_null(millis), f"{name} is empty")
        elif unit == "iso":
            texts = self.text(column)
            millis = iso_milliseconds(texts)
            self.reject(pc.is_null(millis), f"{name} is no ISO date and time")
        elif unit == "s":  # seconds may have a fraction
            millis = pc.round(pc.multiply(self.number(column), 1000.0))
            out = pc.greater(pc.abs(millis), 1e17)
            millis = pc.if_else(out, pa.scalar(float(MAX_TIMESTAMP_MS + 1)), millis).cast(pa.int64(), safe=False)
        else:
            millis = self.integer(column)
        out_of_range = pc.or_(pc.less(millis, 0), pc.greater(millis, MAX_TIMESTAMP_MS))
        self.reject(out_of_range, f"{name} lies outside the years 1970 to 2100: wrong unit?")
        return millis

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
        return Chunk(pa.RecordBatch.from_arrays(arrays, schema=schema), self.block.end, rejected, dict(self.left_out))

    def _rejected(self) -> list[Rejected]:
        rows = np.flatnonzero(self.reason != "")
        if not len(rows):
            return []
        cells = [column.take(pa.array(rows)).to_pylist() for column in self.block.cells.values()]
        return [
            Rejected(int(self.block.lines[row]), str(self.reason[row]), ",".join(_shown(cell) for cell in values))
            for row, values in zip(rows, zip(*cells, strict=True), strict=True)
        ]

    def _as_text(self, cells: pa.Array, name: str) -> pa.Array:
        if pa.types.is_dictionary(cells.type):
            cells = cells.dictionary_decode()
        if pa.types.is_string(cells.type):
            return cells
        if pa.types.is_floating(cells.type):
            cells = _whole_where_possible(cells)
        if not pa.types.is_binary(cells.type):
            return cells.cast(pa.string())
        try:
            return cells.cast(pa.string())
        except pa.ArrowInvalid:  # some cell is not UTF-8
            texts = [None if cell is None else decoded(cell) for cell in cells.to_pylist()]
            self.reject([text is None for text in texts], f"{name} is not UTF-8")
            return pa.array(texts, pa.string())


def iso_milliseconds(texts: pa.Array) -> pa.Array:
    """ISO 8601 dates and times as milliseconds since the epoch, null where they are none; no zone means UTC."""
    return _parsed(texts, pa.timestamp("ms"), _from_iso).cast(pa.int64())


def _parsed(texts: pa.Array, to: pa.DataType, one: Any) -> pa.Array:
    """Cast text, all at once if every cell can be; else cell by cell with `one`, null where that gives None."""
    try:
        return texts.cast(to)
    except pa.ArrowInvalid:
        return pa.array([None if text is None else one(text) for text in texts.to_pylist()], to)


def _float(text: str) -> float | None:
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return None


def _from_iso(text: str) -> dt.datetime | None:
    try:
        instant = dt.datetime.fromisoformat(text.strip())
        return instant.astimezone(dt.UTC).replace(tzinfo=None) if instant.tzinfo else instant
    except (ValueError, OverflowError):
        return None


def _whole_where_possible(cells: pa.Array) -> pa.Array:
    try:
        return cells.cast(pa.int64())
    except pa.ArrowInvalid:
        return cells


def _shown(cell: Any) -> str:
    if cell is None:
        return ""
    return cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)


def _mask(rows: Any) -> NDArray[np.bool_]:
    if isinstance(rows, pa.Array | pa.ChunkedArray):
        return np.asarray(pc.fill_null(rows, False).to_numpy(zero_copy_only=False), dtype=bool)
    return np.asarray(rows, dtype=bool)
