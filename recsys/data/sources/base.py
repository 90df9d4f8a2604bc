"""What a source is: a reader that brings one raw format to four streams of rows.

A stream has RetailRocket's columns (`STREAMS`). A source lists its parts, one per stream and file; a part is
read in chunks, always the same ones for the same file, so that an import can go on where it was killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar, Final, Protocol

import numpy as np
import pyarrow as pa

from recsys.data.sources.opening import is_about
from recsys.errors import InputError, RecsysError
from recsys.ids import IdType

EVENTS: Final = "events"
ITEM_PROPERTIES: Final = "item_properties"
USER_PROPERTIES: Final = "user_properties"
CATEGORY_TREE: Final = "category_tree"

# Timestamps are milliseconds since the epoch, UTC; ids are text.
STREAMS: Final[dict[str, pa.Schema]] = {
    EVENTS: pa.schema(
        [
            pa.field("timestamp", pa.int64(), nullable=False),
            pa.field("visitorid", pa.string(), nullable=False),
            pa.field("event", pa.string(), nullable=False),
            pa.field("itemid", pa.string(), nullable=False),
            pa.field("transactionid", pa.string()),
            pa.field("value", pa.float64()),
        ]
    ),
    ITEM_PROPERTIES: pa.schema(
        [
            pa.field("timestamp", pa.int64(), nullable=False),
            pa.field("itemid", pa.string(), nullable=False),
            pa.field("property", pa.string(), nullable=False),
            pa.field("value", pa.string()),
        ]
    ),
    USER_PROPERTIES: pa.schema(
        [
            pa.field("timestamp", pa.int64(), nullable=False),
            pa.field("visitorid", pa.string(), nullable=False),
            pa.field("property", pa.string(), nullable=False),
            pa.field("value", pa.string()),
        ]
    ),
    CATEGORY_TREE: pa.schema([pa.field("categoryid", pa.string(), nullable=False), pa.field("parentid", pa.string())]),
}


@dataclass(frozen=True)
class Declaration:
    """What a source says of its data: the JSON types of its ids, and what its event types mean."""

    user_id_type: IdType
    item_id_type: IdType
    category_id_type: IdType
    event_weights: dict[str, float]  # every event type that occurs → its weight
    label_event_types: tuple[str, ...]  # what the ranker learns to bring about
    bought_event_types: tuple[str, ...]  # after these an item is not recommended again

    def weighed(self, weights: Mapping[str, float]) -> Declaration:
        """With weights for further event types, or others for the known ones."""
        return replace(self, event_weights={**self.event_weights, **weights})


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be used. `line` is the line of the file where it begins, counted from 1 with the header and
    blank lines; of Parquet the number of the row."""

    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Lines:
    """What became of the physical lines of a piece of a file that are not each a record; of Parquet: of its rows."""

    total: int  # of the piece, counted by their ends
    blank: int = 0
    header: int = 0  # the header, and Excel's first line `sep=;`
    continued: int = 0  # the second and further lines of records with line ends inside quotes

    def __add__(self, other: Lines) -> Lines:
        return Lines(
            self.total + other.total,
            self.blank + other.blank,
            self.header + other.header,
            self.continued + other.continued,
        )


@dataclass(frozen=True)
class Chunk:
    """A piece of a part. `end`: how many records of the file are dealt with after this chunk."""

    rows: pa.RecordBatch  # schema of the part's stream
    end: int
    rejected: list[Rejected] = field(default_factory=list)
    left_out: Mapping[str, int] = field(default_factory=dict)  # reason → rows left out on purpose
    emptied: Mapping[str, int] = field(default_factory=dict)  # reason → cells left empty; their rows are loaded
    lines: Lines | None = None  # None: the rows were derived in memory, not line by line
    n_records: int | None = None  # records of the file that `rows` come from; None: each row is one


@dataclass
class LineCount:
    """Adds up where the lines of a part went: every one must be accounted for."""

    lines: Lines = Lines(0)
    loaded: int = 0
    rejected: int = 0
    left_out: int = 0

    def add(self, part: Part, chunk: Chunk) -> None:
        """RecsysError when the lines of a chunk are not those of its rows and all that was left away."""
        if chunk.lines is None:
            return
        self.lines += chunk.lines
        self.loaded += chunk.rows.num_rows if chunk.n_records is None else chunk.n_records
        self.rejected += len(chunk.rejected)
        self.left_out += sum(chunk.left_out.values())
        lost = self.lines.total - sum(self.by_fate().values())
        if lost:
            raise RecsysError(
                f"{part.path}: {lost} of {self.lines.total} lines are not accounted for ({self.by_fate()}); "
                "this is a fault of the reader: nothing more is loaded"
            )

    def leave_out(self, n: int) -> None:
        """Of the lines that were counted as loaded, `n` are left out after all."""
        if self.lines.total:  # of rows that were derived in memory no line is counted
            self.loaded -= n
            self.left_out += n

    def by_fate(self) -> dict[str, int]:
        """Number of lines by what became of them; their sum is all lines of the file."""
        return {
            "loaded": self.loaded,
            "rejected": self.rejected,
            "left out": self.left_out,
            "blank": self.lines.blank,
            "header": self.lines.header,
            "continued": self.lines.continued,
        }


@dataclass(frozen=True)
class Part:
    """The rows of one stream that come from one file.

    `read` starts anew at each call. It raises InputError, naming file and column, for a missing column, an
    empty file or a file of another format.
    """

    stream: str  # a key of STREAMS
    path: Path
    name: str  # the file as people know it: its path relative to what was imported
    read: Callable[[], Iterator[Chunk]]
    # The file tells how things stand, without times: laid at the first event, and a later one at its import.
    is_state: bool = False


