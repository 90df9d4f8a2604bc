"""The prepared data set: a folder of Parquet files and `dataset.json`, with one schema, written and checked here.

All instants are UTC with microseconds; where code passes an instant as a number, it is microseconds since the
epoch. Everything in a data set lies strictly before `DatasetMeta.as_of`.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys import columns as col
from recsys.data.engine_functions import latest
from recsys.errors import ArtifactError, InputError
from recsys.ids import IdType
from recsys.types import Catalogue, Descriptions, Interactions, Task, Texts

META_FILE = "dataset.json"
INSTANT = pa.timestamp("us", tz="UTC")
NAME = pa.dictionary(pa.int32(), pa.string())  # few distinct texts


def _schema(required: Mapping[str, pa.DataType], optional: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in required.items()]
        + [pa.field(name, kind) for name, kind in (optional or {}).items()]
    )


# The history of these properties is kept; every other property only as its latest value, in items.properties.
# Values are text: the source's category id, "1" or "0", a decimal number, the title.
CATEGORY, AVAILABLE, PRICE, TITLE = "categoryid", "available", "price", "title"

SCHEMAS: Mapping[str, pa.Schema] = {
    # sorted by occurred_at, event_id
    "events": _schema(
        {
            col.EVENT_ID: pa.int64(),
            col.USER_KEY: pa.int32(),
            col.ITEM_KEY: pa.int32(),
            col.EVENT_TYPE: NAME,
            col.OCCURRED_AT: INSTANT,
            col.WEIGHT: pa.float32(),
            col.SESSION_ID: pa.int64(),
        },
        {col.VALUE: pa.float64(), col.PARAMETERS: NAME, col.ACTION_LABEL: pa.float32()},
    ),
    # sorted by item_key; the latest values before as_of
    "items": _schema(
        {
            col.ITEM_KEY: pa.int32(),
            col.ITEM_ID: pa.string(),
            col.AVAILABLE: pa.bool_(),
            col.FIRST_SEEN_AT: INSTANT,
        },
        {
            col.CATEGORY_KEY: pa.int32(),
            col.PARENT_CATEGORY_KEY: pa.int32(),
            "title": pa.string(),
            "price": pa.float64(),
            "properties": pa.string(),  # a JSON object
        },
    ),
    # sorted by user_key. Who they are, their ids and properties, is in Postgres alone, so that somebody who is erased
    # there is nowhere else.
    "users": _schema({col.USER_KEY: pa.int32(), col.FIRST_SEEN_AT: INSTANT}),
    # sorted by category_key
    "categories": _schema(
        {col.CATEGORY_KEY: pa.int32(), col.CATEGORY_ID: pa.string()}, {col.PARENT_CATEGORY_KEY: pa.int32()}
    ),
    # sorted by item_key, property, occurred_at; at most one value at an instant
    "item_properties": _schema(
        {col.ITEM_KEY: pa.int32(), col.OCCURRED_AT: INSTANT, col.PROPERTY: NAME, col.VALUE: pa.string()}
    ),
}
_SORTED_BY = {
    "events": (col.OCCURRED_AT, col.EVENT_ID),
    "items": (col.ITEM_KEY,),
    "users": (col.USER_KEY,),
    "categories": (col.CATEGORY_KEY,),
    "item_properties": (col.ITEM_KEY, col.PROPERTY, col.OCCURRED_AT),
}


@dataclass(frozen=True)
class DatasetMeta:
    """What a data set is made of."""

    source: str
    as_of: int  # microseconds since the epoch; every row lies strictly before
    event_types: tuple[str, ...]  # the order gives `Interactions.event_type` its numbers
    event_weights: Mapping[str, float]
    label_event_types: tuple[str, ...]  # what the ranker learns to bring about
    bought_event_types: tuple[str, ...]  # after these an item is not recommended again, where the task is discovery
    id_types: Mapping[str, IdType] = field(
        default_factory=lambda: {"user": "string", "item": "string", "category": "string"}
    )
    task: Task = Task.DISCOVERY
    n_rows: Mapping[str, int] = field(default_factory=dict)  # table → rows
    n_events_from: Mapping[str, int] = field(default_factory=dict)  # "import", "posted" → events
    n_posted_left_out: Mapping[str, int] = field(default_factory=dict)  # reason → events
    n_left_out: Mapping[str, int] = field(default_factory=dict)  # reason → events, imported and posted

    @property
    def as_of_at(self) -> dt.datetime:
        """`as_of` as an aware datetime."""
        return instant(self.as_of)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "as_of": self.as_of_at.isoformat()}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DatasetMeta:
        """Raises ArtifactError when `text` does not describe a data set."""
        try:
            raw = json.loads(text)
            raw["as_of"] = microseconds(dt.datetime.fromisoformat(raw["as_of"]))
            for name in ("event_types", "label_event_types", "bought_event_types"):
                raw[name] = tuple(raw[name])
            raw["task"] = Task(raw["task"])
            return cls(**raw)
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"{META_FILE} cannot be read ({error}); prepare the data set again") from error


def instant(at: int) -> dt.datetime:
    """Microseconds since the epoch → aware datetime, exact."""
    return dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(microseconds=at)


def microseconds(at: dt.datetime) -> int:
    """Aware datetime → microseconds since the epoch, exact."""
    return (at - dt.datetime.fromtimestamp(0, dt.UTC)) // dt.timedelta(microseconds=1)


def items_as_of(con: ibis.BaseBackend, at: int) -> ibis.Table:
    """Items known before `at` with their latest category, availability and price strictly before it.

    Columns: item_key, first_seen_at, available (true where nothing was said), category_key and
    parent_category_key and price (null where unknown). `con` holds the tables of a data set.
    """
    cut = ibis.timestamp(instant(at))
    history = con.table("item_properties").filter(lambda t: t.occurred_at < cut)
    state = history.group_by(col.ITEM_KEY).agg(
        category_id=latest(history.value, history.occurred_at, where=history.property == CATEGORY),
        latest_available=latest(history.value, history.occurred_at, where=history.property == AVAILABLE),
        price=latest(history.value, history.occurred_at, where=history.property == PRICE).try_cast("float64"),
    )
    known = con.table("items").filter(lambda t: t.first_seen_at < cut)[[col.ITEM_KEY, col.FIRST_SEEN_AT]]
    joined = known.left_join(state, col.ITEM_KEY).drop("item_key_right")
    joined = joined.left_join(con.table("categories"), "category_id")
    return joined.select(
        col.ITEM_KEY,
        col.FIRST_SEEN_AT,
        "price",
        category_key=joined.category_key,
        parent_category_key=joined.parent_category_key,
        available=(joined.latest_available != "0").fill_null(True),
    )


class Dataset:
    """A prepared data set in a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises ArtifactError when the folder holds no data set."""
        self.folder = Path(folder)
        missing = [name for name in (META_FILE, *map(_file, SCHEMAS)) if not (self.folder / name).is_file()]
        if missing:
            raise ArtifactError(f"{self.folder} holds no prepared data set: {', '.join(missing)} not found")
        self.meta = DatasetMeta.from_json((self.folder / META_FILE).read_text())

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One of the tables in `SCHEMAS`, whole or some columns of it."""
        return pq.read_table(self.folder / _file(name), columns=columns)

    def interactions(self, before: int | None = None) -> Interactions:
        """The events strictly before `before` (microseconds; all of the data set when None), in time order."""
        cut_at = self.meta.as_of if before is None else min(before, self.meta.as_of)
        events = self.table("events")
        occurred_at = events[col.OCCURRED_AT].cast(pa.int64()).to_numpy()
        events = events.slice(0, int(np.searchsorted(occurred_at, cut_at, side="left")))
        return Interactions(
            user_key=events[col.USER_KEY].to_numpy(),
            item_key=events[col.ITEM_KEY].to_numpy(),
            event_type=_codes(events[col.EVENT_TYPE], self.meta.event_types),
            weight=events[col.WEIGHT].to_numpy(),
            occurred_at=occurred_at[: len(events)],
            session_id=events[col.SESSION_ID].to_numpy(),
            value=events[col.VALUE].to_numpy(),
            event_types=self.meta.event_types,
            cut_at=cut_at,
            parameters=_texts(events[col.PARAMETERS]) if col.PARAMETERS in events.column_names else None,
            label=_labels(events[col.ACTION_LABEL]),
        )

    def catalogue(self, at: int | None = None) -> Catalogue:
        """The items first seen strictly before `at` (microseconds), with category and availability as of then."""
        at = self.meta.as_of if at is None else at
        con = self.connect()
        items = items_as_of(con, at).order_by(col.ITEM_KEY)
        table = con.to_pyarrow(items)
        con.disconnect()
        return Catalogue(
            item_key=table[col.ITEM_KEY].to_numpy(),
            available=table[col.AVAILABLE].to_numpy().astype(np.bool_),
            category_key=table[col.CATEGORY_KEY].fill_null(-1).to_numpy(),
            parent_category_key=table[col.PARENT_CATEGORY_KEY].fill_null(-1).to_numpy(),
            first_seen_at=table[col.FIRST_SEEN_AT].cast(pa.int64()).to_numpy(),
            describe=partial(self.descriptions, at),
        )

    def descriptions(self, at: int) -> Descriptions:
        """The items of `catalogue(at)`: titles and prices strictly before `at`, and the other properties by their
        latest values in the data set, which keeps no history of them."""
        con = self.connect()
        cut = ibis.timestamp(instant(at))
        titles = con.table("item_properties").filter(lambda t: (t.occurred_at < cut) & (t.property == TITLE))
        titles = titles.group_by(col.ITEM_KEY).agg(title=latest(titles.value, titles.occurred_at))
        items = items_as_of(con, at)[[col.ITEM_KEY, "price"]].left_join(titles, col.ITEM_KEY).drop("item_key_right")
        items = items.left_join(con.table("items")[[col.ITEM_KEY, "properties"]], col.ITEM_KEY).drop("item_key_right")
        table = con.to_pyarrow(items.order_by(col.ITEM_KEY))
        con.disconnect()
        price = table["price"].cast(pa.float64()).fill_null(float("nan")).to_numpy()
        return Descriptions(table["title"].to_pylist(), price, table["properties"].to_pylist())

    def connect(self, **duckdb_config: Any) -> Any:
        """An Ibis DuckDB backend with one view for each table; `duckdb_config` as `duckdb.connect` takes it."""
        con = ibis.duckdb.connect(**duckdb_config)
        con.raw_sql("SET TimeZone = 'UTC'")
        for name in SCHEMAS:
            con.read_parquet(self.folder / _file(name), table_name=name)
        return con


