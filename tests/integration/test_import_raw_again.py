"""What a database makes of further imports: the same files, grown ones, changed catalogues, other options."""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from recsys import settings
from recsys.errors import EmptyResultError, InputError
from recsys.storage import raw_tables as raw
from tests.integration.imports import rows

MAP = {"user": "user_id", "item": "item_id", "timestamp": "ts"}
TYPED = MAP | {"event": "event"}
FOUR = "view:1,wishlist:2,addtocart:3,transaction:5"


def write(path: Path, *lines: str, header: str = "user_id,item_id,ts") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines, ""]))
    return path


def events(engine: sa.Engine) -> list[tuple[object, ...]]:
    """User and item of each, in the order of loading."""
    return [(row[2], row[4]) for row in sorted(rows(engine, raw.events))]


def properties(engine: sa.Engine) -> list[tuple[object, ...]]:
    return [row[:4] for row in rows(engine, raw.item_properties)]


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
    assert any("export2.csv holds what export0.csv, export1.csv brought" in note for note in result["notes"])
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
    assert any("further one" in note for note in result["notes"])
    assert events(clean_database) == [("u1", "a"), ("u2", "b"), ("u3", "c")]


def test_an_export_that_lost_rows_is_refused_with_their_number(load, clean_database, folder):
    load("table", folder, options=MAP)
    before = dump(clean_database)
    write(folder / "events.csv", "u2,b,2024-05-02", "u3,c,2024-05-03")
    with pytest.raises(InputError, match=r"1 of the 2 rows.*a name of its own.*--replace"):
        load("table", folder, options=MAP)
    assert dump(clean_database) == before


def dump(engine: sa.Engine) -> dict[str, list[tuple[object, ...]]]:
    """All raw tables and the record of imports."""
    return {table.name: sorted(rows(engine, table), key=repr) for table in raw.metadata.sorted_tables}


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


def test_new_types_and_options_that_say_the_defaults_are_taken(load, clean_database, tmp_path):
    header = "user_id,item_id,ts,event"
    write(tmp_path / "e1.csv", "u1,a,2024-05-01,view", header=header)
    write(tmp_path / "e2.csv", "u1,a,2024-05-02,view", "u1,b,2024-05-02,wishlist", header=header)
    load("table", tmp_path / "e1.csv", options=TYPED)
    said = TYPED | {"weights": "view:1,addtocart:3,transaction:5", "timestamp_format": "iso", "item_id_type": "string"}
    assert load("table", tmp_path / "e1.csv", options=said)["status"] == "already loaded"
    refused = load("table", tmp_path / "e2.csv", options=TYPED)
    (reason,) = refused["rejected"]
    assert "'wishlist' has no weight" in reason
    result = load("table", tmp_path / "e2.csv", options=TYPED | {"weights": FOUR})
    assert len(events(clean_database)) == 3, "the rejected row is loaded now that its type has a weight"
    assert any("event type wishlist is new, with weight 2" in note for note in result["notes"])
    assert result["event_types"]["wishlist"] == {"n": 1, "weight": 2}
    # what was said of types lasts
    write(tmp_path / "e3.csv", "u1,c,2024-05-03,wishlist", header=header)
    assert load("table", tmp_path / "e3.csv", options=MAP)["n_loaded"] == {"events": 1}


@pytest.mark.parametrize("name", ["event", "value", "transaction"])
def test_a_column_that_loaded_events_were_read_without_is_refused(load, clean_database, tmp_path, name):
    log = write(tmp_path / "e.csv", "u1,a,2024-05-01,view,5", header="user_id,item_id,ts,event,n")
    load("table", log, options=MAP)
    before = dump(clean_database)
    added = MAP | {name: "event" if name == "event" else "n"}
    with pytest.raises(InputError, match=rf"option {name}=.*loaded have been read without.*--replace"):
        load("table", log, options=added)
    assert dump(clean_database) == before
    load("table", log, options=added, replace=True)
    assert len(events(clean_database)) == 1


