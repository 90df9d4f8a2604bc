"""Which events are loaded, told without looking them up: for imports of many files that may hold loaded ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import sqlalchemy as sa
from numpy.typing import NDArray

_HASH: Final = 'hashtextextended(visitorid || event || itemid, "timestamp")'
_BITS: Final = 2**30  # 128 MiB: of 100 million events, one in a hundred others is taken for one of them
_PER_EVENT: Final = 4


class Seen:
    """A Bloom filter of the events that are loaded: what it does not know is not loaded, what it knows may be."""

    def __init__(self, connection: sa.Connection) -> None:
        """Knows all that the connection sees in raw.events."""
        self._bytes = np.zeros(_BITS // 8, np.uint8)
        for hashes in _hashes(connection, "raw.events"):
            self._add(hashes)

    def n_known(self, connection: sa.Connection, table: str) -> int:
        """How many rows of a table with the columns of events may be loaded: never fewer than are."""
        return sum(int(self._knows(hashes).sum()) for hashes in _hashes(connection, table))

    def add(self, connection: sa.Connection, table: str) -> None:
        """Know the rows of a table from now on."""
        for hashes in _hashes(connection, table):
            self._add(hashes)

    def _add(self, hashes: NDArray[np.uint64]) -> None:
        for places, masks in _places(hashes):
            np.bitwise_or.at(self._bytes, places, masks)

    def _knows(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        known = np.ones(len(hashes), np.bool_)
        for places, masks in _places(hashes):
            known &= (self._bytes[places] & masks) != 0
        return known


def _places(hashes: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint8]]]:
    """The bits of each hash, as bytes and masks."""
    step = (hashes >> np.uint64(32)) | np.uint64(1)
    for number in range(_PER_EVENT):
        bits = (hashes + np.uint64(number) * step) % np.uint64(_BITS)
        yield bits >> np.uint64(3), np.left_shift(np.uint8(1), (bits & np.uint64(7)).astype(np.uint8))


def _hashes(connection: sa.Connection, table: str) -> Iterator[NDArray[np.uint64]]:
    driver: Any = connection.connection
    with tempfile.TemporaryFile() as file, driver.cursor() as cursor:
        cursor.copy_expert(f"copy (select {_HASH} from {table}) to stdout (format csv)", file)  # noqa: S608 - ours
        if not file.tell():
            return
        file.seek(0)
        options = pyarrow.csv.ReadOptions(column_names=["hash"])
        types = pyarrow.csv.ConvertOptions(column_types={"hash": pa.int64()})
        for batch in pyarrow.csv.open_csv(file, options, convert_options=types):
            yield batch["hash"].to_numpy().astype(np.uint64)
