"""Online Retail: the lines of one UK shop's invoices, one row a line (UCI sets 352 and 502), as Parquet or CSV.

A line becomes a `transaction` of its customer with its item, the unit price its value, the invoice its
transaction. Left out, each with its count: cancelled invoices (`C…`), lines without a customer, lines whose
quantity or price is not positive, and codes that stand for no product. A cancelled invoice is left out as a
whole and takes nothing else with it: the purchase that it cancels stays, as a sign of what the customer wanted
(protocol B4 counts the lines this way). `PADS` is a product, for all its short code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.base import (
    CSV_SUFFIXES,
    EVENTS,
    ITEM_PROPERTIES,
    USER_PROPERTIES,
    Chunk,
    Declaration,
    Part,
    check_options,
    find_files,
    name_in,
    properties_chunks,
)
from recsys.data.sources.checking import Checked
from recsys.data.sources.numbers import Decimal, plain_numbers
from recsys.data.sources.reading import CsvFormat, columns_of, filled_files, is_empty, no_rows, read_blocks
from recsys.data.sources.survey import Decimals, Survey, Times
from recsys.data.sources.times import MONTH_FIRST, TimeFormat
from recsys.errors import InputError

# Each column's name here, and those that the editions of the set give it.
COLUMNS: dict[str, tuple[str, ...]] = {
    "invoice": ("InvoiceNo", "Invoice"),
    "item": ("StockCode",),
    "title": ("Description",),
    "quantity": ("Quantity",),
    "at": ("InvoiceDate",),
    "price": ("UnitPrice", "Price"),
    "customer": ("CustomerID", "Customer ID"),
    "country": ("Country",),
}
# Postage, manual entries, carriage, discounts, samples, fees, commission, bad debt, tests and gift vouchers.
NO_PRODUCT = r"(?i)^(POST|DOT|M|C2|C3|D|S|B|BANK CHARGES|AMAZONFEE|CRUK|ADJUST2?|GIFT|TEST[0-9]*|gift_.*)$"
_CSV = CsvFormat(quoting=True)


class OnlineRetail:
    """One file of invoice lines, or a folder that holds one or more."""

    name: ClassVar[str] = "online-retail"
    option_names: ClassVar[tuple[str, ...]] = ("timestamp_format",)
    lasting_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, options: Mapping[str, str], weights: Mapping[str, float] | None = None) -> None:
        check_options(self.name, options, self.option_names)
        self._given = TimeFormat.of(options["timestamp_format"], None) if "timestamp_format" in options else None
        self._files = find_files(path, "*", CSV_SUFFIXES) if path.is_dir() else [path]
        if not self._files:
            raise InputError(f"{path}: no .parquet or .csv file of invoice lines in this folder")
        self.declaration = Declaration(
            user_id_type="integer",
            item_id_type="string",
            category_id_type="string",
            event_weights={"transaction": 1.0},
            label_event_types=("transaction",),
            bought_event_types=("transaction",),
        ).weighed(weights or {})
        self.notes = ["a cancelled invoice is left out; the purchase that it cancels stays"]
        self._root = path
        self._files = _of_invoices(self._files, path, self.notes)
        self._filled = filled_files(self._files, _CSV, self.notes)

    def parts(self) -> list[Part]:
        """Events; titles and prices as they change; customers' countries."""
        columns = [_columns_of(path) for path in self._filled]
        times, prices = Times(None), Decimals()
        survey = Survey(times, decimals={"price": prices})
        for path, where in zip(self._filled, columns, strict=True):
            survey.look_over(path, {**where, "timestamp": where["at"]}, _CSV, ())
        # Where no row tells the day from the month, the month comes first, as in the set's first edition.
        written = self._given or times.format(columns[0]["at"], otherwise=MONTH_FIRST)
        if times.n and (note := times.note(written)) not in self.notes:
            self.notes.append(note)
        both = zip(self._filled, columns, strict=True)
        files = [(name_in(self._root, path), _InvoiceLines(path, where, written, prices.sign)) for path, where in both]
        empty = [path for path in self._files if path not in self._filled]
        for path in empty:
            if not is_empty(path, _CSV):
                _columns_of(path)
        return [
            *(Part(EVENTS, file.path, name, file.events) for name, file in files),
            *(Part(EVENTS, path, name_in(self._root, path), partial(no_rows, EVENTS, path, _CSV)) for path in empty),
            *(Part(ITEM_PROPERTIES, file.path, name, file.item_properties) for name, file in files),
            *(Part(USER_PROPERTIES, file.path, name, file.user_properties) for name, file in files),
        ]


