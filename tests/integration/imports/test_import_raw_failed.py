"""An import that fails leaves everything as it was, and is simply run again."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from recsys.errors import EmptyResultError, InputError
from recsys.storage import raw_tables as raw
from tests.integration.imports.importing import MAP, dump, events, properties, rows, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "in" / "events.csv", "u1,a,2024-05-01", "u2,b,2024-05-02")
    return tmp_path / "in"


RETAIL = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,WHITE HANGING HEART,6,12/1/2010 8:26,2.55,{0},United Kingdom
536366,22633,HAND WARMER,6,12/1/2010 8:28,1.85,,United Kingdom
"""


def test_a_failed_replacement_leaves_everything_and_is_simply_run_again(load, clean_database, folder, tmp_path):
    load("table", folder, options=MAP)
    before = dump(clean_database)
    retail = tmp_path / "OnlineRetail.csv"
    retail.write_text(RETAIL.format("nobody"))
    with pytest.raises(EmptyResultError, match="not one event"):
        load("online-retail", retail, replace=True, allow_bad_rows=True)
    assert dump(clean_database) == before
    assert list((tmp_path / "quarantine").rglob("*.csv")), "what was wrong with it can be read"
    retail.write_text(RETAIL.format("17850"))
    retail.rename(tmp_path / "OR2.csv")
    assert load("online-retail", tmp_path / "OR2.csv", replace=True)["n_loaded"]["events"] == 1
    assert len(events(clean_database)) == 1


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_of_mostly_bad_rows_is_refused_with_numbers_and_reasons(load, clean_database, tmp_path, replace):
    load("table", write(tmp_path / "a.csv", "u1,a,2024-05-01", "u2,b,2024-05-02"), options=MAP)
    before = dump(clean_database)
    n_bad, n = (11, 100) if replace else (11, 20)  # above a tenth, above half
    lines = [f"u{i},{'' if i < n_bad else 'i'},2024-06-01" for i in reversed(range(n))]
    bad = write(tmp_path / "b.csv", *lines)
    with pytest.raises(InputError, match=rf"{n_bad} of its {n} rows.*item_id is empty \({n_bad}\).*--allow-bad-rows"):
        load("table", bad, options=MAP, replace=replace)
    assert dump(clean_database) == before
    assert list((tmp_path / "quarantine").rglob("*b.csv*"))
    load("table", bad, options=MAP, replace=replace, allow_bad_rows=True)
    assert len(events(clean_database)) == n - n_bad + (0 if replace else 2)


@pytest.mark.parametrize("replace", [False, True])
def test_dates_far_away_cost_their_own_rows_alone(load, clean_database, tmp_path, replace):
    odd = ["1969-12-31", "0000-00-00", "1970-01-01", "9999-12-31"]
    lines = [f"u{i},a,{day}" for i, day in enumerate(["2024-05-01", "2024-05-02", *odd])]
    load("table", write(tmp_path / "few.csv", *lines), options=MAP, replace=replace)
    assert len(events(clean_database)) == 2


def test_the_bounds_of_bad_rows_hold_for_catalogues_and_are_not_met_by_fewer(load, clean_database, tmp_path):
    log = write(tmp_path / "e.csv", *[f"u{i},i,2024-05-01" for i in range(9)], ",i,2024-05-01")
    load("table", log, options=MAP, replace=True)
    assert len(events(clean_database)) == 9
    items = write(tmp_path / "items.csv", *["i,Lamp", *[",Chair"] * 11], header="item_id,title")
    with pytest.raises(InputError, match=r"items\.csv: 11 of its 12 rows"):
        load("table", log, options=MAP | {"items": str(items)})
    assert properties(clean_database) == []
    few = write(tmp_path / "items.csv", "i,Lamp", ",Chair", ",Bed", header="item_id,title")
    load("table", log, options=MAP | {"items": str(few)})
    assert len(properties(clean_database)) > 0


@pytest.mark.parametrize("name", ["category_tree.csv", "item_properties.csv", "events_2.csv"])
def test_a_single_line_that_is_no_header_is_an_error(load, clean_database, tmp_path, name):
    header = "timestamp,visitorid,event,itemid"
    write(tmp_path / "shop" / "events.csv", "1714521600000,1,view,2", header=header)
    (tmp_path / "shop" / name).write_text("garbage\n")
    with pytest.raises(InputError, match=rf"{name}: column '\w+'.* is missing"):
        load("retailrocket", tmp_path / "shop", replace=True)
    assert events(clean_database) == []


def test_a_failed_import_leaves_no_trace_and_is_in_nobodys_way(load, clean_database, tmp_path):
    retail = tmp_path / "in" / "OnlineRetail.csv"
    retail.parent.mkdir()
    retail.write_text(RETAIL.format("nobody"))
    with pytest.raises(EmptyResultError):
        load("online-retail", retail)
    assert rows(clean_database, raw.imports) == rows(clean_database, raw.import_files) == []
    retail.write_text(RETAIL.format("17850"))
    assert load("online-retail", retail)["n_loaded"]["events"] == 1


def test_a_file_that_breaks_off_takes_back_what_was_loaded_of_its_import(load, clean_database, tmp_path, monkeypatch):
    from recsys.data.sources import reading

    monkeypatch.setattr(reading, "BLOCK_BYTES", 20_000)
    write(tmp_path / "in" / "1.csv", "u1,a,2024-05-01")
    load("table", tmp_path / "in", options=MAP)
    before = dump(clean_database)
    many = "\n".join(
        ["user_id,item_id,ts", *(f"u{i},a{i % 99},2024-05-02T00:00:{i % 60:02}.{i:06}" for i in range(30_000)), ""]
    )
    write(tmp_path / "in" / "2.csv", "u2,a,2024-05-02")
    (tmp_path / "in" / "3.csv.gz").write_bytes(whole := gzip.compress(many.encode()))
    (tmp_path / "in" / "3.csv.gz").write_bytes(whole[:-2000])
    with pytest.raises(InputError, match=r"3\.csv\.gz"):
        load("table", tmp_path / "in", options=MAP)
    assert dump(clean_database) == before
    (tmp_path / "in" / "3.csv.gz").write_bytes(whole)
    assert load("table", tmp_path / "in", options=MAP)["n_loaded"]["events"] == 30_001
