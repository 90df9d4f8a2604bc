"""Records out of any file that is supported, in blocks that are the same at each reading.

`opening` unpacks, `texts` decodes, `formats` tells how a text is written, `splitting` says what a record is, `parquet`
reads the other kind. Here they are put together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from recsys.data.sources import json_lines, parquet
from recsys.data.sources.base import STREAMS, Chunk, Lines, Rejected
from recsys.data.sources.formats import CsvFormat, TextForm, forms_of, missing_columns
from recsys.data.sources.opening import READ_ERRORS, is_parquet, members
from recsys.data.sources.splitting import MAX_TEXT, Split, Splitter
from recsys.data.sources.texts import MAX_LINE_BYTES, pieces
from recsys.errors import InputError, RecsysError

__all__ = [
    "DETECTED",
    "Block",
    "CsvFormat",
    "columns_of",
    "decoded",
    "filled_files",
    "has_rows",
    "is_empty",
    "is_parquet",
    "no_rows",
    "parquet_types",
    "read_blocks",
    "read_lines",
    "shown_formats",
    "values_of",
]

BLOCK_BYTES = 16 << 20  # of a text, per chunk
BLOCK_ROWS = 250_000  # of a Parquet file, per chunk
PARQUET_BLOCK_BYTES = 64 << 20
DETECTED = CsvFormat()  # all is detected in the file
MAX_WRONG_FIRST = 100_000  # lines that are no record before the first good one


@dataclass(frozen=True)
class Block:
    """Successive records of a file, without the lines that are no record, which are in `rejected`."""

    cells: dict[str, pa.Array]  # by column name: bytes for texts, for Parquet as `parquet.batches` says
    # Of each row, the line where it begins (counted through all files of a zip archive); of Parquet the row's number.
    lines: NDArray[np.int64]
    end: int  # records of the file up to here
    rejected: list[Rejected]
    lines_read: Lines | None = None  # None: made in memory, not read line by line

    @property
    def n_records(self) -> int:
        """Rows and rejected ones."""
        return len(self.lines) + len(self.rejected)


def columns_of(path: Path, csv: CsvFormat = DETECTED) -> list[str]:
    """Column names of a file; InputError when it is missing, empty or cannot be read."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    if is_parquet(path):
        return list(parquet.schema_of(path).names)
    forms = [form for form in forms_of(path, csv) if form.columns]
    if not forms:
        raise InputError(f"{path}: the file is empty: it holds no line but blank ones")
    if len(forms) == 1 and not forms[0].is_json:
        return list(forms[0].columns)
    return list(
        dict.fromkeys(
            name
            for form in forms
            for name in (json_lines.keys(form, None, BLOCK_BYTES) if form.is_json else form.columns)
        )
    )


def values_of(path: Path, csv: CsvFormat = DETECTED) -> list[str]:
    """As `columns_of`, with the paths to single values (`user.id`) in place of the JSON objects that hold them."""
    names = columns_of(path, csv)
    forms = [] if is_parquet(path) else forms_of(path, csv)
    paths = [name for form in forms if form.is_json for name in json_lines.nested(form)]
    inside = {name.split(".")[0] for name in paths}
    return [*(name for name in names if name not in inside), *dict.fromkeys(paths)]


def require_columns(path: Path, needed: Sequence[str], csv: CsvFormat = DETECTED) -> list[str]:
    """Column names of a file; InputError naming those of `needed` that it lacks or has twice."""
    if not path.is_file() or path.stat().st_size == 0 or is_parquet(path):
        found = columns_of(path, csv)
        _check(str(path), needed, found, None)
        return found
    forms = [form for form in forms_of(path, csv) if form.columns]
    if not forms:
        return columns_of(path, csv)
    for form in forms:
        _check(
            form.member.shown,
            needed,
            json_lines.keys(form, set(needed), BLOCK_BYTES) if form.is_json else form.columns,
            form,
        )
    return list(dict.fromkeys(name for form in forms for name in form.columns)) if needed else columns_of(path, csv)


def _check(shown: str, needed: Sequence[str], found: Sequence[str], form: TextForm | None) -> None:
    missing = [name for name in dict.fromkeys(needed) if name not in found]
    if missing:
        raise missing_columns(shown, missing, found, form)
    twice = [name for name, count in Counter(found).items() if count > 1 and name in needed]
    if twice:
        raise InputError(f"{shown}: column {twice[0]!r} occurs more than once in the header")


def filled_files(files: Sequence[Path], csv: CsvFormat, notes: list[str], *, needed: bool = True) -> list[Path]:
    """The files that hold rows; the others are told in `notes`. InputError where none does although one is `needed`."""
    filled = [path for path in files if has_rows(path, csv)]
    if needed and not filled:
        if all(is_empty(path, csv) for path in files):
            raise InputError(f"{files[0]}: the file is empty")
        raise InputError(f"{files[0]}: the file holds no rows")
    empty = [path for path in files if path not in filled]
    if empty:
        names = ", ".join(path.name for path in empty[:5]) + (" and others" if len(empty) > 5 else "")
        notes.append(f"{len(empty)} of {len(files)} files hold no rows: {names}")
    return filled


