"""What a cell means: times as people write them."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys.data.sources import OnlineRetail, Table
from recsys.data.sources.times import DAY_FIRST, MONTH_FIRST, TimeFormat
from recsys.errors import InputError
from tests.unit.data.sources.cells import EPOCH, INSTANT, MAP, Read, table, times


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
