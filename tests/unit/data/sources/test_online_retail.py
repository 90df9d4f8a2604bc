"""Invoice lines: which are left out, and that exactly those of protocol B4 remain."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest

from recsys.data.sources import OnlineRetail
from recsys.data.sources.base import EVENTS, ITEM_PROPERTIES

HEADER = "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n"


def line(invoice="5", code="22139", quantity="1", at="2010-12-01 08:26:00", price="2.5", customer="17850.0") -> str:
    return f'{invoice},{code},"MUG, RED",{quantity},{at},{price},{customer},France\n'


def read(folder: Path, text: str, encoding: str = "utf-8"):
    (folder / "lines.csv").write_bytes((HEADER + text).encode(encoding))
    return OnlineRetail(folder, {}).parts()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (line(invoice="C5"), "cancelled invoice"),
        (line(customer=""), "no customer"),
        (line(quantity="-2"), "quantity is not positive"),
        (line(price="0"), "price is not positive"),
        *((line(code=code), "code of no product") for code in ("POST", "m", "BANK CHARGES", "gift_0001_20", "C2")),
    ],
)
def test_what_is_left_out_is_counted(tmp_path, row, reason):
    if "17850.0" in row:
        row = row.replace("17850.0", "17850")
    parts = read(tmp_path, row + line(customer="17850") + line(code="PADS", customer="17850"))
    (chunk,) = parts[0].read()
    assert chunk.rows["itemid"].to_pylist() == ["22139", "PADS"]
    assert {reason: n for reason, n in chunk.left_out.items() if n} == {reason: 1}


def test_a_cancellation_takes_its_purchase_not_along(tmp_path):
    parts = read(tmp_path, line(invoice="5", customer="7") + line(invoice="C6", quantity="-1", customer="7"))
    (chunk,) = parts[0].read()
    assert chunk.rows["transactionid"].to_pylist() == ["5"]


def test_titles_and_prices_are_told_when_they_change(tmp_path):
    days = [("01", "2.5"), ("02", "2.5"), ("03", "3.0"), ("04", "2.5")]
    text = "".join(line(at=f"2010-12-{day} 08:00:00", price=price, customer="7") for day, price in days)
    parts = read(tmp_path, text.replace("RED", "£"), "latin-1")
    (properties,) = (part for part in parts if part.stream == ITEM_PROPERTIES)
    (chunk,) = properties.read()
    rows = [tuple(row.values())[2:] for row in chunk.rows.to_pylist()]
    assert rows == [("title", "MUG, £"), ("price", "2.5"), ("price", "3"), ("price", "2.5")]


@pytest.mark.skipif("RECSYS_DATA_DIR" not in os.environ, reason="RECSYS_DATA_DIR is not set")
def test_the_lines_of_protocol_b4_remain():
    parts = OnlineRetail(Path(os.environ["RECSYS_DATA_DIR"]) / "online-retail", {}).parts()
    n, users, items, left_out = 0, set(), set(), Counter()
    for chunk in next(part for part in parts if part.stream == EVENTS).read():
        n += chunk.rows.num_rows
        users |= set(pc.unique(chunk.rows["visitorid"]).to_pylist())
        items |= set(pc.unique(chunk.rows["itemid"]).to_pylist())
        left_out.update(chunk.left_out)
        assert not chunk.rejected
    assert (n, len(users), len(items)) == (396_340, 4_334, 3_660)
    assert n + left_out.total() == 541_909
