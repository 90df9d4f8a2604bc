"""What the tests of cells share: a small table, and all that a source says of it."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from recsys.data.sources import Table, reading
from recsys.data.sources.base import EVENTS, Source
from recsys.data.sources.checking import Checked

MAP = {"user": "user", "item": "item", "timestamp": "at"}
INSTANT = dt.datetime(2024, 5, 1, 10, 30, tzinfo=dt.UTC)
EPOCH = dt.datetime.fromtimestamp(0, dt.UTC).replace(tzinfo=None)


def checked(**columns: list[object] | pa.Array) -> Checked:
    cells = {name: pa.array(values) for name, values in columns.items()}
    n = len(next(iter(cells.values())))
    return Checked(reading.Block(cells, np.arange(1, n + 1), n, []))


class Read:
    """All that a source says of one stream."""

    def __init__(self, source: Source, stream: str = EVENTS) -> None:
        chunks = [chunk for part in source.parts() if part.stream == stream for chunk in part.read()]
        self.rows = [row for chunk in chunks for row in chunk.rows.to_pylist()]
        self.rejected = {row.line: row.reason for chunk in chunks for row in chunk.rejected}
        self.emptied = sum((Counter(chunk.emptied) for chunk in chunks), Counter[str]())
        self.at = [
            dt.datetime.fromtimestamp(row["timestamp"] / 1000, dt.UTC) for row in self.rows if "timestamp" in row
        ]


def table(folder: Path, text: str, files: Mapping[str, str] | None = None, **options: str) -> Table:
    (folder / "log.csv").write_text(text)
    for name, content in (files or {}).items():
        (folder / name).write_text(content)
    return Table(folder / "log.csv", {**MAP, **options})


def times(folder: Path, *cells: str, **options: str) -> Read:
    rows = "".join(f"ann,pear,{cell}\n" for cell in cells)
    return Read(table(folder, "user,item,at\n" + rows, **options))