def test_a_new_type_leaves_labels_and_bought_types_as_they_were(load, clean_database, tmp_path):
    header = "user_id,item_id,ts,event"

    def roles() -> tuple[object, ...]:
        return [(row.label_event_types, row.bought_event_types) for row in rows_of_imports()][-1]

    def rows_of_imports() -> list[sa.Row]:
        with clean_database.connect() as connection:
            return list(connection.execute(sa.select(raw.imports).order_by(raw.imports.c.import_id)))

    weights = "purchase:5,cart:3,view:1"
    load(
        "table", write(tmp_path / "1.csv", "u1,a,2024-05-01,view", header=header), options=TYPED | {"weights": weights}
    )
    assert roles() == (["purchase", "cart"], ["purchase"])
    for day, (new, labels, bought) in enumerate(
        [
            ("impression:0.1", ["purchase", "cart"], ["purchase"]),
            ("hide:-1", ["purchase", "cart"], ["purchase"]),
            ("wish:2", ["purchase", "cart", "wish"], ["purchase"]),
            ("subscribe:6", ["purchase", "cart", "wish", "subscribe"], ["purchase", "subscribe"]),
        ],
        start=2,
    ):
        weights = f"{new},{weights}"
        line = f"u1,a,2024-05-{day:02},{new.partition(':')[0]}"
        log = write(tmp_path / f"{day}.csv", line, header=header)
        result = load("table", log, options=TYPED | {"weights": weights})
        assert roles() == (labels, bought), result["notes"]
    result = load("table", log, options=TYPED | {"labels": "purchase", "bought": "purchase"})
    assert roles() == (["purchase"], ["purchase"])
    with pytest.raises(InputError, match="no type has a weight above 0"):
        load("table", log, options=TYPED | {"weights": "view:-1,hide:-2"}, replace=True)


def test_weights_of_the_settings_count_at_import(load, clean_database, tmp_path, monkeypatch, request):
    header = "user_id,item_id,ts,event"
    log = write(tmp_path / "e.csv", "u1,a,2024-05-01,view", "u1,b,2024-05-02,wishlist", header=header)
    monkeypatch.setenv("RECSYS_EVENT_WEIGHTS", '{"view":1,"wishlist":2,"addtocart":3,"transaction":5}')
    settings.load.cache_clear()
    request.addfinalizer(settings.load.cache_clear)
    assert load("table", log, options=TYPED)["n_rejected"] == 0
    shop = write(
        tmp_path / "shop" / "events.csv", "1714521600000,1,wishlist,2", header="timestamp,visitorid,event,itemid"
    )
    assert load("retailrocket", shop.parent, replace=True)["n_rejected"] == 0
    assert len(events(clean_database)) == 1


def test_other_meanings_of_ids_are_refused(load, clean_database, tmp_path):
    write(tmp_path / "e.csv", "1,2,2024-05-01")
    load("table", tmp_path / "e.csv", options=MAP)
    write(tmp_path / "f.csv", "1,3,2024-05-02")
    before = dump(clean_database)
    with pytest.raises(InputError, match=r"item_id_type is integer.*string in the database.*leave out the option"):
        load("table", tmp_path / "f.csv", options=MAP | {"item_id_type": "integer"})
    with pytest.raises(InputError, match=r"item=user_id: it was item=item_id.*--replace"):
        load("table", tmp_path / "f.csv", options=MAP | {"item": "user_id"})
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