def write_dataset(folder: Path, meta: DatasetMeta, tables: Mapping[str, pa.Table]) -> Dataset:
    """Check the tables, sort and write them, and `dataset.json`, into an existing folder.

    `tables`: name in `SCHEMAS` → table with at least the columns that may not be null; columns may be of any
    type that casts without loss; `events` and `items` and `users` are needed, the others may be left out.
    Row counts of `meta` are filled in. Raises InputError, naming table and column, before anything is written.
    """
    unknown = set(tables) - set(SCHEMAS)
    if unknown:
        raise InputError(f"a data set has no table {', '.join(sorted(unknown))}; its tables are {', '.join(SCHEMAS)}")
    ready = {name: conform(name, tables.get(name)) for name in SCHEMAS}
    _check_meaning(ready, meta)
    with ThreadPoolExecutor() as writers:
        list(
            writers.map(lambda name: pq.write_table(ready[name], Path(folder) / _file(name), compression="zstd"), ready)
        )
    counted = DatasetMeta(**{**meta.__dict__, "n_rows": {name: len(table) for name, table in ready.items()}})
    (Path(folder) / META_FILE).write_text(counted.to_json())
    return Dataset(folder)


def conform(name: str, table: pa.Table | None) -> pa.Table:
    """`table` with the columns, types and order of rows that `SCHEMAS[name]` asks for; InputError where it cannot."""
    schema = SCHEMAS[name]
    if table is None:
        if name in ("events", "items", "users"):
            raise InputError(f"a data set needs the table {name}")
        return schema.empty_table()
    arrays = []
    for want in schema:
        if want.name not in table.column_names:
            if not want.nullable:
                raise InputError(f"table {name} lacks the column {want.name}")
            arrays.append(pa.nulls(len(table), want.type))
            continue
        try:
            column = pc.cast(table[want.name], want.type)
        except pa.ArrowInvalid as error:
            raise InputError(f"{name}.{want.name} cannot be read as {want.type}: {error}") from error
        if not want.nullable and column.null_count:
            raise InputError(f"{name}.{want.name} has {column.null_count} nulls; it may have none")
        arrays.append(column)
    conforming = pa.Table.from_arrays(arrays, schema=schema)
    return _sorted(conforming, _SORTED_BY[name])


