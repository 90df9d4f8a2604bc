"""What a database makes of further imports: the same files, grown ones, changed catalogues."""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from pathlib import Path

import pytest

from recsys.errors import InputError
from recsys.storage import raw_tables as raw
from tests.integration.imports.importing import MAP, dump, events, properties, rows, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "in" / "events.csv", "u1,a,2024-05-01", "u2,b,2024-05-02")
    return tmp_path / "in"


def test_a_copy_and_a_packed_copy_are_not_loaded_again(load, clean_database, folder):
    load("table", folder, options=MAP)
    shutil.copy(folder / "events.csv", folder / "events (1).csv")
    result = load("table", folder, options=MAP)
    assert any("events (1).csv holds what events.csv holds; not loaded again" in note for note in result["notes"])
    with gzip.open(folder / "events.csv.gz", "wb") as packed:
        packed.write((folder / "events.csv").read_bytes())
    result = load("table", folder, options=MAP)
    assert result["status"] == "already loaded"
    assert any("events.csv.gz holds what" in note for note in result["notes"])
    (folder / "events.csv").rename(folder / "renamed.csv")
    result = load("table", folder, options=MAP)
    assert (result["n_loaded"], result["n_loaded_before"]) == ({"events": 0}, {"events": 2})
    assert events(clean_database) == [("u1", "a"), ("u2", "b")]


def test_copies_within_one_import_are_loaded_once(load, clean_database, folder):
    shutil.copy(folder / "events.csv", folder / "again.csv")
    result = load("table", folder, options=MAP)
    assert any("events.csv holds what again.csv holds; not loaded again" in note for note in result["notes"])
    assert len(events(clean_database)) == result["n_loaded"]["events"] == 2


def test_of_a_grown_export_the_new_rows_are_loaded(load, clean_database, folder):
    load("table", folder, options=MAP)
    # two rows that are equal are two; the order of the file may be another one
    write(folder / "events.csv", "u3,c,2024-05-03", "u1,a,2024-05-01", "u2,b,2024-05-02", "u2,b,2024-05-02", "bad,,x")
    result = load("table", folder, options=MAP)
    assert events(clean_database) == [("u1", "a"), ("u2", "b"), ("u3", "c"), ("u2", "b")]
    assert (result["n_loaded"], result["n_rejected"]) == ({"events": 2}, 1)
    assert result["n_loaded_before"] == {"events": 2}
    assert result["left_out"] == {"loaded before": 2}
    assert result["files"][0]["n_loaded"] == 2
    assert any("has grown" in note for note in result["notes"])
    assert load("table", folder, options=MAP)["status"] == "already loaded"
    write(
        folder / "events.csv",
        *["u3,c,2024-05-03", "u1,a,2024-05-01", "u2,b,2024-05-02", "u2,b,2024-05-02"],
        "u4,d,2024-05-04",
    )
    load("table", folder, options=MAP)
    assert events(clean_database)[4:] == [("u4", "d")]


def test_an_export_that_was_renamed_and_has_grown_is_known_as_well(load, clean_database, folder):
    load("table", folder, options=MAP)
    (folder / "events.csv").rename(folder / "log.csv")
    load("table", folder, options=MAP)
    write(folder / "log.csv", "u1,a,2024-05-01", "u2,b,2024-05-02", "u0,c,2024-05-01")
    assert load("table", folder, options=MAP)["left_out"] == {"loaded before": 2}
    assert events(clean_database) == [("u1", "a"), ("u2", "b"), ("u0", "c")]


def test_a_grown_export_under_a_new_name_brings_its_new_rows_alone(load, clean_database, tmp_path):
    lines = [f"u{i},i{i % 7},2024-05-{1 + i // 24:02} {i % 24:02}:00" for i in range(120)]
    for day, n in enumerate((40, 60, 100)):
        result = load("table", write(tmp_path / f"export{day}.csv", *lines[:n]), options=MAP)
        assert len(events(clean_database)) == n
    assert result["left_out"] == {"loaded before": 60}
    assert any("export2.csv contains export0.csv, export1.csv: it has grown" in note for note in result["notes"])
    # the first name again, and an export that moves on: its oldest rows are not in it any more
    load("table", write(tmp_path / "export0.csv", *lines[:110]), options=MAP)
    load("table", write(tmp_path / "last.csv", *lines[20:]), options=MAP)
    assert sorted(events(clean_database)) == sorted((f"u{i}", f"i{i % 7}") for i in range(120))


def test_grown_exports_of_one_folder_are_loaded_once(load, clean_database, tmp_path):
    header = "timestamp,visitorid,event,itemid"
    lines = [f"{1714521600000 + i},{i},view,{i % 7}" for i in range(60)]
    for name, n in (("events", 40), ("events_2", 60)):
        write(tmp_path / "shop" / f"{name}.csv", *lines[:n], header=header)
    for replace in (False, True):
        load("retailrocket", tmp_path / "shop", replace=replace)
        assert len(events(clean_database)) == 60


def test_a_file_that_is_half_there_is_refused_with_the_numbers_and_the_ways_out(load, clean_database, tmp_path):
    lines = [f"u{i},i{i % 7},2024-05-{1 + i // 24:02} {i % 24:02}:00" for i in range(120)]
    load("table", write(tmp_path / "a.csv", *lines[:80]), options=MAP)
    before = dump(clean_database)
    half = write(tmp_path / "b.csv", *lines[60:])
    with pytest.raises(InputError, match=r"20 of its 60 events.*a\.csv.*80.*--drop-duplicates.*--keep-duplicates"):
        load("table", half, options=MAP)
    assert dump(clean_database) == before
    load("table", half, options=MAP, drop_duplicates=True)
    assert len(events(clean_database)) == 120
    load("table", write(tmp_path / "c.csv", *lines[50:110]), options=MAP, keep_duplicates=True)
    assert len(events(clean_database)) == 180
    with pytest.raises(InputError, match="contradict"):
        load("table", half, options=MAP, keep_duplicates=True, drop_duplicates=True)