def test_one_table_says_what_became_of_everything(load, tmp_path, capsys):
    header = "user_id,item_id,ts,event"
    lines = [
        "u1,a,2024-05-01,view",
        "u1,a,2024-05-01,view",
        "u2,b,2024-05-03,addtocart",
        "u3,b,2024-05-03,wishlist",
        "",
    ]
    log = write(tmp_path / "in" / "[b]log.csv", *lines, header=header)
    write(tmp_path / "items.csv", "a,Lamp", "z,Sofa", "y,Bed", header="item_id,title")
    result = load("table", log.parent, options=TYPED | {"items": str(tmp_path / "items.csv")})
    assert result["totals"] == {
        "events": 3,
        "users": 2,
        "items_with_events": 2,
        "items_described": 3,
        "items_with_events_described": 1,
    }
    assert result["span"] == ["2024-05-01 00:00", "2024-05-03 00:00"]
    assert result["event_types"]["transaction"] == {"n": 0, "weight": 5}
    assert (result["n_duplicates"], result["lines"]["blank"]) == (1, 1)
    assert result["lines"]["read"] == sum(n for fate, n in result["lines"].items() if fate != "read")
    table = " ".join(capsys.readouterr().err.replace("│", " ").split())
    for part in (
        "events of [b]log.csv 3 loaded now, 1 rejected",
        "1 event 'wishlist' has no weight",
        "3 of 2 users, 2024-05-01 00:00 to 2024-05-03 00:00",
        "type addtocart 1 events, weight 3",
        "items of events 2, of which 1 described",
        "items described 3, of which 1 have events",
        "exact duplicates 1",
    ):
        assert part in table


def test_bad_rows_are_read_again_only_when_what_makes_them_bad_may_have_changed(load, tmp_path):
    header = "user_id,item_id,ts,event"
    write(tmp_path / "in" / "log.csv", "u1,a,2024-05-01,view", ",a,2024-05-01,view", header=header)
    for day in (1, 2):
        write(tmp_path / f"items{day}.csv", f"a,{day}", header="item_id,title")
    load("table", tmp_path / "in", options=TYPED | {"items": str(tmp_path / "items1.csv")})
    result = load("table", tmp_path / "in", options=TYPED | {"items": str(tmp_path / "items2.csv")})
    assert [file["stream"] for file in result["files"]] == ["item_properties"]


def test_bad_rows_of_a_file_are_read_again_by_its_new_name_too(load, clean_database, tmp_path):
    header = "user_id,item_id,ts,event"
    log = write(tmp_path / "in" / "log.csv", "u1,a,2024-05-01,view", "u2,b,2024-05-02,wishlist", header=header)
    load("table", log.parent, options=TYPED)
    log.rename(log.with_name("renamed.csv"))
    for _ in range(2):
        assert load("table", log.parent, options=TYPED)["status"] == "already loaded"
    result = load("table", log.parent, options=TYPED | {"weights": FOUR})
    assert result["left_out"] == {"loaded before": 1}
    assert events(clean_database) == [("u1", "a"), ("u2", "b")]
    result = load("table", log.parent, options=TYPED)
    assert (result["status"], result["n_loaded"], result["notes"][1:]) == ("already loaded", {"events": 0}, [])
    assert result["n_loaded_before"] == {"events": 2}


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
    n_bad = 3 if replace else 11  # of 20: above a tenth, above half
    lines = [f"u{i},{'' if i < n_bad else 'i'},2024-06-01" for i in reversed(range(20))]
    bad = write(tmp_path / "b.csv", *lines)
    with pytest.raises(InputError, match=rf"{n_bad} of its 20 rows.*item_id is empty \({n_bad}\).*--allow-bad-rows"):
        load("table", bad, options=MAP, replace=replace)
    assert dump(clean_database) == before
    assert list((tmp_path / "quarantine").rglob("*b.csv*"))
    load("table", bad, options=MAP, replace=replace, allow_bad_rows=True)
    assert len(events(clean_database)) == 20 - n_bad + (0 if replace else 2)


def test_the_bounds_of_bad_rows_hold_for_catalogues_and_are_not_met_by_fewer(load, clean_database, tmp_path):
    log = write(tmp_path / "e.csv", *[f"u{i},i,2024-05-01" for i in range(9)], ",i,2024-05-01")
    load("table", log, options=MAP, replace=True)
    assert len(events(clean_database)) == 9
    items = write(tmp_path / "items.csv", "i,Lamp", ",Chair", ",Bed", header="item_id,title")
    with pytest.raises(InputError, match=r"items\.csv: 2 of its 3 rows"):
        load("table", log, options=MAP | {"items": str(items)})
    assert properties(clean_database) == []


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
