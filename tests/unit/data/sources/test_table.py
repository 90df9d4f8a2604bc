"""A column map over any file: options, defaults that follow from them, and further files."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pyarrow.parquet
import pytest

from recsys.data.sources import Table
from recsys.data.sources.base import EVENTS
from recsys.errors import InputError

MAP = {"user": "who", "item": "what", "timestamp": "at"}
LOG = "who,what,at,did\nann,pear,1714557600,view\nbob,fig,1714557601,transaction\nbob,pear,1714557602,addtocart\n"


def events_of(source: Table) -> list[dict[str, object]]:
    return [row for part in source.parts() if part.stream == EVENTS for c in part.read() for row in c.rows.to_pylist()]


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    return tmp_path / "log.csv"


def test_the_columns_that_are_needed_are_asked_for(log):
    with pytest.raises(InputError, match=r"column of item, timestamp .*give --option item="):
        Table(log, {"user": "who"})
    with pytest.raises(InputError, match=r"log\.csv: column 'where' is missing"):
        Table(log, {**MAP, "item": "where"})


def test_without_an_event_column_all_are_one_type(log):
    source = Table(log, MAP)
    assert {row["event"] for row in events_of(source)} == {"interaction"}
    assert source.declaration.label_event_types == source.declaration.bought_event_types == ("interaction",)


def test_labels_and_bought_follow_from_the_weights_unless_given(log):
    declared = Table(log, {**MAP, "event": "did"}).declaration
    assert declared.label_event_types == ("addtocart", "transaction")
    assert declared.bought_event_types == ("transaction",)
    given = {**MAP, "event": "did", "weights": "view:1,transaction:9", "labels": "view,transaction", "bought": "view"}
    declared = Table(log, given).declaration
    assert declared.event_weights == {"view": 1.0, "transaction": 9.0}
    assert (declared.label_event_types, declared.bought_event_types) == (("view", "transaction"), ("view",))


def test_an_empty_option_bought_names_no_type(log):
    assert Table(log, {**MAP, "bought": ""}).declaration.bought_event_types == ()


def test_a_type_without_weight_goes_to_quarantine_with_the_way_out(log):
    source = Table(log, {**MAP, "event": "did", "weights": "view:1"})
    (chunk,) = source.parts()[0].read()
    assert [row.line for row in chunk.rejected] == [3, 4]
    assert "option weights" in chunk.rejected[0].reason


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("weights", "view"),
        ("weights", "view:-1"),
        ("labels", "sold"),
        ("labels", ""),
        ("timestamp_format", "min"),
        ("user_id_type", "uuid"),
    ],
)
def test_bad_options_are_named(log, option, value):
    with pytest.raises(InputError, match=f"{option}"):
        Table(log, {**MAP, "event": "did", option: value})


@pytest.mark.parametrize("instant", ["1714557600", "1714557600000", "2024-05-01T10:00:00Z", "2024-05-01 10:00"])
def test_the_format_of_instants_is_found_and_said(tmp_path, instant):
    (tmp_path / "log.csv").write_text(f"who,what,at\nann,pear,{instant}\n")
    source = Table(tmp_path / "log.csv", MAP)
    assert events_of(source)[0]["timestamp"] == 1714557600000
    assert any("timestamp_format" in note for note in source.notes)


def test_parquet_tells_types_of_ids_and_instants(tmp_path):
    at = dt.datetime(2024, 5, 1, 10, tzinfo=dt.UTC)
    table = pa.table({"who": pa.array([7], pa.int32()), "what": ["pear"], "at": pa.array([at])})
    pyarrow.parquet.write_table(table, tmp_path / "log.parquet")
    source = Table(tmp_path, MAP)
    assert (source.declaration.user_id_type, source.declaration.item_id_type) == ("integer", "string")
    assert events_of(source)[0]["timestamp"] == 1714557600000
    assert events_of(source)[0]["visitorid"] == "7"


def test_items_and_categories_come_from_files_beside(log):
    (log.parent / "things.csv").write_text("what,title,categoryid,price\npear,Green pear,12,0.5\nfig,,12,\n")
    (log.parent / "tree.csv").write_text("categoryid,parentid\n12,1\n1,\n")
    source = Table(log.parent, {**MAP, "items": "things.csv", "categories": "tree.csv"})
    parts = {part.stream: [row for c in part.read() for row in c.rows.to_pylist()] for part in source.parts()}
    assert len(parts["events"]) == 3  # the other files are no events
    assert {(row["itemid"], row["property"], row["value"]) for row in parts["item_properties"]} == {
        ("pear", "title", "Green pear"),
        ("pear", "categoryid", "12"),
        ("pear", "price", "0.5"),
        ("fig", "categoryid", "12"),
    }
    assert {row["timestamp"] for row in parts["item_properties"]} == {1714557600000}
    assert [tuple(row.values()) for row in parts["category_tree"]] == [("12", "1"), ("1", None)]