def test_a_new_file_may_share_a_few_rows(load, clean_database, tmp_path):
    lines = [f"u{i},i{i % 7},2024-05-{1 + i // 24:02} {i % 24:02}:00" for i in range(200)]
    load("table", write(tmp_path / "a.csv", *lines[:102]), options=MAP)
    result = load("table", write(tmp_path / "b.csv", *lines[100:]), options=MAP)
    assert (len(events(clean_database)), result["n_duplicates"]) == (202, 2)


def test_an_export_of_later_events_alone_under_the_old_name_is_a_further_one(load, clean_database, folder):
    load("table", folder, options=MAP)
    write(folder / "events.csv", "u3,c,2024-05-03")
    result = load("table", folder, options=MAP)
    assert any("loaded additionally" in note for note in result["notes"])
    assert events(clean_database) == [("u1", "a"), ("u2", "b"), ("u3", "c")]


def test_an_export_that_lost_rows_is_refused_with_their_number(load, clean_database, folder):
    load("table", folder, options=MAP)
    before = dump(clean_database)
    write(folder / "events.csv", "u2,b,2024-05-02", "u3,c,2024-05-03")
    with pytest.raises(InputError, match=r"1 of the 2 rows.*another name.*--replace"):
        load("table", folder, options=MAP)
    assert dump(clean_database) == before


def test_exact_duplicates_are_counted_and_left_out_on_demand(load, clean_database, tmp_path):
    twice = ["u1,a,2024-05-01", "u1,a,2024-05-01", "u2,a,2024-05-01"]
    write(tmp_path / "e.csv", *twice)
    result = load("table", tmp_path / "e.csv", options=MAP)
    assert result["n_duplicates"] == 1
    assert any("1 of the events equal" in note for note in result["notes"])
    # a cumulative export under another name
    write(tmp_path / "f.csv", *twice, "u3,a,2024-05-02")
    assert load("table", tmp_path / "f.csv", options=MAP, drop_duplicates=True)["left_out"] == {"exact duplicates": 3}
    assert Counter(events(clean_database)) == {("u1", "a"): 2, ("u2", "a"): 1, ("u3", "a"): 1}
    result = load("table", tmp_path / "e.csv", options=MAP, replace=True, drop_duplicates=True)
    assert (len(events(clean_database)), result["n_duplicates"]) == (2, 0)


def test_a_later_state_of_the_catalogue_adds_to_the_history(load, clean_database, tmp_path):
    header = "item_id,title,available,price"
    options = MAP | {"items": "items.csv"}
    write(tmp_path / "e.csv", "u1,a,2024-05-01", "u2,b,2024-05-03")
    write(tmp_path / "items.csv", "a,Lamp,1,5", "b,Chair,1,7", "gone,Bed,1,9", header=header)
    load("table", tmp_path / "e.csv", options=options)
    first = {row[1:] for row in properties(clean_database)}
    write(tmp_path / "items.csv", "a,Lamp,0,5", "b,Chair,1,", "c,New,1,3", header=header)
    result = load("table", tmp_path / "e.csv", options=options)
    later = [row for row in properties(clean_database) if row[1:] not in first]
    last_event = 1714694400000  # 2024-05-03: a data set that ends there knows the new state
    assert sorted(later, key=repr) == sorted(
        [
            (last_event, "a", "available", "0"),
            (last_event, "b", "price", None),
            (last_event, "c", "title", "New"),
            (last_event, "c", "available", "1"),
            (last_event, "c", "price", "3"),
        ],
        key=repr,
    )
    assert any("1 emptied" in note and "1 that were described before" in note for note in result["notes"])
    # under another name, and back to a state of before: the newest counts
    write(tmp_path / "items2.csv", "a,Lamp,1,5", "b,Chair,1,7", "gone,Bed,1,9", header=header)
    load("table", tmp_path / "e.csv", options=MAP | {"items": "items2.csv"})
    newest = {(row[1], row[2]): row[3] for row in properties(clean_database)}
    assert (newest["a", "available"], newest["b", "price"]) == ("1", "7")
    n = len(properties(clean_database))
    assert load("table", tmp_path / "e.csv", options=MAP | {"items": "items2.csv"})["status"] == "already loaded"
    assert len(properties(clean_database)) == n


def test_items_and_categories_can_come_later(load, clean_database, tmp_path):
    write(tmp_path / "e.csv", "u1,a,2024-05-01")
    load("table", tmp_path / "e.csv", options=MAP)
    write(tmp_path / "items.csv", "a,Lamp", header="item_id,title")
    write(tmp_path / "tree.csv", "x,", "y,x", header="categoryid,parentid")
    load("table", tmp_path / "e.csv", options=MAP | {"items": "items.csv", "categories": "tree.csv"})
    assert properties(clean_database) == [(1714521600000, "a", "title", "Lamp")]  # known from the first event on
    write(tmp_path / "tree.csv", "x,", "y,", header="categoryid,parentid")
    load("table", tmp_path / "e.csv", options=MAP | {"items": "items.csv", "categories": "tree.csv"})
    tree = [row[:2] for row in rows(clean_database, raw.category_tree)]
    assert dict(tree) == {"x": None, "y": None}, "the later row counts"