def _check_meaning(tables: Mapping[str, pa.Table], meta: DatasetMeta) -> None:
    for name, key in (("items", col.ITEM_KEY), ("users", col.USER_KEY), ("categories", col.CATEGORY_KEY)):
        keys = tables[name][key].to_numpy()
        if len(keys) and (keys[0] < 0 or (np.diff(keys) == 0).any()):
            raise InputError(f"{name}.{key} must be unique and not negative")
    events = tables["events"]
    for key, owner in ((col.USER_KEY, "users"), (col.ITEM_KEY, "items")):
        stray = ~np.isin(events[key].to_numpy(), tables[owner][key].to_numpy())
        if stray.any():
            raise InputError(f"{int(stray.sum())} events have a {key} that is not in the table {owner}")
    found = {str(value) for value in pc.unique(events[col.EVENT_TYPE]).to_pylist()}
    undeclared = found - set(meta.event_types)
    if undeclared:
        raise InputError(f"event types {sorted(undeclared)} are not among the declared {list(meta.event_types)}")
    for name in ("events", "item_properties"):
        if len(tables[name]) and pc.max(tables[name][col.OCCURRED_AT].cast(pa.int64())).as_py() >= meta.as_of:
            raise InputError(f"{name} has rows at or after the cut-off {meta.as_of_at.isoformat()}")


