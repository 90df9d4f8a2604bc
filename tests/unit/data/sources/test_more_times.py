"""Times as people write them: months by their names, zones by words, the time of the day in a column of its own."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from babel.dates import get_month_names

from recsys.data.sources import Table
from recsys.data.sources.months import month_of
from recsys.errors import InputError

MAP = {"user": "user", "item": "item", "timestamp": "at"}
NOON = dt.datetime(2025, 3, 1, 12, 5, tzinfo=dt.UTC)


def instants(source: Table) -> list[dt.datetime]:
    rows = [row for part in source.parts() for chunk in part.read() for row in chunk.rows.to_pylist()]
    return [dt.datetime.fromtimestamp(row["timestamp"] / 1000, dt.UTC) for row in rows]


def table(folder: Path, *cells: str, header: str = "user;item;at", **options: str) -> Table:
    (folder / "log.csv").write_text(f"{header}\n" + "".join(f"ann;pear;{cell}\n" for cell in cells))
    return Table(folder / "log.csv", {**MAP, **options})


@pytest.mark.parametrize(
    "cell",
    [
        "1. März 2025 12:05", "Sa, 01. Mrz. 2025, 12:05 Uhr", "1 mars 2025 12h05", "1 de marzo de 2025 12:05",
        "1 marca 2025 12:05:00", "1 марта 2025 12:05", "1 marzo 2025 12:05", "1 de março de 2025 12:05",
        "1 maart 2025 12:05", "Mar 1, 2025 12:05 PM", "March 1st, 2025 12:05 pm", "01-MAR-25 12.05.00.000000 PM",
        "Sat Mar 01 2025 13:05:00 GMT+0100 (CET)", "Sat Mar  1 12:05:00 UTC 2025", "Sat Mar  1 12:05:00 2025",
        "Sat, 01 Mar 2025 13:05:00 +0100", "01/Mar/2025:12:05:00 +0000", "2025-Mar-01 12:05",
    ],
)  # fmt: skip
def test_months_by_their_names(tmp_path, cell):
    source = table(tmp_path, cell, cell)
    assert instants(source) == [NOON, NOON]
    assert any("read as month-name: 2025-03-01" in note for note in source.notes)


def test_one_column_may_write_months_in_several_ways(tmp_path):
    assert (
        instants(table(tmp_path, "Mar 1, 2025 12:05", "1 March 2025 12:05", "Sat, 1 Mar 2025 12:05:00 GMT"))
        == [NOON] * 3
    )


@pytest.mark.parametrize("word", ["xyz", "", "sat", "de"])
def test_words_that_are_no_month(word):
    assert month_of(word) is None


def test_every_month_of_english_is_known_in_full_and_short():
    for month in range(1, 13):
        at = dt.date(2025, month, 1)
        assert month_of(at.strftime("%B")) == month_of(at.strftime("%b").upper()) == month


@pytest.mark.parametrize(
    ("cell", "hours"), [("2025-03-01 12:05:00 CET", -1), ("2025-03-01 12:05 PST", 8), ("2025-03-01T12:05:00 UTC", 0)]
)
def test_words_for_zones(tmp_path, cell, hours):
    assert instants(table(tmp_path, cell, "2025-03-01 12:05")) == [NOON + dt.timedelta(hours=hours), NOON]


@pytest.mark.parametrize("cell", ["01.03.2025 - 12:05", "01.03.2025, 12:05 Uhr", "01.03.2025 12.05", "1.3.25 um 12:05"])
def test_german_ways_between_day_and_time(tmp_path, cell):
    assert instants(table(tmp_path, cell, "31.12.2024")) == [NOON, dt.datetime(2024, 12, 31, tzinfo=dt.UTC)]


@pytest.mark.parametrize(
    ("times", "note_has"),
    [
        (("12:05", "23:59"), ""), (("12:05 PM", "11:59 PM"), ""), (("T12:05:00Z", "T23:59:00Z"), ""),
        (("1899-12-30 12:05:00", "1899-12-30 23:59:00"), ""), (("1205", "2359"), "like 1030"),
        (("120500", "235900"), "like 103000"), (("43500", "86340"), "seconds since midnight"),
        (("43500000", "86340000"), "milliseconds since midnight"),
        (("0.503472222", "0,999305556"), "a part of the day"),
    ],
)  # fmt: skip
def test_the_time_of_the_day_in_a_column_of_its_own(tmp_path, times, note_has):
    cells = (f"2025-03-01;{time}" for time in times)
    source = table(tmp_path, *cells, header="user;item;at;clock", timestamp="at+clock")
    read = [at.replace(microsecond=0) + dt.timedelta(seconds=round(at.microsecond / 1e6)) for at in instants(source)]
    assert read == [NOON, NOON.replace(hour=23, minute=59)]
    assert any("clock is read as" in note and note_has in note for note in source.notes) == bool(note_has)


def test_hours_alone_and_days_of_a_spreadsheet(tmp_path):
    source = table(tmp_path, "45717;12", "45717;23", header="user;item;at;clock", timestamp="at+clock")
    assert [at.hour for at in instants(source)] == [12, 23]


def test_a_pattern_reads_both_columns(tmp_path):
    options = {"timestamp": "at+clock", "timestamp_format": "%d.%m.%Y %H%M"}
    assert instants(table(tmp_path, "01.03.2025;1205", header="user;item;at;clock", **options)) == [NOON]


def test_a_number_of_the_day_follows_the_clock_of_the_zone(tmp_path):
    options = {"timestamp": "at+clock", "timezone": "Europe/Berlin"}  # 02:00 is passed over on this day
    source = table(tmp_path, "2025-03-30;36000000", "2025-03-29;36000001", header="user;item;at;clock", **options)
    assert [at.hour for at in instants(source)] == [8, 9]


def test_numbers_of_the_day_beside_days_of_parquet(tmp_path):
    rows = {"user": ["ann"] * 2, "item": ["pear"] * 2, "at": [dt.date(2025, 3, 1)] * 2, "clock": [1205, 2359]}
    pa.parquet.write_table(pa.table(rows), tmp_path / "log.parquet")
    assert instants(Table(tmp_path, {**MAP, "timestamp": "at+clock"}))[0] == NOON


def test_minutes_in_twelve_digits(tmp_path):
    assert instants(table(tmp_path, "202503011205", "202502280000"))[0] == NOON


def test_the_zero_of_a_clock_is_no_time(tmp_path):
    source = table(tmp_path, "2025-03-01 12:05", "2025-03-01 12:05", "1970-01-01 00:00:00")
    (chunk,) = [chunk for part in source.parts() for chunk in part.read()]
    assert [(row.line, row.reason) for row in chunk.rejected] == [(4, "at lies before 1970-01-02: wrong unit?")]
    with pytest.raises(InputError, match="like '1970-01-01'"):
        table(tmp_path, "1970-01-01", "1970-01-01")


def test_a_refusal_names_a_time_that_could_not_be_read(tmp_path):
    with pytest.raises(InputError, match=r"\(1 of 3 at best\), like 'soon'"):
        table(tmp_path, "2025-03-01", "soon", "later")


def test_as_many_dates_of_either_order_are_refused_with_the_cause(tmp_path):
    with pytest.raises(InputError, match="as many dates can only name the day first as the month"):
        table(tmp_path, "13/01/2025", "01/13/2025")


@pytest.mark.parametrize("language", ["en", "de", "fr", "es", "pt", "it", "nl", "sv", "pl", "ru"])
def test_months_are_known_by_the_names_that_unicode_lists(language):
    for width in ("wide", "abbreviated"):
        for context in ("format", "stand-alone"):
            names = get_month_names(width, context, language)
            assert {number: month_of(name) for number, name in names.items()} == {n: n for n in range(1, 13)}
