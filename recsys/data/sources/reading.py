"""Records out of CSV and Parquet files in blocks, and the checks that turn cells into values of a stream.

Nothing is lost on the way: each record of a file ends in the rows of a chunk, among its rejected, or among
those left out on purpose.
"""

from __future__ import annotations

import csv as csv_module
import datetime as dt
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from recsys.data.sources.base import STREAMS, Chunk, IdType, Rejected
from recsys.errors import InputError

BLOCK_BYTES = 16 << 20  # of a CSV file, per chunk
BLOCK_ROWS = 250_000  # of a Parquet file, per chunk
MAX_ID_LENGTH = 256  # characters; Postgres indexes the ids
MAX_TIMESTAMP_MS = 4_102_444_800_000  # the year 2100: beyond it, the unit is wrong

TimestampFormat = Literal["s", "ms", "iso"]


@dataclass(frozen=True)
class Block:
    """Successive records of a file, without those of a wrong number of columns, which are in `rejected`."""

    cells: dict[str, pa.Array]  # by column name: text for CSV, the file's types for Parquet
    lines: NDArray[np.int64]  # record number of each row
    end: int  # records of the file up to here
    rejected: list[Rejected]


@dataclass(frozen=True)
class CsvFormat:
    """How a delimited file is written. `names`: its columns when it has no header."""

    delimiter: str = ","
    names: tuple[str, ...] | None = None
    quoting: bool | None = None  # None: as the header is written
    latin1: bool = False  # cells that are not UTF-8 are ISO-8859-1; otherwise their rows are rejected


def is_parquet(path: Path) -> bool:
    return path.suffix in {".parquet", ".pq"}


def columns_of(path: Path, csv: CsvFormat = CsvFormat()) -> list[str]:
    """Column names of a file; InputError when it is missing, empty or cannot be read."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    if is_parquet(path):
        try:
            return list(pa.parquet.read_schema(path).names)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path}: not a Parquet file ({error})") from error
    names = list(csv.names) if csv.names else _header(path, csv)
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise InputError(f"{path}: column {twice[0]!r} occurs more than once in the header")
    return names


def require_columns(path: Path, needed: Sequence[str], csv: CsvFormat = CsvFormat()) -> list[str]:
    """Column names of a file; InputError naming those of `needed` that it lacks."""
    found = columns_of(path, csv)
    missing = [name for name in needed if name not in found]
    if missing:
        raise InputError(
            f"{path}: column {', '.join(map(repr, missing))} is missing; the file has {', '.join(map(repr, found))}"
        )
    return found


def read_blocks(
    path: Path,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    csv: CsvFormat = CsvFormat(),
) -> Iterator[Block]:
    """Blocks of the columns `needed` and those of `optional` that the file has; the format is told by its name.

    Raises InputError for a missing column, an empty file, or one that is not what its name says.
    """
    found = require_columns(path, needed, csv)
    wanted = list(dict.fromkeys([*needed, *(name for name in optional if name in found)]))
    blocks = _parquet_blocks(path, wanted) if is_parquet(path) else _csv_blocks(path, found, wanted, csv)
    any_record = False
    try:
        for block in blocks:
            any_record = True
            yield block
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as {'Parquet' if is_parquet(path) else 'CSV'}: {error}") from error
    if not any_record:
        raise InputError(f"{path}: the file holds no rows")


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """All lines of a small text file, packed (.gz) or not; bytes that are not of `encoding` are an InputError."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode(encoding).splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error


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
            texts = [None if cell is None else _decoded(cell) for cell in cells.to_pylist()]
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


def _decoded(cell: bytes) -> str | None:
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return None


def _shown(cell: Any) -> str:
    if cell is None:
        return ""
    return cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)


def _mask(rows: Any) -> NDArray[np.bool_]:
    if isinstance(rows, pa.Array | pa.ChunkedArray):
        return np.asarray(pc.fill_null(rows, False).to_numpy(zero_copy_only=False), dtype=bool)
    return np.asarray(rows, dtype=bool)


def _header(path: Path, csv: CsvFormat) -> list[str]:
    try:
        with pa.input_stream(str(path), compression="detect") as file:
            start = file.read(1 << 16)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    first = start.split(b"\n", 1)[0].strip(b"\r")
    if not first.strip():
        raise InputError(f"{path}: the file is empty, or its first line is")
    try:
        line = first.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file (its first line is not UTF-8)") from None
    if "\0" in line:
        raise InputError(f"{path}: not a text file (its first line holds NUL characters)")
    return [name.strip() for name in next(iter(csv_module.reader([line], delimiter=csv.delimiter)))]


def _csv_blocks(path: Path, found: list[str], wanted: list[str], csv: CsvFormat) -> Iterator[Block]:
    rejected: list[Rejected] = []

    def reject(row: Any) -> str:
        reason = f"{row.actual_columns} columns where {row.expected_columns} are expected"
        rejected.append(Rejected(int(row.number), reason, row.text))
        return "skip"

    quoting = csv.quoting if csv.quoting is not None else b'"' in _first_line(path)
    with pa.input_stream(str(path), compression="detect") as file:
        reader = pa.csv.open_csv(
            file,
            read_options=pa.csv.ReadOptions(
                use_threads=False,  # otherwise rejected rows have no number
                block_size=BLOCK_BYTES,
                column_names=found,
                skip_rows=0 if csv.names else 1,
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=csv.delimiter,
                quote_char='"' if quoting else False,
                newlines_in_values=quoting,
                invalid_row_handler=reject,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.binary()),
                include_columns=wanted,
                strings_can_be_null=False,
            ),
        )
        first_line = 1 if csv.names else 2
        n_good = 0
        n_reported = 0
        for batch in reader:
            numbers = np.sort(np.array([row.line for row in rejected], dtype=np.int64))
            # good rows that stand before each rejected one, counted from the file's start
            good_before = numbers - first_line - np.arange(len(numbers))
            index = np.arange(n_good, n_good + batch.num_rows)
            lines = index + first_line + np.searchsorted(good_before, index, side="right")
            n_good += batch.num_rows
            # rejected rows up to the last good one of this block, or all that are known when it closes the file
            n_now = int(np.searchsorted(good_before, n_good, side="left"))
            yield Block(
                {name: _latin1(batch[name]) if csv.latin1 else batch[name] for name in wanted},
                lines,
                n_good + n_now,
                rejected[n_reported:n_now],
            )
            n_reported = n_now
        if n_reported < len(rejected):
            empty = {name: pa.array([], pa.binary()) for name in wanted}
            yield Block(empty, np.empty(0, np.int64), n_good + len(rejected), rejected[n_reported:])


def _latin1(cells: pa.Array) -> pa.Array:
    try:
        return cells.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(cell) or cell.decode("latin-1") for cell in cells.to_pylist()], pa.string())


def _first_line(path: Path) -> bytes:
    with pa.input_stream(str(path), compression="detect") as file:
        return file.read(1 << 16).split(b"\n", 1)[0]


def _parquet_blocks(path: Path, wanted: list[str]) -> Iterator[Block]:
    end = 0
    with pa.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=wanted):
            lines = np.arange(end + 1, end + 1 + batch.num_rows)
            end += batch.num_rows
            yield Block({name: batch[name] for name in wanted}, lines, end, [])