def _of_invoices(files: list[Path], root: Path, notes: list[str]) -> list[Path]:
    """Without the files of a folder that have hardly a column of invoice lines, which are told in `notes`."""
    others = [path for path in files if not is_empty(path, _CSV) and _n_found(path) * 2 < len(COLUMNS)]
    if not others or len(others) == len(files):
        return files
    shown = ", ".join(name_in(root, path) for path in others[:5]) + (" and others" if len(others) > 5 else "")
    notes.append(f"{len(others)} of {len(files)} files hold no invoice lines and are passed over: {shown}")
    return [path for path in files if path not in others]


def _n_found(path: Path) -> int:
    found = set(columns_of(path, _CSV))
    return sum(not found.isdisjoint(spellings) for spellings in COLUMNS.values())


def _columns_of(path: Path) -> dict[str, str]:
    found = columns_of(path, _CSV)
    where = {}
    for name, spellings in COLUMNS.items():
        here = [spelling for spelling in spellings if spelling in found]
        if not here:
            raise InputError(f"{path}: column {spellings[0]!r} is missing; the file has {', '.join(found)}")
        where[name] = here[0]
    return where


class _InvoiceLines:
    def __init__(self, path: Path, where: Mapping[str, str], written: TimeFormat, decimal: Decimal | None) -> None:
        self.path = path
        self._where, self._written, self._decimal = where, written, decimal

    def events(self) -> Iterator[Chunk]:
        for checked, columns in self._checked():
            yield checked.chunk(EVENTS, columns)

    def item_properties(self) -> Iterator[Chunk]:
        """`title` and `price`, a row each time one differs from the item's former."""
        lines = self._lines
        yield from properties_chunks(ITEM_PROPERTIES, (_changes(lines, "itemid", name) for name in ("title", "price")))

    def user_properties(self) -> Iterator[Chunk]:
        """`country`, a row each time it differs from the customer's former."""
        yield from properties_chunks(USER_PROPERTIES, [_changes(self._lines, "visitorid", "country")])

    def _checked(self) -> Iterator[tuple[Checked, dict[str, pa.Array]]]:
        for block in read_blocks(self.path, list(self._where.values()), csv=_CSV):
            checked = Checked(block, self._where)
            invoice = checked.text("invoice", max_length=256)
            item = checked.identifier("item", "string")
            checked.leave_out(pc.match_substring_regex(invoice, "(?i)^C"), "cancelled invoice")
            checked.leave_out(checked.is_empty("customer"), "no customer")
            customer = checked.identifier("customer", "integer")
            quantity = checked.number("quantity")
            checked.leave_out(pc.less_equal(quantity, 0), "quantity is not positive")
            price = checked.number("price", decimal=self._decimal)
            checked.leave_out(pc.less_equal(price, 0), "price is not positive")
            checked.leave_out(pc.match_substring_regex(item, NO_PRODUCT), "code of no product")
            yield (
                checked,
                {
                    "timestamp": checked.timestamp("at", self._written),
                    "visitorid": customer,
                    "event": pa.array(["transaction"] * checked.n, pa.string()),
                    "itemid": item,
                    "transactionid": invoice,
                    "value": price,
                    "title": pc.utf8_trim_whitespace(checked.text("title", required=False)),
                    "price": plain_numbers(price),
                    "country": checked.text("country", required=False),
                },
            )

    @cached_property
    def _lines(self) -> pa.Table:
        """The lines that are loaded as events, with title and country, by time."""
        tables = []
        for checked, columns in self._checked():
            chunk = checked.chunk(EVENTS, columns)
            keep = pa.array(checked.keep)
            extra = {name: columns[name].filter(keep) for name in ("title", "price", "country")}
            tables.append(pa.table({**dict(zip(chunk.rows.schema.names, chunk.rows.columns, strict=True)), **extra}))
        table = pa.concat_tables(tables)
        return table.take(pc.sort_indices(table["timestamp"]))


def _changes(lines: pa.Table, owner: str, name: str) -> tuple[object, object, str, object]:
    """Rows where an owner's value differs from its former one in time: (timestamps, owners, name, values)."""
    frame = lines.select(["timestamp", owner, name]).to_pandas().dropna()
    former = frame.groupby(owner, sort=False)[name].shift()
    frame = frame[former.isna() | (frame[name] != former)]
    return frame["timestamp"].to_numpy(), frame[owner], name, frame[name]
