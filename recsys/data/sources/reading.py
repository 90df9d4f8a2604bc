"""Records out of CSV and Parquet files, in blocks that are the same at each reading."""

from __future__ import annotations

import codecs
import csv as csv_module
import gzip
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from recsys.data.sources.base import Rejected
from recsys.errors import InputError

BLOCK_BYTES = 16 << 20  # of a CSV file, per chunk
BLOCK_ROWS = 250_000  # of a Parquet file, per chunk
_CONTROLS = bytes(range(8))
MAX_TEXT = 10_000  # characters of a rejected row that are kept
MAX_WRONG_FIRST = 100_000  # rows of a wrong number of columns before the first good one


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
    is_utf8, nul_as = _looked_through(path)
    as_latin1 = not is_utf8  # every byte is a character then, and cells are turned back into their bytes
    wrong = _WrongRows(first_line=1 if csv.names else 2, as_latin1=as_latin1, nul_as=nul_as)
    with pa.input_stream(str(path), compression="detect") as file:
        input_ = pa.PythonFile(_WithoutNul(file, nul_as), mode="r") if nul_as else file
        reader = _csv_reader(path, input_, found, wanted, csv, wrong, as_latin1)
        n_good = 0
        for batch in reader:
            if not batch.num_rows:
                continue
            lines = wrong.lines_of_good(n_good, batch.num_rows)
            n_good += batch.num_rows
            rejected = wrong.take_before(n_good)
            cells = {name: _cells(_with_nul(batch[name], nul_as), as_latin1, csv.latin1) for name in wanted}
            yield Block(cells, lines, n_good + wrong.n_taken, rejected)
        if rejected := wrong.take_before(None):
            empty = {name: pa.array([], pa.binary()) for name in wanted}
            yield Block(empty, np.empty(0, np.int64), n_good + wrong.n_taken, rejected)


def _csv_reader(
    path: Path, file: Any, found: list[str], wanted: list[str], csv: CsvFormat, wrong: _WrongRows, as_latin1: bool
) -> Any:
    quoting = csv.quoting if csv.quoting is not None else b'"' in _first_line(path)
    return pa.csv.open_csv(
        file,
        read_options=pa.csv.ReadOptions(
            use_threads=False,  # otherwise rejected rows have no number
            block_size=BLOCK_BYTES,
            column_names=found,
            skip_rows=0 if csv.names else 1,
            encoding="latin1" if as_latin1 else "utf8",
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=csv.delimiter,
            quote_char='"' if quoting else False,
            newlines_in_values=quoting,
            invalid_row_handler=wrong.add,
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.binary()),
            include_columns=wanted,
            strings_can_be_null=False,
        ),
    )


class _WrongRows:
    """Rows of a wrong number of columns. The reader reports them ahead of the blocks that they belong to."""

    def __init__(self, first_line: int, as_latin1: bool, nul_as: bytes) -> None:
        self._first_line = first_line
        self._nul_as = nul_as.decode()
        self._as_latin1 = as_latin1
        self._waiting: list[Rejected] = []
        self._good_before: list[int] = []  # of each, taken or not: good rows that stand before it in the file
        self._any_good = False
        self.n_taken = 0

    def add(self, row: Any) -> str:
        text = row.text.replace(self._nul_as, "\0") if self._nul_as else row.text
        text = text.encode("latin-1").decode(errors="replace") if self._as_latin1 else text
        reason = f"{row.actual_columns} columns where {row.expected_columns} are expected"
        self._good_before.append(int(row.number) - self._first_line - len(self._good_before))
        self._waiting.append(Rejected(int(row.number), reason, text[:MAX_TEXT]))
        if not self._any_good and len(self._waiting) > MAX_WRONG_FIRST:
            return "error"  # another format: the reader stops, and names this row
        return "skip"

    def lines_of_good(self, first: int, n: int) -> NDArray[np.int64]:
        """Lines of the good rows `first` … `first + n - 1`, counted from 0."""
        self._any_good = True
        index = np.arange(first, first + n)
        before = np.searchsorted(np.array(self._good_before, dtype=np.int64), index, side="right")
        return index + self._first_line + before

    def take_before(self, n_good: int | None) -> list[Rejected]:
        """Those not yet taken that stand before the good row `n_good`, or before the end."""
        n_all = len(self._good_before) if n_good is None else bisect_left(self._good_before, n_good)
        taken = self._waiting[: n_all - self.n_taken]
        self._waiting = self._waiting[n_all - self.n_taken :]
        self.n_taken = n_all
        return taken


def _cells(cells: pa.Array, as_latin1: bool, accept_latin1: bool) -> pa.Array:
    """Cells as text where all are UTF-8, else as the bytes of the file."""
    if not as_latin1:
        return cells
    raw = [cell.decode().encode("latin-1") for cell in cells.to_pylist()]
    if accept_latin1:
        return pa.array([decoded(cell) or cell.decode("latin-1") for cell in raw], pa.string())
    return pa.array(raw, pa.binary())


def _looked_through(path: Path) -> tuple[bool, bytes]:
    """Whether the file is UTF-8, and the byte to read in the place of NUL: one that it does not hold, b"" where it
    holds no NUL. InputError where it holds all control characters."""
    decoder, is_utf8, held = codecs.getincrementaldecoder("utf-8")(), True, set[int]()
    with pa.input_stream(str(path), compression="detect") as file:
        while piece := file.read(1 << 22):
            held |= {byte for byte in _CONTROLS if byte in piece}
            try:
                decoder.decode(piece if is_utf8 else b"")
            except UnicodeDecodeError:
                is_utf8 = False
        try:
            decoder.decode(b"", final=is_utf8)
        except UnicodeDecodeError:
            is_utf8 = False
    if 0 not in held:
        return is_utf8, b""
    free = next((byte for byte in _CONTROLS if byte not in held), None)
    if free is None:
        raise InputError(f"{path}: not a text file (it holds NUL and the control characters 1 to 7)")
    return is_utf8, bytes([free])


class _WithoutNul:
    """A file to read from, with another byte in the place of NUL: the CSV reader passes over the end of a line that
    follows a NUL closely."""

    def __init__(self, file: Any, nul_as: bytes) -> None:
        self._file, self._nul_as = file, nul_as
        self.closed = False

    def read(self, n: int = -1) -> bytes:
        data: bytes = self._file.read(n)
        return data.replace(b"\0", self._nul_as)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def _with_nul(cells: pa.Array, nul_as: bytes) -> pa.Array:
    """The cells as they stand in the file."""
    if not nul_as:
        return cells
    return pa.array([cell.replace(nul_as, b"\0") for cell in cells.to_pylist()], pa.binary())


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


def decoded(cell: bytes) -> str | None:
    """A cell as text, None when it is not UTF-8."""
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return None
