"""Columns of Parquet files, in blocks whose size in memory is bounded, and of the few types that the checks know.

A file of some kilobytes can hold gigabytes: one long text named by millions of rows, a page of zeros, lists of
millions of values. So texts stay in dictionaries until their length is known, and rows are taken few at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from recsys.errors import InputError

MAX_UNPACKED = 1 << 30  # bytes of one column in one row group, where it is packed beyond all reason
_BEYOND_REASON = 200  # times that it is packed
READ_ERRORS = (pa.ArrowException, OSError)


def schema_of(path: Path) -> pa.Schema:
    """The columns with their types, the names stripped of spaces; InputError for what is no Parquet."""
    try:
        schema = pa.parquet.read_schema(path)
    except READ_ERRORS as error:
        raise InputError(f"{path}: not a Parquet file ({error})") from error
    return pa.schema([field.with_name(field.name.strip().strip("\ufeff")) for field in schema])


def n_rows(path: Path) -> int:
    """Number of rows; InputError for what is no Parquet."""
    try:
        return int(pa.parquet.read_metadata(path).num_rows)
    except READ_ERRORS as error:
        raise InputError(f"{path}: not a Parquet file ({error})") from error


def batches(path: Path, needed: Sequence[str], optional: Sequence[str], rows: int, n_bytes: int) -> Iterator[Any]:
    """Record batches of at most `rows` rows and about `n_bytes` bytes, the same ones at each reading.

    Cells are text, bytes, integers (64 bits, signed), floats, decimals, Booleans, dates or timestamps; nested values of
    columns that are not needed are JSON text. InputError where a needed column is nested.
    """
    schema = schema_of(path)
    for name in needed:
        kind = schema.field(name).type
        if _is_nested(kind):
            raise InputError(
                f"{path}: column {name!r} holds {kind}, several values in a row, where one is needed; name a column "
                "of single values, or write the file with one value a row"
            )
    names = [*needed, *optional]
    with pa.parquet.ParquetFile(path) as file:
        actual = [file.schema_arrow.names[schema.get_field_index(name)] for name in names]
        few = _rows_at_once(path, file.metadata, actual, rows, n_bytes)
        in_dictionaries = [here for here, name in zip(actual, names, strict=True) if _is_text(schema.field(name).type)]
    with pa.parquet.ParquetFile(path, read_dictionary=in_dictionaries, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(batch_size=few, columns=actual, use_threads=False):
            cells = {here: batch[here] for here in actual}
            for start, n in _slices(list(cells.values()), batch.num_rows, n_bytes):
                plain = [_plain(cells[here].slice(start, n)) for here in actual]
                yield pa.RecordBatch.from_arrays(plain, names=names)


def _rows_at_once(path: Path, metadata: Any, names: Sequence[str], rows: int, n_bytes: int) -> int:
    """Rows that fit into `n_bytes` by what the file says of itself."""
    widest = 1.0
    wanted = set(names)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        size = values = 0
        for place in range(group.num_columns):
            column = group.column(place)
            if column.path_in_schema.split(".")[0] not in wanted and column.path_in_schema not in wanted:
                continue
            unpacked = column.total_uncompressed_size
            if unpacked > MAX_UNPACKED and unpacked > _BEYOND_REASON * max(column.total_compressed_size, 1):
                raise InputError(
                    f"{path}: column {column.path_in_schema!r} would unpack to {unpacked / 1e9:.1f} GB at once; "
                    "write the file anew, with smaller row groups"
                )
            size += unpacked
            values += column.num_values
        widest = max(widest, size / max(group.num_rows, 1), 8 * values / max(group.num_rows, 1))
    return int(max(1, min(rows, n_bytes / widest)))


def _slices(columns: Sequence[Any], n_rows: int, n_bytes: int) -> Iterator[tuple[int, int]]:
    """(start, length) pieces of rows whose texts take about `n_bytes` when they stand outside their dictionaries."""
    sizes = np.zeros(n_rows, np.int64)
    for cells in columns:
        if pa.types.is_dictionary(cells.type) and _is_text(cells.type.value_type) and len(cells.dictionary):
            lengths = pc.fill_null(pc.binary_length(cells.dictionary), 0).to_numpy(zero_copy_only=False)
            at = pc.fill_null(cells.indices, 0).to_numpy(zero_copy_only=False)
            sizes += lengths[at]
    start, ends = 0, np.cumsum(sizes)
    while start < n_rows:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + n_bytes, side="right")))
        yield start, min(stop, n_rows) - start
        start = stop


def _is_nested(kind: Any) -> bool:
    return bool(pa.types.is_nested(kind))


def _is_text(kind: Any) -> bool:
    of = pa.types
    return bool(of.is_string(kind) or of.is_binary(kind) or of.is_large_string(kind) or of.is_large_binary(kind))


def _plain(cells: Any) -> Any:
    """Cells of any type as one of those that `batches` promises."""
    of, kind = pa.types, cells.type
    if isinstance(kind, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in cells.to_pylist()], pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(cells.storage)
    if of.is_dictionary(kind):
        return _plain(cells.dictionary_decode())
    if of.is_large_string(kind) or of.is_string_view(kind):
        return cells.cast(pa.string())
    if of.is_large_binary(kind) or of.is_binary_view(kind) or of.is_fixed_size_binary(kind):
        return cells.cast(pa.binary())
    if of.is_unsigned_integer(kind):
        # Whole numbers that are beyond 64 signed bits stay what they are, as text.
        return _or_text(cells, pa.int64())
    if of.is_signed_integer(kind):
        return cells.cast(pa.int64())
    if of.is_float16(kind):
        return cells.cast(pa.float32())
    if of.is_null(kind):
        return cells.cast(pa.string())
    if of.is_nested(kind):
        return pa.array(map(_json, cells.to_pylist()), pa.string())
    if of.is_time(kind):
        return cells.cast(pa.string())
    if of.is_duration(kind):
        return cells.cast(pa.int64())
    return cells


def _or_text(cells: Any, kind: Any) -> Any:
    try:
        return cells.cast(kind)
    except pa.ArrowInvalid:
        return cells.cast(pa.string())


def _json(value: Any) -> str | None:
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False, default=_shown)


def _shown(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