def _sorted(table: pa.Table, by: tuple[str, ...]) -> pa.Table:
    columns = {name: _comparable(table[name]) for name in by}
    if len(table) < 2 or _is_sorted(list(columns.values())):
        return table
    return table.take(pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in by]))


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _is_sorted(by: list[pa.ChunkedArray]) -> bool:
    """Whether the rows are in ascending order of the columns `by`, first column first."""
    still_equal: Any = True
    for values in by:
        left, right = values.slice(0, len(values) - 1), values.slice(1)
        if pc.any(pc.and_(pc.greater(left, right), still_equal)).as_py():
            return False
        still_equal = pc.and_(pc.equal(left, right), still_equal)
    return True


def _labels(column: pa.ChunkedArray) -> NDArray[np.float32] | None:
    """What each event says of its item; None where all speak for theirs."""
    label: NDArray[np.float32] = column.fill_null(1.0).to_numpy()
    return None if (label == 1.0).all() else label


def _codes(column: pa.ChunkedArray, event_types: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Texts → their positions in `event_types`, int8."""
    if not len(column):
        return np.zeros(0, dtype=np.int8)
    encoded = column.cast(NAME).combine_chunks() if not pa.types.is_dictionary(column.type) else column.combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    position = np.array([event_types.index(name) for name in encoded.dictionary.to_pylist()], dtype=np.int8)
    return position[encoded.indices.to_numpy()]


def _texts(column: pa.ChunkedArray) -> Texts | None:
    """None where all are null."""
    if column.null_count == len(column):
        return None
    encoded = pa.concat_arrays(column.cast(NAME).unify_dictionaries().chunks)
    code = encoded.indices.fill_null(-1).to_numpy().astype(np.int32, copy=False)
    return Texts(code, encoded.dictionary.to_pylist())


def _file(name: str) -> str:
    return f"{name}.parquet"