def has_rows(path: Path, csv: CsvFormat) -> bool:
    """Whether a file holds more than a header and blank lines; InputError where it cannot be read."""
    if path.is_file() and path.stat().st_size == 0:
        return False
    return parquet.n_rows(path) > 0 if is_parquet(path) else any(form.has_rows for form in forms_of(path, csv))


def is_empty(path: Path, csv: CsvFormat) -> bool:
    """Whether a file has not even a header."""
    if path.stat().st_size == 0:
        return True
    return not is_parquet(path) and not any(form.columns for form in forms_of(path, csv))


def read_blocks(
    path: Path,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    csv: CsvFormat = DETECTED,
) -> Iterator[Block]:
    """Blocks of the columns `needed` and those of `optional` that the file has; at least one, which may be empty.

    The format is told by the content. Raises InputError for a missing column, and for a file that is damaged or that is
    no format that can be read.
    """
    if path.is_file() and path.stat().st_size == 0:
        blocks: Iterator[Block] = iter(())
    elif is_parquet(path):
        blocks = _parquet_blocks(path, needed, optional)
    else:
        blocks = _text_blocks(path, needed, optional, csv)
    try:
        yield from _with_records(blocks, [*needed, *optional])
    except (*READ_ERRORS, pa.ArrowException) as error:
        kind = "Parquet" if is_parquet(path) else "text"
        raise InputError(f"{path}: cannot be read as {kind}: {error}") from error


def parquet_types(path: Path) -> dict[str, pa.DataType]:
    """The types of a Parquet file's columns."""
    return {field.name: field.type for field in parquet.schema_of(path)}


def shown_formats(files: Sequence[Path], csv: CsvFormat) -> list[str]:
    """How texts are read where that was told from them and is not plain CSV: one sentence for each way."""
    by_way: dict[str, list[str]] = {}
    beyond_ascii: dict[str, str] = {}
    for path in files:
        if not is_parquet(path):
            for form in forms_of(path, csv):
                if not form.is_plain:
                    by_way.setdefault(way := form.described(), []).append(path.name)
                    if csv.encoding is None and form.encoding == "cp1252" and (word := form.beyond_ascii):
                        beyond_ascii.setdefault(way, f" (a guess: is {word!r} what stands in it?)")
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: "
        f"read as {way}{beyond_ascii.get(way, '')}; --option delimiter=, header=, encoding=, quoting= say otherwise"
        for way, names in by_way.items()
    ]


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """All lines of a small text file, packed or not; bytes that are not of `encoding` are an InputError."""
    try:
        (member,) = members(path)
        data = b"".join(piece.data for piece in pieces(member, encoding, BLOCK_BYTES))
        return data.decode().split("\n")[:-1]
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    except READ_ERRORS as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error


def no_rows(stream: str, path: Path, csv: CsvFormat) -> Iterator[Chunk]:
    """What is read of a file without rows, whatever its columns: nothing, but its lines are counted."""
    for block in read_blocks(path, (), csv=csv):
        rows = pa.RecordBatch.from_pylist([], STREAMS[stream])
        yield Chunk(rows, block.end, block.rejected, lines=block.lines_read)


def decoded(cell: bytes) -> str | None:
    """A cell as text, None when it is not UTF-8."""
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return None


def _with_records(blocks: Iterator[Block], wanted: Sequence[str]) -> Iterator[Block]:
    """Blocks of which each holds a record; lines without one (blank, header) are counted with a neighbour."""
    waiting: Block | None = None
    for block in blocks:
        if waiting is None:
            waiting = block
        elif not block.n_records or not waiting.n_records:
            filled = block if block.n_records else waiting
            both = (waiting.lines_read or Lines(0)) + (block.lines_read or Lines(0))
            waiting = replace(filled, lines_read=both)
        else:
            yield waiting
            waiting = block
    yield waiting or Block(_no_cells(wanted), np.empty(0, np.int64), 0, [], Lines(0))


def _no_cells(wanted: Sequence[str]) -> dict[str, pa.Array]:
    return {name: pa.array([], pa.binary()) for name in wanted}


def _parquet_blocks(path: Path, needed: Sequence[str], optional: Sequence[str]) -> Iterator[Block]:
    found = require_columns(path, needed)
    further = [name for name in dict.fromkeys(optional) if found.count(name) == 1 and name not in needed]
    end = 0
    for batch in parquet.batches(path, list(dict.fromkeys(needed)), further, BLOCK_ROWS, PARQUET_BLOCK_BYTES):
        lines = np.arange(end + 1, end + 1 + batch.num_rows)
        end += batch.num_rows
        yield Block({name: batch[name] for name in batch.schema.names}, lines, end, [], Lines(batch.num_rows))


