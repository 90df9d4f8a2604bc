"""JSON lines: an object a line, its values as cells of bytes; what is nested becomes JSON text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from recsys.data.sources.base import Lines, Rejected
from recsys.data.sources.formats import MAX_COLUMNS, TextForm
from recsys.data.sources.splitting import MAX_TEXT, Split
from recsys.data.sources.texts import MAX_LINE_BYTES, Piece, pieces
from recsys.errors import InputError

_EXACT: Final = 2**53  # whole numbers below are exact as floats
_GROWS: Final = 4  # times that objects take more memory than their lines


def splits(
    form: TextForm, wanted: Sequence[str], needed: Sequence[str], piece_bytes: int
) -> Iterator[tuple[Split, dict[str, pa.Array]]]:
    """Successive objects and, by name, the cells of `wanted`; those of `needed` hold one value."""
    number = 0
    for piece in pieces(form.member, form.encoding, max(piece_bytes // _GROWS, 1)):
        good: list[dict[str, Any]] = []
        lines: list[int] = []
        rejected: list[Rejected] = []
        first = number
        n_blank = 0
        for text in _lines_of(piece):
            number += 1
            if not text.strip():
                n_blank += 1
                continue
            record, reason = _object(text, piece)
            several = next((name for name in needed if isinstance(value_of(record or {}, name), dict | list)), None)
            if several is not None:
                inside = value_of(record or {}, several)
                path = f"; name one, as {several}.{next(iter(inside))}" if isinstance(inside, dict) and inside else ""
                reason = f"{several} holds several values, where one is needed{path}"
            if record is None or several is not None:
                rejected.append(Rejected(number, reason, text[: 4 * MAX_TEXT].decode(errors="replace")[:MAX_TEXT]))
            else:
                good.append(record)
                lines.append(number)
        cells = {name: pa.array([_cell(value_of(row, name)) for row in good], pa.binary()) for name in wanted}
        yield Split(b"", np.array(lines, np.int64), rejected, Lines(number - first, blank=n_blank)), cells


def _lines_of(piece: Piece) -> list[bytes]:
    return [piece.data] if piece.is_too_long else piece.data.split(b"\n")[:-1]


def _object(text: bytes, piece: Piece) -> tuple[dict[str, Any] | None, str]:
    if piece.is_too_long:
        return None, f"the line is longer than {MAX_LINE_BYTES:,} bytes"
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        return None, f"no JSON: {error.msg}"
    except (ValueError, RecursionError):
        return None, "no JSON that can be read: a number of thousands of digits, or lists in lists without end"
    if not isinstance(found, dict):
        return None, "no JSON object"
    return {name.strip(): value for name, value in found.items()}, ""


def value_of(record: dict[str, Any], name: str) -> Any:
    """The value of a name, or of a path of names as `user.id`; None where there is none."""
    if name in record or "." not in name:
        return record.get(name)
    first, _, rest = name.partition(".")
    inner = record.get(first)
    return value_of(inner, rest) if isinstance(inner, dict) else None


def nested(form: TextForm) -> tuple[str, ...]:
    """Paths of names to the single values inside the objects of the first lines."""
    found: dict[str, None] = {}
    for line in form.sample:
        record, _ = _object(line, Piece(line))
        found.update(dict.fromkeys(_paths(record or {})))
    return tuple(found)


def _paths(record: dict[str, Any], before: str = "", depth: int = 3) -> Iterator[str]:
    for name, value in record.items():
        if isinstance(value, dict) and depth:
            yield from _paths(value, f"{before}{name}.", depth - 1)
        elif before and not isinstance(value, list | dict):
            yield f"{before}{name}"


def _cell(value: Any) -> bytes | None:
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        if value.is_integer() and abs(value) < _EXACT:
            value = int(value)  # as in floating columns of Parquet
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def keys(form: TextForm, wanted: set[str] | None, piece_bytes: int) -> tuple[str, ...]:
    """Names that occur in a text of JSON lines, in their order; where `wanted` are given, until all were seen."""
    found = dict.fromkeys(name.strip() for name in form.columns)
    if wanted is not None and wanted <= set(found):
        return tuple(found)
    for piece in pieces(form.member, form.encoding, max(piece_bytes // _GROWS, 1)):
        for text in _lines_of(piece):
            if text.strip():
                record, _ = _object(text, piece)
                found.update(dict.fromkeys(record or ()))
                paths = (name for name in wanted or () if "." in name and value_of(record or {}, name) is not None)
                found.update(dict.fromkeys(paths))
        if len(found) > MAX_COLUMNS:
            raise InputError(f"{form.member.shown}: more than {MAX_COLUMNS:,} different names in its objects")
        if wanted is not None and wanted <= set(found):
            break
    return tuple(found)
