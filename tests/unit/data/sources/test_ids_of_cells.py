"""What a cell means: ids of users, items and categories."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recsys.data.sources import RetailRocket, Table
from recsys.data.sources.base import CATEGORY_TREE, ITEM_PROPERTIES
from recsys.errors import InputError
from recsys.ids import is_id
from recsys.serving.ids import external_id, read_id, to_external
from tests.unit.data.sources.cells import INSTANT, MAP, Read, checked, table


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
        posted = str(to_external(external_id(text), id_type, "item"))
    except (ValueError, InputError):
        posted = None
    assert imported == posted
    if posted is not None:
        assert is_id(posted, id_type)
        assert str(read_id(posted, id_type, "item")) == posted


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


def test_a_category_that_is_none_costs_the_property_alone(tmp_path):
    things = "item,title,categoryid\na,Lamp,12.0\nb,Chair,sale\nc,Desk,\nd,Sofa,013\n"
    options = {"items": "things.csv", "category_id_type": "integer", "categories": "tree.csv"}
    source = table(
        tmp_path, "user,item,at\nann,a,2024-05-01\n",
        {"things.csv": things, "tree.csv": "categoryid,parentid\n12.0,1\nsale,1\n13,none\n"}, **options,
    )  # fmt: skip
    read = Read(source, ITEM_PROPERTIES)
    values = {(row["itemid"], row["property"]): row["value"] for row in read.rows}
    assert {key: value for key, value in values.items() if key[1] == "categoryid"} == {("a", "categoryid"): "12"}
    assert [values[item, "title"] for item in "abcd"] == ["Lamp", "Chair", "Desk", "Sofa"]
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
