"""Lists ↔ Postgres' binary COPY format, whole blocks at a time in numpy.

The format (PostgreSQL documentation, "COPY", "Binary Format"): a header, then per row the number of fields and
per field its length and bytes, big-endian; a one-dimensional array field is (dimensions, has nulls, element
type, length, lower bound) followed by (length, bytes) per element.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.types import Lists

HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER: Final = b"\xff\xff"
COLUMNS: Final = ("list_version_id", "owner_key", "item_keys", "scores", "sources")
_ARRAYS: Final = (("item", 23, ">i4"), ("score", 700, ">f4"), ("source", 21, ">i2"))  # name, type's OID, format


def encode(list_version_id: int, lists: Lists) -> bytes:
    """One complete binary COPY of the lists: `COPY … (list_version_id, owner_key, item_keys, scores, sources)`.

    Padding must be at the end of each row; it is left out.
    """
    lengths = lists.lengths
    n, k = lists.item_key.shape
    records = np.zeros(n, _record(k))
    records["n_fields"] = len(COLUMNS)
    records["id_bytes"], records["id"] = 8, list_version_id
    records["owner_bytes"], records["owner"] = 4, lists.owner_key
    for (name, oid, form), values in zip(_ARRAYS, (lists.item_key, lists.score, lists.source), strict=True):
        array, size = records[name], np.dtype(form).itemsize
        array["bytes"] = 20 + lengths * (4 + size)
        array["n_dimensions"], array["oid"], array["length"], array["lower"] = 1, oid, lengths, 1
        array["values"]["bytes"] = size
        array["values"]["value"] = values
    body = records.tobytes() if (lengths == k).all() else _without_padding(records, lengths, k)
    return HEADER + body + TRAILER


def partition_name(list_version_id: int) -> str:
    """The table that holds the rows of a version."""
    return f"lists_{int(list_version_id)}"


def _element(form: str) -> np.dtype[Any]:
    return np.dtype([("bytes", ">i4"), ("value", form)])


def _record(k: int) -> np.dtype[Any]:
    """One row whose lists have `k` items."""
    head = [("bytes", ">i4"), ("n_dimensions", ">i4"), ("has_nulls", ">i4"), ("oid", ">i4"), ("length", ">i4")]
    arrays = [
        (name, np.dtype([*head, ("lower", ">i4"), ("values", _element(form), (k,))])) for name, _, form in _ARRAYS
    ]
    keys = [("n_fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i8"), ("owner_bytes", ">i4"), ("owner", ">i4")]
    return np.dtype([*keys, *arrays])


def _without_padding(records: NDArray[Any], lengths: NDArray[np.int64], k: int) -> bytes:
    """The bytes of the records, less those of the elements after each list's end."""
    columns: list[NDArray[np.int64]] = [np.full(22, -1)]  # position of the element that a byte belongs to
    for _, _, form in _ARRAYS:
        columns += [np.full(24, -1), np.repeat(np.arange(k), 4 + np.dtype(form).itemsize)]
    element = np.concatenate(columns)
    raw = records.view(np.uint8).reshape(len(records), -1)
    return raw[element < lengths[:, None]].tobytes()


class Decoder:
    """Takes what `COPY … TO STDOUT (FORMAT binary)` sends and gives lists back, in blocks.

    The rows must come by ascending list length, and `runs` say how many there are of each: [(length, rows), …].
    """

    def __init__(self, runs: Sequence[tuple[int, int]], rows_per_block: int = 20_000) -> None:
        self._runs = [(length, rows) for length, rows in runs if rows]
        self._rows_per_block = rows_per_block
        self._pieces: list[bytes] = []
        self._n_bytes = -len(HEADER)

    @property
    def bytes_wanted(self) -> int:
        """How many bytes make the next block whole."""
        length, rows = self._runs[0]
        return _record(length).itemsize * min(rows, self._rows_per_block)

    def feed(self, data: bytes) -> Iterator[Lists]:
        """Take the next bytes and give the blocks that they complete."""
        self._pieces.append(data)
        self._n_bytes += len(data)
        while self._runs and self._n_bytes >= self.bytes_wanted:
            buffer = b"".join(self._pieces)
            if buffer.startswith(HEADER):
                buffer = buffer[len(HEADER) :]
            wanted = self.bytes_wanted
            self._pieces = [buffer[wanted:]]
            self._n_bytes = len(buffer) - wanted
            length, rows = self._runs[0]
            block = min(rows, self._rows_per_block)
            self._runs[0] = (length, rows - block)
            if rows == block:
                self._runs.pop(0)
            yield _decode(buffer[:wanted], length)


def _decode(data: bytes, length: int) -> Lists:
    records = np.frombuffer(data, _record(length))
    return Lists(
        records["owner"].astype(np.int32),
        records["item"]["values"]["value"].astype(np.int32),
        records["score"]["values"]["value"].astype(np.float32),
        records["source"]["values"]["value"].astype(np.int16),
    )
