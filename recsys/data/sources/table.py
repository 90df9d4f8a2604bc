"""Any CSV or Parquet file of events, with a map from this project's names to the file's columns.

`user=…,item=…,timestamp=…` are needed; `event`, `value` and `transaction` may be given. See the README beside
this file for every option.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.base import (
    CATEGORY_TREE,
    DATA_SUFFIXES,
    EVENTS,
    ITEM_PROPERTIES,
    SHOWN_SUFFIXES,
    Chunk,
    Declaration,
    Part,
    Rejected,
    as_text,
    check_options,
    find_files,
    name_in,
    passed_over,
)
from recsys.data.sources.checking import Checked, as_declared, reject_unweighed
from recsys.data.sources.day_times import DayTimes
from recsys.data.sources.formats import FORMAT_OPTIONS, csv_format
from recsys.data.sources.numbers import Decimal, plain_numbers
from recsys.data.sources.reading import (
    columns_of,
    filled_files,
    is_empty,
    is_parquet,
    no_rows,
    parquet_types,
    read_blocks,
    require_columns,
    shown_formats,
)
from recsys.data.sources.survey import Decimals, Ids, Survey, Times
from recsys.data.sources.table_options import as_id_type, decimal_sign, types_of, weights_of
from recsys.data.sources.times import TimeFormat, checked_zone
from recsys.errors import InputError
from recsys.ids import IdType, is_storable

COLUMN_OPTIONS = ("user", "item", "timestamp", "event", "value", "transaction")
DEFAULT_WEIGHTS = {"view": 1.0, "addtocart": 3.0, "transaction": 5.0}
SINGLE_EVENT = "interaction"  # the event type of a file without such a column


class Table:
    """One file, or a folder whose files are read in the order of their names."""

    name: ClassVar[str] = "table"
    option_names: ClassVar[tuple[str, ...]] = (
        *COLUMN_OPTIONS,
        "timestamp_format",
        "timezone",
        "decimal",
        "null_values",
        "weights",
        "labels",
        "bought",
        "user_id_type",
        "item_id_type",
        "category_id_type",
        "items",
        "categories",
        *FORMAT_OPTIONS,
    )
    lasting_options: ClassVar[tuple[str, ...]] = (
        "user",
        "item",
        "event",
        "value",
        "transaction",
        "weights",
        "labels",
        "bought",
    )

    def __init__(self, path: Path, options: Mapping[str, str], weights: Mapping[str, float] | None = None) -> None:
        check_options(self.name, options, self.option_names)
        needed = [name for name in ("user", "item", "timestamp") if not options.get(name)]
        if needed:
            raise InputError(
                f"source table needs to know the column of {', '.join(needed)} (`recsys inspect` proposes them all): "
                f"give --option {needed[0]}=<name of the column> and so on"
            )
        self._columns = {name: options[name].strip() for name in COLUMN_OPTIONS if options.get(name)}
        self._null_values = frozenset(word for word in options.get("null_values", "").split(",") if word)
        self._root = path
        self._csv = csv_format(options)
        # Names and the header are those of the events; further files are told from themselves.
        self._csv_beside = replace(self._csv, names=None, header=None)
        extra = [_beside(path, options[name]) for name in ("items", "categories") if name in options]
        files = find_files(path, "*", DATA_SUFFIXES) if path.is_dir() else [path]
        self._files = [file for file in files if file.resolve() not in {other.resolve() for other in extra}]
        if not self._files:
            raise InputError(f"{path}: no file whose name ends in {SHOWN_SUFFIXES} in this folder or below it")
        self.notes: list[str] = []
        if path.is_dir() and (others := [other for other in passed_over(path) if other not in extra]):
            self.notes.append(
                f"{len(others)} file{'s' if len(others) > 1 else ''} of other kinds passed over: "
                f"{', '.join(name_in(path, other) for other in others[:5])}{' and others' if len(others) > 5 else ''}; "
                f"data end in {SHOWN_SUFFIXES}"
            )
        self._filled = filled_files(self._files, self._csv, self.notes)
        day, plus, time = self._columns["timestamp"].partition("+")
        if plus and self._columns["timestamp"] not in columns_of(self._filled[0], self._csv):
            self._columns |= {"timestamp": day, "time": time}  # the day in one column, the time of the day in another
        for file in self._files:
            if file in self._filled or not is_empty(file, self._csv):
                self._require(file)
        self.notes += [*shown_formats(self._filled, self._csv), *shown_formats(extra, self._csv_beside)]
        self._items = _beside(path, options["items"]) if "items" in options else None
        self._categories = _beside(path, options["categories"]) if "categories" in options else None
        self.declaration = self._declaration(options, weights or {})
        self._written, self._decimal = self._look_over(options)
        self._price_decimal = self._look_over_items(options)

    def _require(self, file: Path) -> None:
        try:
            require_columns(file, list(self._columns.values()), self._csv)
        except InputError as error:
            if len(self._files) == 1:
                raise
            raise InputError(
                f"{error}. All files of a folder hold events, but those that options items and categories name"
            ) from None

    def parts(self) -> list[Part]:
        """The events of each file, then the items' properties and the categories where they are given."""
        parts = [
            Part(
                EVENTS,
                file,
                name_in(self._root, file),
                partial(self._events, file) if file in self._filled else partial(no_rows, EVENTS, file, self._csv),
            )
            for file in self._files
        ]
        if items := self._items:
            found = require_columns(items, [self._columns["item"]], self._csv_beside)
            is_state = self._columns["timestamp"] not in found
            name, read = as_text(items.name), partial(self._item_properties, items)
            parts.append(Part(ITEM_PROPERTIES, items, name, read, is_state))
        if tree := self._categories:
            require_columns(tree, ["categoryid", "parentid"], self._csv_beside)
            parts.append(Part(CATEGORY_TREE, tree, as_text(tree.name), partial(self._tree, tree), is_state=True))
        return parts

    def _events(self, path: Path) -> Iterator[Chunk]:
        weights = self.declaration.event_weights
        for block in read_blocks(path, list(self._columns.values()), csv=self._csv):
            checked = Checked(block, self._columns, self._null_values)
            if "event" in self._columns:
                event = as_declared(checked.text("event"), weights)
                checked.reject(pc.is_null(event), f"{self._columns['event']} is empty")
                reject_unweighed(checked, event, weights, f"option weights; known are {', '.join(weights)}")
            else:
                event = pa.array([next(iter(weights))] * checked.n, pa.string())
            columns = {
                "timestamp": checked.timestamp("timestamp", self._written),
                "visitorid": checked.identifier("user", self.declaration.user_id_type),
                "event": event,
                "itemid": checked.identifier("item", self.declaration.item_id_type),
            }
            if "transaction" in self._columns:
                columns["transactionid"] = checked.text("transaction", required=False)
            if "value" in self._columns:
                columns["value"] = checked.number("value", required=False, decimal=self._decimal)
            yield checked.chunk(EVENTS, columns)

    def _item_properties(self, path: Path) -> Iterator[Chunk]:
        """Every other column is a property, known from the first event of the files on, or from its own time."""
        item, at = self._columns["item"], self._columns["timestamp"]
        found = columns_of(path, self._csv_beside)
        names = [name for name in dict.fromkeys(found) if name and name not in (item, at)]
        if not names:
            raise InputError(f"{path}: no column besides {item!r}; each further column is a property of the item")
        start = None if at in found else self._start()
        for block in read_blocks(path, [item], [at, *names], csv=self._csv_beside):
            yield self._properties_chunk(Checked(block, self._columns, self._null_values), names, start)

    def _properties_chunk(self, checked: Checked, names: list[str], start: int | None) -> Chunk:
        ids = checked.identifier("item", self.declaration.item_id_type)
        if start is None:
            times = checked.timestamp("timestamp", self._written)
        else:
            times = pa.array([start] * checked.n, pa.int64())
        values = {name: self._property(checked, name) for name in names}
        pieces, rejected = [], list[Rejected]()
        for name in names:
            chunk = checked.chunk(
                ITEM_PROPERTIES,
                {
                    "timestamp": times,
                    "itemid": ids,
                    "property": pa.array([name] * checked.n, pa.string()),
                    "value": values[name],
                },
            )
            pieces.append(chunk.rows.filter(pc.is_valid(chunk.rows["value"])))
            rejected = chunk.rejected
        return Chunk(
            pa.concat_batches(pieces),
            checked.block.end,
            rejected,
            dict(checked.left_out),
            checked.emptied,
            lines=chunk.lines,
            n_records=int(checked.keep.sum()),
        )

    def _property(self, checked: Checked, name: str) -> pa.Array:
        """A property's values as text; those with a meaning as ids, flags and plain numbers."""
        if name == "categoryid":
            texts = checked.text(name, required=False)
            option = " (option category_id_type=string takes any text)"
            return checked.identifiers_of(texts, self.declaration.category_id_type, name, option, required=False)
        if name == "available":
            return checked.flag(name)
        if name == "price":
            return plain_numbers(checked.number(name, required=False, decimal=self._price_decimal))
        return checked.text(name, required=False)

    def _tree(self, path: Path) -> Iterator[Chunk]:
        id_type = self.declaration.category_id_type
        for block in read_blocks(path, ("categoryid", "parentid"), csv=self._csv_beside):
            checked = Checked(block, {"category": "categoryid"}, self._null_values)
            columns = {
                "categoryid": checked.identifier("category", id_type),
                "parentid": checked.identifier("parentid", id_type, required=False),
            }
            yield checked.chunk(CATEGORY_TREE, columns)

    def _start(self) -> int:
        firsts = (pc.min(chunk.rows["timestamp"]).as_py() for file in self._filled for chunk in self._events(file))
        known = [first for first in firsts if first is not None]
        if not known:
            raise InputError(f"{self._files[0]}: no row can be read as an event")
        return min(known)

    def _look_over(self, options: Mapping[str, str]) -> tuple[TimeFormat, Decimal | None]:
        """How times and values are written, as the options say or the files tell; and notes of what is odd."""
        zone, decimal = checked_zone(options.get("timezone")), decimal_sign(options.get("decimal"))
        declared = {"user": self.declaration.user_id_type, "item": self.declaration.item_id_type}
        survey = Survey(
            times=None if "timestamp_format" in options else Times(zone),
            day_times=DayTimes() if "time" in self._columns else None,
            ids={name: Ids() for name, id_type in declared.items() if id_type == "string"},
            decimals={"value": Decimals()} if "value" in self._columns and not decimal else {},
        )
        for file in self._filled:
            survey.look_over(file, self._columns, self._csv, self._null_values)
        for name, ids in survey.ids.items():
            self.notes += ids.notes(self._columns[name], name)
        if decimals := survey.decimals.get("value"):
            decimal = decimals.sign
            self.notes += decimals.notes(self._columns["value"])
        if survey.times is None:
            written = TimeFormat.of(options["timestamp_format"], zone)
        else:
            written = survey.times.format(self._columns["timestamp"])
            if survey.times.n:
                self.notes.append(survey.times.note(written))
        if survey.day_times is not None and not re.search("%[HIcXT]", written.name):
            written = replace(written, of_day=survey.day_times.unit)
            self.notes += survey.day_times.notes(self._columns["time"])
        return written, decimal

    def _look_over_items(self, options: Mapping[str, str]) -> Decimal | None:
        """The decimal sign of prices in the file of items."""
        if self._items is None:
            return None
        found = columns_of(self._items, self._csv_beside)
        if strange := [name for name in found if not is_storable(name)]:
            raise InputError(
                f"{self._items}: the name of column {strange[0]!r} holds a NUL character or half of another one, "
                "which no database takes; rename it"
            )
        survey = Survey(
            ids={"categoryid": Ids()}
            if "categoryid" in found and self.declaration.category_id_type == "string"
            else {},
            decimals={"price": Decimals()} if "price" in found else {},
        )
        survey.look_over(self._items, {}, self._csv_beside, self._null_values)
        for name, ids in survey.ids.items():
            self.notes += ids.notes(name, "category")
        prices, given = survey.decimals.get("price"), decimal_sign(options.get("decimal"))
        if prices is None or given is not None:
            return given
        self.notes += prices.notes("price")
        return prices.sign

    def _declaration(self, options: Mapping[str, str], others: Mapping[str, float]) -> Declaration:
        if "weights" in options:
            weights = weights_of(options["weights"])
        else:
            weights = DEFAULT_WEIGHTS if "event" in self._columns else {SINGLE_EVENT: 1.0}
        if "event" not in self._columns and len(weights) != 1:
            raise InputError("option weights names several event types, but no column tells them apart: give event=…")
        if "event" in self._columns:
            weights = weights | {name: weight for name, weight in others.items() if name not in weights}
        speaking_for = [weight for weight in weights.values() if weight > 0]
        if not speaking_for:
            raise InputError("option weights: no type has a weight above 0, so no event would speak for its item")
        lowest, highest = min(speaking_for), max(speaking_for)
        labels = tuple(t for t, weight in weights.items() if weight > lowest or weight == lowest == highest)
        bought = tuple(t for t, weight in weights.items() if weight == highest)
        return Declaration(
            user_id_type=self._id_type("user", options),
            item_id_type=self._id_type("item", options),
            category_id_type=as_id_type("category", options.get("category_id_type", "string")),
            event_weights=weights,
            label_event_types=types_of("labels", options, weights, labels),
            bought_event_types=types_of("bought", options, weights, bought),
        )

    def _id_type(self, entity: str, options: Mapping[str, str]) -> IdType:
        if given := options.get(f"{entity}_id_type"):
            return as_id_type(entity, given)
        path = self._filled[0]
        if not is_parquet(path):
            return "string"
        kind = parquet_types(path)[self._columns[entity]]
        return "integer" if pa.types.is_integer(kind) else "string"


def _beside(path: Path, name: str) -> Path:
    """A further file: as named, or beside the events."""
    folder = path if path.is_dir() else path.parent
    return folder / name if (folder / name).is_file() else Path(name)
