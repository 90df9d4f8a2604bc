"""The raw tables as the preparation reads them: Parquet files under DuckDB, cut at an instant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
from ibis import Table

from recsys.action import AGAINST
from recsys.errors import InputError
from recsys.ids import IdType
from recsys.types import Task

_EVENTS = pa.schema(
    {"timestamp": pa.int64(), "visitorid": pa.string(), "event": pa.string(), "itemid": pa.string()}
    | {"transactionid": pa.string(), "value": pa.float64(), "parameters": pa.string(), "seq": pa.int64()}
    | {"acted": pa.string(), "label": pa.float64()}
)
_PROPERTIES = pa.schema({"timestamp": pa.int64(), "itemid": pa.string(), "property": pa.string(), "value": pa.string()})
_COLUMNS: Mapping[str, pa.Schema] = {
    "events": _EVENTS,
    "posted_events": _EVENTS,
    "item_properties": _PROPERTIES,
    "posted_properties": _PROPERTIES,
    "user_properties": pa.schema(
        {"timestamp": pa.int64(), "visitorid": pa.string(), "property": pa.string(), "value": pa.string()}
    ),
    "category_tree": pa.schema({"categoryid": pa.string(), "parentid": pa.string()}),
}
_MAY_BE_MISSING = {"transactionid": "string", "value": "float64", "parameters": "string"} | {
    "acted": "string",
    "label": "float64",
}
ROW = "row"  # position of a row in its file


@dataclass(frozen=True)
class RawTables:
    """The four streams of a source (columns as in schema `raw`), each an Arrow table or a Parquet file.

    Beside them the events that clients posted, with the columns of events; a guest's have no `visitorid`. And what the
    API was told of items, with those of `item_properties`; it counts for items that these say nothing of.
    `parameters` of events are JSON objects; `acted` those where one tells how an action went, else null, and
    `label` what a client said of it (see `recsys.action`).
    Timestamps are milliseconds since the epoch. `seq` of events may be missing: the order of rows stands for it.
    """

    events: pa.Table | Path
    item_properties: pa.Table | Path | None = None
    user_properties: pa.Table | Path | None = None
    category_tree: pa.Table | Path | None = None
    posted_events: pa.Table | Path | None = None
    posted_properties: pa.Table | Path | None = None

    def open(self, con: Any, folder: Path) -> Mapping[str, Table]:
        """Each stream as an Ibis table of the DuckDB backend `con`, with the position of each row as `row`.

        Arrow tables are first written into `folder`. Raises InputError for a missing column.
        """
        opened = {}
        for name, schema in _COLUMNS.items():
            given = getattr(self, name)
            path = given if isinstance(given, Path) else folder / f"raw_{name}.parquet"
            if not isinstance(given, Path):
                pq.write_table(schema.empty_table() if given is None else given, path)
            table = con.read_parquet(path, table_name=f"raw_{name}", file_row_number=True)
            table = table.rename({ROW: "file_row_number"})
            if schema is _EVENTS:
                absent = {
                    column: ibis.null(kind) for column, kind in _MAY_BE_MISSING.items() if column not in table.columns
                }
                table = table.mutate(**absent, **({} if "seq" in table.columns else {"seq": table[ROW]}))
            missing = set(schema.names) - set(table.columns)
            if missing:
                raise InputError(f"the raw table {name} lacks the column {', '.join(sorted(missing))}")
            opened[name] = table
        return opened


@dataclass(frozen=True)
class Declared:
    """What the source (or the settings in its stead) says about its data."""

    source: str
    event_weights: Mapping[str, float]
    label_event_types: tuple[str, ...]
    bought_event_types: tuple[str, ...]
    id_types: Mapping[str, IdType]
    task: Task = Task.DISCOVERY

    def __post_init__(self) -> None:
        """Raises InputError when labels or purchases are not among the weighted event types, or a weight is bad."""
        for what, names in (("label", self.label_event_types), ("bought", self.bought_event_types)):
            strays = [name for name in names if name not in self.event_weights]
            if strays:
                raise InputError(
                    f"{what} event types {strays} have no weight; weights are given for {sorted(self.event_weights)}"
                )
        bad = [name for name, weight in self.event_weights.items() if not math.isfinite(weight)]
        if bad or not any(weight > 0 for weight in self.event_weights.values()):
            raise InputError(f"event weights must be finite numbers, at least one of them above 0; see {bad or 'none'}")

    def with_types(self, found: Iterable[str]) -> Declared:
        """The same with those of `found` that speak against items and need no weight of their own."""
        return replace(self, event_weights={name: 1.0 for name in found if name in AGAINST} | dict(self.event_weights))

    @property
    def event_types(self) -> tuple[str, ...]:
        """All event types, the lightest first, by name where weights are equal."""
        return tuple(sorted(self.event_weights, key=lambda name: (self.event_weights[name], name)))
