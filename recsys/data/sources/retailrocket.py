"""RetailRocket: `events.csv`, `item_properties_part*.csv`, `category_tree.csv`, also packed or as Parquet.

The events alone are needed: a missing property or tree file is noted and lived with. Property names other than
`categoryid` and `available` are hashed; numbers in values look like `n12000.000`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.base import (
    CATEGORY_TREE,
    CSV_SUFFIXES,
    EVENTS,
    ITEM_PROPERTIES,
    Chunk,
    Declaration,
    Part,
    check_options,
    find_files,
    name_in,
)
from recsys.data.sources.checking import Checked, reject_unweighed
from recsys.data.sources.reading import DETECTED, filled_files, is_empty, no_rows, read_blocks, require_columns
from recsys.data.sources.times import TimeFormat
from recsys.errors import InputError

CATEGORY, AVAILABLE = "categoryid", "available"  # the two properties whose names are not hashed


class RetailRocket:
    """A folder with the three kinds of files."""

    name: ClassVar[str] = "retailrocket"
    option_names: ClassVar[tuple[str, ...]] = ()
    lasting_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, options: Mapping[str, str], weights: Mapping[str, float] | None = None) -> None:
        check_options(self.name, options, self.option_names)
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; give the one that holds events.csv")
        self.declaration = Declaration(
            user_id_type="integer",
            item_id_type="integer",
            category_id_type="integer",
            event_weights={"view": 1.0, "addtocart": 3.0, "transaction": 5.0},
            label_event_types=("addtocart", "transaction"),
            bought_event_types=("transaction",),
        ).weighed(weights or {})
        self.notes: list[str] = []
        self._folder = path
        self._events = find_files(path, "events*", CSV_SUFFIXES)
        self._properties = find_files(path, "item_properties*", CSV_SUFFIXES)
        self._tree = find_files(path, "category_tree*", CSV_SUFFIXES)
        if not self._events:
            raise InputError(f"{path}: no events.csv (nor .csv.gz or .parquet); it is the one file that is needed")
        if not self._properties:
            self.notes.append("no item_properties file: items have no categories, and all count as available")
        if not self._tree:
            self.notes.append("no category_tree file: categories have no parents")
        known = {*self._events, *self._properties, *self._tree}
        self._filled = filled_files(self._events, DETECTED, self.notes)
        for files in (self._properties, self._tree):
            self._filled += filled_files(files, DETECTED, self.notes, needed=False)
        others = [name_in(path, file) for file in find_files(path, "*", CSV_SUFFIXES) if file not in known]
        if others:
            self.notes.append(f"not read, as their names are not RetailRocket's: {', '.join(others)}")

    def parts(self) -> list[Part]:
        """Events, then properties, then the tree; a missing column is found here, before anything is read."""
        for files, needed in (
            (self._events, ("timestamp", "visitorid", "event", "itemid")),
            (self._properties, ("timestamp", "itemid", "property", "value")),
            (self._tree, ("categoryid", "parentid")),
        ):
            for file in files:
                if file in self._filled or not is_empty(file, DETECTED):
                    require_columns(file, needed)
        return [
            Part(
                stream,
                file,
                name_in(self._folder, file),
                partial(read, file) if file in self._filled else partial(no_rows, stream, file, DETECTED),
            )
            for stream, files, read in (
                (EVENTS, self._events, self._read_events),
                (ITEM_PROPERTIES, self._properties, _properties),
                (CATEGORY_TREE, self._tree, _tree),
            )
            for file in files
        ]

    def _read_events(self, path: Path) -> Iterator[Chunk]:
        for block in read_blocks(path, ("timestamp", "visitorid", "event", "itemid"), ("transactionid",)):
            checked = Checked(block)
            event = checked.text("event")
            reject_unweighed(checked, event, self.declaration.event_weights, "RECSYS_EVENT_WEIGHTS")
            yield checked.chunk(
                EVENTS,
                {
                    "timestamp": checked.timestamp("timestamp", TimeFormat("ms")),
                    "visitorid": checked.identifier("visitorid", "integer"),
                    "event": event,
                    "itemid": checked.identifier("itemid", "integer"),
                    "transactionid": checked.text("transactionid", required=False),
                },
            )


class GeneratedShop(RetailRocket):
    """What `recsys generate` wrote (see `generated`): the same files, by a name that says where from."""

    name: ClassVar[str] = "generated"


def _properties(path: Path) -> Iterator[Chunk]:
    for block in read_blocks(path, ("timestamp", "itemid", "property", "value")):
        checked = Checked(block)
        name = checked.text("property", max_length=256)
        yield checked.chunk(
            ITEM_PROPERTIES,
            {
                "timestamp": checked.timestamp("timestamp", TimeFormat("ms")),
                "itemid": checked.identifier("itemid", "integer"),
                "property": name,
                "value": _values(checked, name),
            },
        )


def _values(checked: Checked, name: pa.Array) -> pa.Array:
    """Values as text, those of `categoryid` as ids and those of `available` as 1 and 0. What is a number may be
    written as `n13.000`."""
    values = checked.text("value", required=False)
    is_category, is_flag = pc.equal(name, CATEGORY), pc.equal(name, AVAILABLE)
    nothing = pa.scalar(None, pa.string())
    categories = pc.replace_substring_regex(pc.if_else(is_category, values, nothing), r"^n(-?[0-9]+)[.]0+$", r"\1")
    categories = checked.identifiers_of(categories, "integer", f"value of {CATEGORY}", required=False)
    flags = checked.flags_of(pc.if_else(is_flag, values, nothing))
    return pc.case_when(
        pc.make_struct(pc.fill_null(is_category, False), pc.fill_null(is_flag, False)), categories, flags, values
    )


def _tree(path: Path) -> Iterator[Chunk]:
    for block in read_blocks(path, ("categoryid", "parentid")):
        checked = Checked(block)
        yield checked.chunk(
            CATEGORY_TREE,
            {
                "categoryid": checked.identifier("categoryid", "integer"),
                "parentid": checked.identifier("parentid", "integer", required=False),
            },
        )