class Source(Protocol):
    """One raw format. `tests/contracts/test_sources.py` is the full statement of what an implementation promises."""

    name: ClassVar[str]
    option_names: ClassVar[tuple[str, ...]]
    declaration: Declaration
    notes: list[str]  # what people should know: a missing optional file, a guessed format
    # Options that say what rows mean: a later import keeps them, and may add those that were not given.
    lasting_options: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path, options: Mapping[str, str], weights: Mapping[str, float] | None = None) -> None:
        """Look at what is at `path` (file or folder); raises InputError when it cannot be this source.

        `weights`: of event types that have one beside those that the source or an option names.
        """
        ...

    def parts(self) -> list[Part]:
        """All parts, events first, in the order in which they are to be loaded."""
        ...


def chunks_of(stream: str, columns: Mapping[str, object], rows_per_chunk: int = 250_000) -> Iterator[Chunk]:
    """Rows that were derived in memory (not read line by line), as chunks of a stream; missing columns are null."""
    schema = STREAMS[stream]
    n = max((len(values) for values in columns.values()), default=0)  # type: ignore[arg-type]
    arrays = [
        pa.nulls(n, item.type) if item.name not in columns else pa.array(columns[item.name]).cast(item.type)
        for item in schema
    ]
    table = pa.Table.from_arrays(arrays, schema=schema).combine_chunks()
    for start in range(0, n, rows_per_chunk):
        batch = table.slice(start, rows_per_chunk).to_batches()[0]
        yield Chunk(batch, end=start + batch.num_rows)


def properties_chunks(stream: str, per_property: Iterable[tuple[object, object, str, object]]) -> Iterator[Chunk]:
    """Chunks of a property stream from (timestamps, ids, property name, values) pieces of equal lengths."""
    owner = STREAMS[stream].names[1]
    pieces = []
    for timestamps, ids, name, values in per_property:
        times = pa.array(timestamps).cast(pa.int64())
        pieces.append(
            pa.table(
                {
                    "timestamp": times,
                    owner: pa.array(ids).cast(pa.string()),
                    "property": pa.array(np.full(len(times), name, dtype=object), pa.string()),
                    "value": pa.array(values).cast(pa.string()),
                }
            )
        )
    if not pieces:
        return
    table = pa.concat_tables(pieces)
    yield from chunks_of(stream, {name: table[name].combine_chunks() for name in table.column_names})


PACKINGS = ("", ".gz", ".bz2", ".zst", ".zip")
# What CSV and Parquet files are called, and what any file of data may be called; in any case.
CSV_SUFFIXES: Final = (*(kind + packing for kind in (".csv", ".tsv") for packing in PACKINGS), ".parquet", ".pq")
DATA_SUFFIXES: Final = (
    *CSV_SUFFIXES,
    *(
        kind + packing
        for kind in (".txt", ".dat", ".data", ".psv", ".jsonl", ".ndjson", ".json")
        for packing in PACKINGS
    ),
    ".zip",
    ".gz",
)
NO_DATA_SUFFIXES: Final = (".crc", ".py", ".sh", ".log", ".png", ".jpg", ".ipynb", ".yaml", ".yml", ".toml", ".ini")


# The kinds in words, for messages.
SHOWN_SUFFIXES: Final = (
    ".csv, .tsv, .psv, .txt, .dat, .data, .jsonl, .ndjson, .json (also packed: .gz, .bz2, .zst, .zip), .parquet, .pq "
    "or nothing"
)


def find_files(folder: Path, stem: str, suffixes: Sequence[str]) -> list[Path]:
    """Files in and below `folder` whose name, or that of a folder between, matches `stem` (a glob) and that end in one
    of `suffixes`, by name.

    Hidden files, what Spark and others write beside the data (`_SUCCESS`, `_temporary`) and READMEs are none.
    """
    found = []
    for path in _files_below(folder):
        parts = path.relative_to(folder).parts
        if (
            _may_hold(path.name, suffixes)
            and not any(part.startswith((".", "_")) for part in parts)
            and any(fnmatch(part, stem) for part in parts)
            and not is_about(path.name)
            and path.is_file()
        ):
            found.append(path)
    return sorted(found)


def passed_over(folder: Path) -> list[Path]:
    """Files in and below `folder` that may be meant as data, and that no source reads because of their names."""
    return [
        path
        for path in sorted(_files_below(folder))
        if path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        and not is_about(path.name)
        and not path.name.lower().endswith(NO_DATA_SUFFIXES)
        and not _may_hold(path.name, DATA_SUFFIXES)
    ]


def _may_hold(name: str, suffixes: Sequence[str]) -> bool:
    """By its name; Hadoop and Hive write `part-00000` and `000000_0`, without an ending."""
    return name.lower().endswith(tuple(suffixes)) or ("." not in name and DATA_SUFFIXES[-1] in suffixes)


def _files_below(folder: Path) -> Iterator[Path]:
    """Also through links to folders, each once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        yield from (Path(place, name) for name in names)


def name_in(root: Path, path: Path) -> str:
    """A file as people know it: its path relative to the folder that is imported, or its name."""
    return as_text(path.relative_to(root).as_posix() if path.is_relative_to(root) and path != root else path.name)


def as_text(name: str) -> str:
    """A path with what of it is no UTF-8 as `\\xe9`: text that a database can hold."""
    return os.fsencode(name).decode(errors="backslashreplace")


def check_options(source: str, options: Mapping[str, str], known: Sequence[str]) -> None:
    """InputError when an option is given that the source does not have."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        offer = f"it takes {', '.join(known)}" if known else "it takes none"
        raise InputError(f"source {source} has no option {', '.join(unknown)}; {offer}")