def _text_blocks(path: Path, needed: Sequence[str], optional: Sequence[str], csv: CsvFormat) -> Iterator[Block]:
    forms = forms_of(path, csv)
    end = n_before = n_good = n_rejected = 0
    for form in forms:
        if form.columns:
            found = json_lines.keys(form, {*needed, *optional}, BLOCK_BYTES) if form.is_json else form.columns
            _check(form.member.shown, needed, found, form)
        else:
            found = ()
        wanted = list(dict.fromkeys([*needed, *(name for name in optional if name in found)]))
        line = 0
        for split, cells in (
            json_lines.splits(form, wanted, needed, BLOCK_BYTES) if form.is_json else _csv_splits(form, wanted)
        ):
            line += split.lines.total
            end += len(split.first_lines) + len(split.rejected)
            n_good, n_rejected = n_good + len(split.first_lines), n_rejected + len(split.rejected)
            if not n_good and n_rejected > MAX_WRONG_FIRST:
                row = split.rejected[0]
                raise InputError(
                    f"{form.member.shown}: not one of the first {n_rejected:,} lines is a record ({form.described()}); "
                    f"line {row.line}: {row.reason} ({row.text[:200]})"
                )
            rejected = split.rejected
            if len(forms) > 1:
                rejected = [Rejected(n_before + row.line, row.reason, row.text) for row in rejected]
            yield Block(cells, split.first_lines + n_before, end, rejected, split.lines)
        n_before += line


def _csv_splits(form: TextForm, wanted: Sequence[str]) -> Iterator[tuple[Split, dict[str, pa.Array]]]:
    n_before = form.n_blank + form.n_header
    n_columns = max(len(form.columns), 1)
    splitter = Splitter(
        n_columns, form.delimiter, form.quoting, first_line=n_before + 1, skips_blanks=form.skips_blanks
    )
    yield replace(_NOTHING, lines=Lines(n_before, blank=form.n_blank, header=form.n_header)), _no_cells(wanted)
    for split in _splits(form, splitter):
        yield split, _parsed(form, splitter, split, wanted)


def _splits(form: TextForm, splitter: Splitter) -> Iterator[Split]:
    waiting = b""  # a piece is split once it is known whether another follows
    for data, is_too_long in _after_header(form):
        if is_too_long:
            yield from splitter.split(waiting, last=True)
            waiting = b""
            yield splitter.reject(data[: 4 * MAX_TEXT], f"the line is longer than {MAX_LINE_BYTES:,} bytes")
        else:
            if waiting:
                yield from splitter.split(waiting, last=False)
            waiting = data
    yield from splitter.split(waiting, last=True)


def _after_header(form: TextForm) -> Iterator[tuple[bytes, bool]]:
    """Lines, and whether it is one that is too long."""
    skip = form.n_blank + form.n_header
    for piece in pieces(form.member, form.encoding, BLOCK_BYTES):
        data, skipped = _without_lines(piece.data, skip)
        skip -= skipped
        if data:
            yield data, piece.is_too_long


_NOTHING = Split(b"", np.empty(0, np.int64))


def _without_lines(data: bytes, n: int) -> tuple[bytes, int]:
    """Data without its first `n` lines, and how many it had of them."""
    at = skipped = 0
    while skipped < n and at < len(data):
        at = data.index(b"\n", at) + 1
        skipped += 1
    return data[at:], skipped


def _parsed(form: TextForm, splitter: Splitter, split: Split, wanted: Sequence[str]) -> dict[str, pa.Array]:
    n = len(split.first_lines)
    if not n:
        return _no_cells(wanted)
    places = {name: f"{form.columns.index(name)}" for name in wanted}
    table = pa.csv.read_csv(
        pa.BufferReader(split.data),
        read_options=pa.csv.ReadOptions(
            use_threads=False,
            block_size=len(split.data) + 1,
            column_names=[f"{place}" for place in range(len(form.columns))],
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=splitter.delimiter,
            quote_char='"' if form.quoting else False,
            newlines_in_values=form.quoting,
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(places.values(), pa.binary()),
            include_columns=list(dict.fromkeys(places.values())),
            strings_can_be_null=False,
        ),
    )
    if table.num_rows != n:
        raise RecsysError(f"{form.member.shown}: {n} records were read as {table.num_rows}; a fault of the reader")
    cells = {name: table[place].combine_chunks() for name, place in places.items()}
    if splitter.delimiter != form.delimiter:
        cells = {
            name: pc.replace_substring(cell, pattern=splitter.delimiter, replacement=form.delimiter)
            for name, cell in cells.items()
        }
    return cells
