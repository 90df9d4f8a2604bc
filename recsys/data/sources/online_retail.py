"""Online Retail: the lines of one UK shop's invoices, one row a line (UCI sets 352 and 502), as Parquet or CSV.

A line becomes a `transaction` of its customer with its item, the unit price its value, the invoice its
transaction. Left out, each with its count: cancelled invoices (`C…`), lines without a customer, lines whose
quantity or price is not positive, and codes that stand for no product. A cancelled invoice is left out as a
whole and takes nothing else with it: the purchase that it cancels stays, as a sign of what the customer wanted
(protocol B4 counts the lines this way). `PADS` is a product, for all its short code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.base import (
    EVENTS,
    ITEM_PROPERTIES,
    USER_PROPERTIES,
    Chunk,
    Declaration,
    Part,
    check_options,
    find_files,
    properties_chunks,
)
from recsys.data.sources.checking import Checked, iso_milliseconds
from recsys.data.sources.reading import CsvFormat, columns_of, read_blocks
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
_CSV = CsvFormat(quoting=True, latin1=True)


class OnlineRetail:
    """One file of invoice lines, or a folder that holds one or more."""

    name: ClassVar[str] = "online-retail"
    option_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, options: Mapping[str, str]) -> None:
        check_options(self.name, options, self.option_names)
        self._files = find_files(path, "*", (".parquet", ".csv", ".csv.gz")) if path.is_dir() else [path]
        if not self._files:
            raise InputError(f"{path}: no .parquet or .csv file of invoice lines in this folder")
        self.declaration = Declaration(
            user_id_type="integer",
            item_id_type="string",
            category_id_type="string",
            event_weights={"transaction": 1.0},
            label_event_types=("transaction",),
            bought_event_types=("transaction",),
        )
        self.notes = ["a cancelled invoice is left out; the purchase that it cancels stays"]

    def parts(self) -> list[Part]:
        """Events; titles and prices as they change; customers' countries."""
        files = [_InvoiceLines(path) for path in self._files]
        return [
            *(Part(EVENTS, file.path, file.path.name, file.events) for file in files),
            *(Part(ITEM_PROPERTIES, file.path, file.path.name, file.item_properties) for file in files),
            *(Part(USER_PROPERTIES, file.path, file.path.name, file.user_properties) for file in files),
        ]


class _InvoiceLines:
    def __init__(self, path: Path) -> None:
        self.path = path
        found = columns_of(path, _CSV)
        self._where = {}
        for name, spellings in COLUMNS.items():
            here = [spelling for spelling in spellings if spelling in found]
            if not here:
                raise InputError(f"{path}: column {spellings[0]!r} is missing; the file has {', '.join(found)}")
            self._where[name] = here[0]

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
            item = checked.text("item", max_length=256)
            customer = checked.identifier("customer", "integer", required=False)
            checked.leave_out(pc.match_substring_regex(invoice, "(?i)^C"), "cancelled invoice")
            checked.leave_out(pc.is_null(customer), "no customer")
            quantity = checked.number("quantity")
            checked.leave_out(pc.less_equal(quantity, 0), "quantity is not positive")
            price = checked.number("price")
            checked.leave_out(pc.less_equal(price, 0), "price is not positive")
            checked.leave_out(pc.match_substring_regex(item, NO_PRODUCT), "code of no product")
            yield (
                checked,
                {
                    "timestamp": _instants(checked),
                    "visitorid": customer,
                    "event": pa.array(["transaction"] * checked.n, pa.string()),
                    "itemid": item,
                    "transactionid": invoice,
                    "value": price,
                    "title": pc.utf8_trim_whitespace(checked.text("title", required=False)),
                    "price": price.cast(pa.string()),
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


def _instants(checked: Checked) -> pa.Array:
    cells = checked.cells("at")
    if cells is None or pa.types.is_timestamp(cells.type):
        return checked.timestamp("at", "iso")
    texts = checked.text("at")
    millis = iso_milliseconds(texts)
    american = pc.strptime(texts, format="%m/%d/%Y %H:%M", unit="ms", error_is_null=True).cast(pa.int64())
    millis = pc.coalesce(millis, american)
    checked.reject(pc.is_null(millis), "InvoiceDate is neither ISO nor month/day/year hour:minute")
    return millis


def _changes(lines: pa.Table, owner: str, name: str) -> tuple[object, object, str, object]:
    """Rows where an owner's value differs from its former one in time: (timestamps, owners, name, values)."""
    frame = lines.select(["timestamp", owner, name]).to_pandas().dropna()
    former = frame.groupby(owner, sort=False)[name].shift()
    frame = frame[former.isna() | (frame[name] != former)]
    return frame["timestamp"].to_numpy(), frame[owner], name, frame[name]
