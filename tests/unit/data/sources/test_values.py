"""What a cell means: ids, words for yes and no, numbers and times as people write them."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys.data.flags import flag
from recsys.data.sources import OnlineRetail, RetailRocket, Table, reading
from recsys.data.sources.base import CATEGORY_TREE, EVENTS, ITEM_PROPERTIES, Source
from recsys.data.sources.checking import AVAILABLE_UNREAD, Checked
from recsys.data.sources.numbers import decimal_of, number, votes
from recsys.data.sources.times import DAY_FIRST, MONTH_FIRST, TimeFormat
from recsys.errors import InputError
from recsys.ids import is_id
from recsys.serving.ids import external_id, read_id, to_external

MAP = {"user": "user", "item": "item", "timestamp": "at"}
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


# Ids


@pytest.mark.parametrize("column", [pa.array([7, 1234567890123456789], pa.int64()), pa.array([7, 2**63], pa.uint64())])
def test_integers_of_more_than_18_digits_are_quarantined_with_the_option_that_takes_them(tmp_path, column):
    rows = {"user": pa.array([1, 1]), "item": column, "at": pa.array([INSTANT] * 2)}
    pa.parquet.write_table(pa.table(rows), tmp_path / "log.parquet")
    read = Read(Table(tmp_path, MAP))
    assert [row["itemid"] for row in read.rows] == ["7"]
    assert list(read.rejected) == [2]
    assert "more than 18 digits" in read.rejected[2]
    assert "item_id_type=string" in read.rejected[2]
    assert len(Read(Table(tmp_path, {**MAP, "item_id_type": "string"})).rows) == 2


@pytest.mark.parametrize("n", [128, 129, 256])
def test_texts_of_more_than_128_characters_are_no_ids(tmp_path, n):
    read = Read(table(tmp_path, f"user,item,at\n{'u' * n},a,2024-05-01\nann,b,2024-05-01\n"))
    assert len(read.rejected) == (n > 128)
    assert all("128 characters" in reason for reason in read.rejected.values())


@pytest.mark.parametrize(
    ("cell", "id_"),
    [
        ("5863.0", "5863"),
        ("5863.00", "5863"),
        ("5863,0", "5863"),
        ("5863", "5863"),
        (" 5863 ", "5863"),
        ("0", "0"),
        ("-7", "-7"),
    ]
    + [
        (bad, None)
        for bad in ("01", "5863.5", "5.000", "5,000", "1.2e3", "+5", "-0", "00", "x", "\u0665", "1_0", "0x1f", "1" * 19)
    ],
)
def test_one_rule_for_whole_numbers(cell, id_):
    block = checked(item=[cell])
    assert block.identifier("item", "integer").to_pylist() == [id_]
    assert block.keep.tolist() == [id_ is not None]


def test_floats_of_parquet_are_whole_numbers_cell_by_cell():
    block = checked(item=[5863.0, float("nan"), 1.5, 1e18, None])
    assert block.identifier("item", "integer").to_pylist() == ["5863", None, None, None, None]
    block = checked(item=[5863.0, float("nan"), 1.5, None])
    assert block.identifier("item", "string").to_pylist() == ["5863", None, "1.5", None]
    assert block.keep.tolist() == [True, False, True, False]


def test_floats_that_may_have_lost_digits_are_no_ids():
    wide = checked(user=[2.0**53 - 1, 2.0**53, 9148955329465708066.0, None])
    assert wide.identifier("user", "string").to_pylist() == ["9007199254740991", None, None, None]
    narrow = checked(user=pa.array([2.0**24 - 1, 2.0**24], pa.float32()))
    assert narrow.identifier("user", "string").to_pylist() == ["16777215", None]
    assert wide.reason[2] == narrow.reason[1] == wide.reason[1]
    assert "digits may be lost" in wide.reason[1]


@pytest.mark.parametrize("id_type", ["integer", "string"])
@given(
    text=st.one_of(
        st.text(max_size=140),
        st.integers(-(10**20), 10**20).map(str),
        st.sampled_from(["01", "-0", " 5 ", "\t", "5\n", "\u00a0x", "x" * 128, "x" * 129, "a\0", "\u200b"]),
    )
)
def test_what_an_import_takes_the_api_takes_and_the_other_way_round(text, id_type):
    assume(not any("\ud800" <= character <= "\udfff" for character in text))
    block = checked(item=[text])
    imported = block.identifier("item", id_type).to_pylist()[0]
    try:
        told = str(to_external(external_id(text), id_type, "item"))
    except (ValueError, InputError):
        told = None
    assert imported == told
    if told is not None:
        assert is_id(told, id_type)
        assert str(read_id(told, id_type, "item")) == told


def test_words_for_nothing_and_twins_are_told_with_their_share(tmp_path):
    text = "user,item,at\n" + "".join(f"{user},{item},2024-05-01\n" for user, item in [
        ("NULL", "5863"), ("None", "5863.0"), ("\\N", "12.0"), ("ann", "77"), ("bob", "n/a"),
    ])  # fmt: skip
    source = table(tmp_path, text)
    notes = " ".join(source.notes)
    assert "3 of 5 (60.0%) of the ids are words for nothing (NULL,None,\\N)" in notes
    assert "1 of 2 (50.0%) of them have a twin" in notes
    assert "item_id_type=integer" in notes
    read = Read(table(tmp_path, text, null_values="NULL,None,\\N,n/a", item_id_type="integer"))
    assert [(row["visitorid"], row["itemid"]) for row in read.rows] == [("ann", "77")]
    assert set(read.rejected.values()) == {"user is empty", "item is empty"}


def test_words_for_nothing_are_no_integers_and_called_what_they_are(tmp_path):
    read = Read(table(tmp_path, "user,item,at\nNULL,1,2024-05-01\n1,1,2024-05-01\n", user_id_type="integer"))
    assert read.rejected == {2: "user is a word for nothing"}
    assert len(read.rows) == 1


# Categories


def test_a_category_that_is_none_costs_the_property_alone(tmp_path):
    things = "item,title,categoryid\na,Lamp,12.0\nb,Chair,sale\nc,Desk,\nd,Sofa,013\n"
    options = {"items": "things.csv", "category_id_type": "integer", "categories": "tree.csv"}
    source = table(
        tmp_path, "user,item,at\nann,a,2024-05-01\n",
        {"things.csv": things, "tree.csv": "categoryid,parentid\n12.0,1\nsale,1\n13,none\n"}, **options,
    )  # fmt: skip
    read = Read(source, ITEM_PROPERTIES)
    told = {(row["itemid"], row["property"]): row["value"] for row in read.rows}
    assert {key: value for key, value in told.items() if key[1] == "categoryid"} == {("a", "categoryid"): "12"}
    assert [told[item, "title"] for item in "abcd"] == ["Lamp", "Chair", "Desk", "Sofa"]
    assert not read.rejected
    assert read.emptied.total() == 2
    assert all("category_id_type=string" in reason for reason in read.emptied)
    tree = Read(source, CATEGORY_TREE)
    assert [(row["categoryid"], row["parentid"]) for row in tree.rows] == [("12", "1"), ("13", None)]
    assert list(tree.rejected) == [3]
    assert tree.emptied.total() == 1


def test_retailrocket_reads_its_own_way_of_writing_numbers(tmp_path):
    (tmp_path / "events.csv").write_text("timestamp,visitorid,event,itemid\n1433221332117,1,view,1\n")
    values = [("categoryid", "n13.000"), ("categoryid", "12.0"), ("categoryid", "sale"), ("available", "n0.000"),
              ("available", "0.0"), ("available", "perhaps"), ("790", "n5.000"), ("available", "")]  # fmt: skip
    (tmp_path / "item_properties_part1.csv").write_text(
        "timestamp,itemid,property,value\n" + "".join(f"1433221332117,1,{name},{value}\n" for name, value in values)
    )
    read = Read(RetailRocket(tmp_path, {}), ITEM_PROPERTIES)
    assert [row["value"] for row in read.rows] == ["13", "12", None, "0", "0", "0", "n5.000", None]
    assert sorted(read.emptied.values()) == [1, 1]


# Yes and no


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "0",
            ["0", "0.0", "FALSE", "False", "no", "N", "out of stock", "outofstock", "unavailable", "-1", " 0", "off"],
        ),
        ("0", ["sold out", "OutOfStock", "out_of_stock", "https://schema.org/OutOfStock", "-0,5", "f", "none", "null"]),
        ("1", ["1", "1.0", "3", "TRUE", "yes", "Y", "in stock", "in_stock", "InStock", "on", " true ", "12,0"]),
        (None, ["", " "]),
    ],
)
def test_words_for_yes_and_no(said, words):
    assert checked(available=words).flag("available").to_pylist() == [said] * len(words)


def test_what_is_neither_yes_nor_no_is_no_and_counted():
    block = checked(available=["perhaps", "none", "null", "1"])
    assert block.flag("available").to_pylist() == ["0", "0", "0", "1"]
    assert block.emptied == {f"available {word!r} is {AVAILABLE_UNREAD}": 1 for word in ("perhaps", "none", "null")}
    many = checked(available=[f"w{i}" for i in range(7)])
    assert many.flag("available").to_pylist() == ["0"] * 7
    assert many.emptied[f"available is {AVAILABLE_UNREAD}"] == 2
    assert checked(available=pa.array([True, False, None])).flag("available").to_pylist() == ["1", "0", None]
    assert checked(available=[2.0, 0.0, float("nan")]).flag("available").to_pylist() == ["1", "0", None]


@given(st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3)))
def test_numbers_are_compared_as_numbers(value):
    assert flag(np.format_float_positional(value)) is (value > 0)


# Numbers


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("12,50", ",", 12.5), ("$5.00", ".", 5.0), ("1.299,00", ",", 1299.0), ("1,299.00", ".", 1299.0),
        ("€ 3", ".", 3.0), ("1 299,00", ",", 1299.0), ("1\u00a0299,00 €", ",", 1299.0), ("1'299.00", ".", 1299.0),
        ("1,299", ".", 1299.0), ("1,299", ",", 1.299), ("1,299", None, None), ("0,299", None, None),
        ("1.299", ",", 1299.0), ("-5", None, -5.0), ("-$5.00", ".", -5.0), ("12,-", ",", 12.0),
        ("1.299", None, 1.299), ("EUR 12.00", ".", 12.0),
        ("₹1,00,000.50", ".", 100000.5), ("5.-", ".", 5.0),
        ("12,50", ".", None), ("1.2.3", ".", None), ("ten", None, None), ("a12", None, None), ("1,29,9.0", ".", None),
        (".5", ".", 0.5), ("1e3", None, 1000.0), ("12.50 kr", ".", 12.5), ("", None, None), (",", ",", None),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text, decimal, value):
    assert number(text, decimal) == value


@pytest.mark.parametrize("text", ["- " + " " * 1_000_000 + "x", "1" * 1_000_000, "1 " * 500_000])
def test_a_long_text_is_no_number_and_takes_no_time(text):
    assert number(text, ".") is None
    assert votes(pa.array([text])) == {}


@given(
    cents=st.lists(st.integers(0, 10**9), min_size=2, max_size=20),
    marks=st.sampled_from([(".", ","), (",", "."), (",", " "), (".", ""), (",", ""), (",", "\u00a0")]),
    money=st.sampled_from(["", "$", "€ "]),
)
def test_a_column_of_prices_is_read_as_it_was_written(cents, marks, money):
    decimal, group = marks
    texts = [money + f"{cent / 100:,.2f}".replace(",", "G").replace(".", decimal).replace("G", group) for cent in cents]
    found = decimal_of(votes(pa.array(texts)))
    assert found == decimal
    block = checked(price=texts)
    assert block.number("price", required=False, decimal=found).to_pylist() == [cent / 100 for cent in cents]


def test_the_decimal_sign_is_the_columns(tmp_path):
    text = (
        "user;item;at;paid\n".replace(";", ",") + 'a,b,2024-05-01,"12,50"\na,b,2024-05-01,"1,299"\na,b,2024-05-01,ten\n'
    )
    read = Read(table(tmp_path, text, value="paid"))
    assert [row["value"] for row in read.rows] == [12.5, 1.299, None]
    assert read.emptied == {"paid is no number": 1}
    text = 'user,item,at,paid\na,b,2024-05-01,"1,299"\na,b,2024-05-01,NULL\n'
    read = Read(table(tmp_path, text, value="paid"))
    assert [row["value"] for row in read.rows] == [None, None]
    assert read.emptied == {"paid is no number, or the decimal sign is not known (option decimal)": 1}
    assert [row["value"] for row in Read(table(tmp_path, text, value="paid", decimal=".")).rows] == [1299.0, None]
    with pytest.raises(InputError, match="option decimal=x"):
        table(tmp_path, text, value="paid", decimal="x")


def test_prices_of_items_are_plain_numbers_and_bad_ones_cost_themselves(tmp_path):
    things = 'item,price,title\na,"1.299,00 €",A\nb,cheap,B\nc,"0,50",C\n'
    source = table(tmp_path, "user,item,at\nann,a,2024-05-01\n", {"things.csv": things}, items="things.csv")
    read = Read(source, ITEM_PROPERTIES)
    assert {(row["itemid"], row["property"]): row["value"] for row in read.rows} == {
        ("a", "price"): "1299", ("c", "price"): "0.5", ("a", "title"): "A", ("b", "title"): "B", ("c", "title"): "C",
    }  # fmt: skip
    assert read.emptied == {"price is no number": 1}


# Times


INSTANT = dt.datetime(2024, 5, 1, 10, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("1714559400", "s"), ("1714559400.0", "s"), ("1714559400000", "ms"), ("1714559400000.0", "ms"),
        ("1.7145594e12", "ms"),
        ("45413,4375", "excel"), ("1714559400000000", "us"), ("1714559400000000000", "ns"), ("45413.4375", "excel"),
        ("20240501103000", "%Y%m%d%H%M%S"), ("2024-05-01 10:30:00 UTC", "iso"), ("2024-05-01 10:30:00 GMT", "iso"),
        ("2024-05-01 10:30:00 +0000 UTC", "iso"), ("2024-05-01T12:30+02:00", "iso"), ("2024-05-01T10:30:00Z", "iso"),
        ("2024/05/01 10:30", "iso"), ("31.05.2024 10:30", DAY_FIRST), ("31-05-2024 10:30", DAY_FIRST),
        ("Wed, 01 May 2024 10:30:00 GMT", "month-name"), ("01-May-2024 10:30", "month-name"),
        ("01/May/2024:10:30:00 +0000", "month-name"), ("May 1, 2024 10:30 AM", "month-name"),
        ("5/31/24 10:30", MONTH_FIRST), ("05/31/2024 10:30:00 AM", MONTH_FIRST),
    ],
)  # fmt: skip
def test_ways_of_writing_a_time_are_found_and_said_with_their_range(tmp_path, cell, name):
    source = table(tmp_path, f'user,item,at\nann,pear,"{cell}"\n'.replace("user", '"user"'))
    day = 31 if name in (DAY_FIRST, MONTH_FIRST) else 1
    assert Read(source).at == [INSTANT.replace(day=day)]
    assert any(f"timestamps are read as {name}: 2024-05-{day:02}" in note for note in source.notes)


@pytest.mark.parametrize("cells", [("17", "18"), ("1", "2", "3"), ("99999999999999999999",), ("soon", "later")])
def test_a_guess_that_is_not_plausible_is_refused_with_the_option(tmp_path, cells):
    with pytest.raises(InputError, match=r"column 'at'.*timestamp_format"):
        times(tmp_path, *cells)


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        ("1714559400000", "1714559400", "before 1980"),
        ("1714559400", "1714559400000", "in the future"),
        ("2024-05-01", "2087-05-02", "in the future"),
        ("2024-05-01", "0024-05-02", "before 1970"),
        ("2024-05-01", "2024-02-30", "no time"),
    ],
)
def test_single_times_that_cannot_be_are_quarantined(tmp_path, good, bad, reason):
    read = times(tmp_path, good, good, bad, good)
    assert len(read.rows) == 3
    assert list(read.rejected) == [4]
    assert reason in read.rejected[4]


def test_a_day_of_tolerance_for_clocks_and_zones(tmp_path):
    now = dt.datetime.now(dt.UTC)
    read = times(tmp_path, "2024-05-01", *((now + dt.timedelta(hours=h)).isoformat() for h in (23, 25)))
    assert (len(read.rows), list(read.rejected)) == (2, [4])


def test_day_and_month_are_never_mixed(tmp_path):
    days = [f"{day:02}/12/2010 08:26" for day in range(1, 29)]
    assert [at.month for at in times(tmp_path, *days).at] == [12] * 28
    months = [f"12/{day:02}/2010 08:26" for day in range(1, 29)]
    assert [at.month for at in times(tmp_path, *months).at] == [12] * 28
    read = times(tmp_path, *days, "12/31/2010 08:26")
    assert ({at.month for at in read.at}, list(read.rejected)) == ({12}, [30])
    with pytest.raises(InputError, match=r"'01/02/2010'.*timestamp_format=day-first"):
        times(tmp_path, "01/02/2010", "03/04/2010")
    assert [at.month for at in times(tmp_path, "01/02/2010", timestamp_format="day-first").at] == [2]
    assert [at.month for at in times(tmp_path, "01/02/2010", timestamp_format="month-first").at] == [1]
    assert [at.month for at in times(tmp_path, "01.02.2010").at] == [2]


@pytest.mark.parametrize(("last", "month"), [("13/02/2024", 2), ("02/13/2024", 1)])
def test_one_date_of_a_long_file_tells_the_day_from_the_month(tmp_path, last, month):
    read = times(tmp_path, *["01/02/2024"] * 20_000, last)
    assert ({at.month for at in read.at[:-1]}, read.at[-1].day) == ({month}, 13)


@pytest.mark.parametrize("day_first", [True, False])
def test_online_retail_reads_the_day_where_it_stands(tmp_path, day_first):
    lines = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n" + "".join(
        f"{i},7,A,1,{i:02}/12/2010 8:26,2,1,UK\n" if day_first else f"{i},7,A,1,12/{i}/2010 8:26,2,1,UK\n"
        for i in range(1, 29)
    )
    (tmp_path / "lines.csv").write_text(lines)
    read = Read(OnlineRetail(tmp_path, {}))
    assert [(at.month, at.day) for at in read.at] == [(12, day) for day in range(1, 29)]


@pytest.mark.parametrize(
    ("second", "at"),
    [("37800000", INSTANT), ("10:30", INSTANT), ("10:30:00", INSTANT)],
)
@pytest.mark.parametrize("day", ["2024-05-01", "20240501"])
def test_two_columns_make_a_time(tmp_path, day, second, at):
    text = f"user,item,day,time\nann,pear,{day},{second}\n"
    for options in ({}, {"timestamp_format": "iso"}):
        assert Read(table(tmp_path, text, timestamp="day+time", **options)).at == [at]


def test_local_times_have_a_zone(tmp_path):
    read = times(tmp_path, "2024-07-01 12:00", "2024-01-01 12:00", "2024-07-01 12:00Z", timezone="Europe/Berlin")
    assert [at.hour for at in read.at] == [10, 11, 12]
    with pytest.raises(InputError, match="option timezone=Mars"):
        times(tmp_path, "2024-07-01", timezone="Mars/Base")


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "Pacific/Kiritimati"])
@pytest.mark.parametrize("end", ["9999-12-31 23:59:59", "0001-01-01 00:00:00"])
@pytest.mark.parametrize("name", ["iso", "%Y-%m-%d %H:%M:%S"])
def test_the_ends_of_time_are_bad_rows_in_every_zone(tmp_path, zone, end, name):
    read = times(tmp_path, "2024-05-01 12:00:00", end, timezone=zone, timestamp_format=name)
    assert (len(read.rows), list(read.rejected)) == (1, [3])


@pytest.mark.parametrize("option", ["fortnights", "%Q", "min"])
def test_formats_that_are_none_are_named(tmp_path, option):
    with pytest.raises(InputError, match="option timestamp_format="):
        times(tmp_path, "2024-07-01", timestamp_format=option)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([INSTANT]), pa.array([INSTANT.replace(tzinfo=None)]),
        pa.array([INSTANT], pa.timestamp("ns", "Asia/Tokyo")),
        pa.array(["2024-05-01T10:30:00Z"]), pa.array([1714559400]), pa.array([1714559400000.0]), pa.array([45413.4375]),
        pa.array(["2024-05-01 10:30"], pa.large_string()), pa.array([20240501103000]),
    ],
    ids=str,
)  # fmt: skip
def test_columns_of_parquet(tmp_path, column):
    pa.parquet.write_table(pa.table({"user": ["a"], "item": ["b"], "at": column}), tmp_path / "log.parquet")
    assert Read(Table(tmp_path, MAP)).at == [INSTANT]
    pa.parquet.write_table(pa.table({"user": ["a"], "item": ["b"], "at": [INSTANT.date()]}), tmp_path / "log.parquet")
    assert Read(Table(tmp_path, MAP)).at == [INSTANT.replace(hour=0, minute=0)]


PATTERNS = ["%d-%m-%Y %H:%M", "%m/%d/%y %I:%M %p", "%Y%m%d%H%M", "%d %b %Y, %H:%M", "%a %d.%m.%Y %H:%M", "%Y-%jT%H:%M"]
NAMED = {
    "iso": "%Y-%m-%d %H:%M", DAY_FIRST: "%d.%m.%Y %H:%M", MONTH_FIRST: "%m/%d/%Y %I:%M %p",
}  # fmt: skip


def test_an_instant_beyond_the_calendar_is_a_bad_row(tmp_path):
    at = pa.array([1_714_557_600, 4 * 253_402_300_799], pa.timestamp("s"))
    events = pa.table({"user": ["ann", "bob"], "item": ["pear", "fig"], "at": at})
    pa.parquet.write_table(events, tmp_path / "e.parquet")
    read = Read(Table(tmp_path / "e.parquet", MAP))
    assert ([row["visitorid"] for row in read.rows], list(read.rejected)) == (["ann"], [2])


@settings(deadline=None)
@given(
    at=st.integers(6_000_000, 29_000_000).map(lambda minutes: EPOCH + dt.timedelta(minutes=minutes)),
    pattern=st.sampled_from([*PATTERNS, *NAMED]),
    zone=st.sampled_from([None, "Europe/Berlin", "America/New_York", "Asia/Kolkata"]),
)
def test_what_is_written_in_a_pattern_is_read_back(at, pattern, zone):
    aware = at.replace(tzinfo=ZoneInfo(zone or "UTC"))
    assume(aware.astimezone(dt.UTC).astimezone(aware.tzinfo).replace(tzinfo=None) == at)  # some local times never are
    text = at.strftime(NAMED.get(pattern, pattern))
    (millis,) = TimeFormat.of(pattern, zone).texts(pa.array([text])).to_pylist()
    assert millis == round(aware.timestamp() * 1000)


@settings(deadline=None)
@given(
    seconds=st.lists(st.integers(315_532_800, 1_700_000_000), min_size=1, max_size=30),
    unit=st.sampled_from([("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)]),
)
def test_the_unit_of_numbers_is_found(seconds, unit):
    name, factor = unit
    with tempfile.TemporaryDirectory() as folder:
        read = times(Path(folder), *(str(second * factor) for second in seconds))
    assert [round(at.timestamp()) for at in read.at] == seconds, name
