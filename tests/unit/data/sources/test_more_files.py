"""Folders, ids and encodings as people have them."""

from __future__ import annotations

import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from recsys.data.sources import OnlineRetail, Table
from recsys.data.sources.base import EVENTS
from recsys.errors import InputError
from recsys.steps import inspect_file

MAP = {"user": "user", "item": "item", "timestamp": "at"}
HEAD = "user,item,at\n"
INVOICES = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
INVOICE = "536365,85123A,HEART,6,2010-12-01 08:26,2.55,17850,United Kingdom\n"


def folder(root: Path, **files: str) -> Path:
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(text)
    return root


def users(source: Table | OnlineRetail) -> list[str]:
    parts = (part for part in source.parts() if part.stream == EVENTS)
    return [row["visitorid"] for part in parts for chunk in part.read() for row in chunk.rows.to_pylist()]


def test_files_without_an_ending_are_data(tmp_path):
    folder(tmp_path, **{"part-00000": HEAD + "ann,pear,2025-03-01\n", "000000_0": HEAD + "bob,fig,2025-03-01\n"})
    folder(tmp_path, _SUCCESS="", LICENSE="free", a__csv=HEAD + "eve,nut,2025-03-01\n")
    source = Table(tmp_path, MAP)
    assert sorted(users(source)) == ["ann", "bob", "eve"]
    assert not any("passed over" in note for note in source.notes)
    assert inspect_file.run(tmp_path).n_rows == 3


def test_files_that_are_passed_over_are_named(tmp_path):
    folder(tmp_path, a__csv=HEAD + "ann,pear,2025-03-01\n", b__export=HEAD + "bob,fig,2025-03-01\n", c__crc="x")
    (note,) = (note for note in Table(tmp_path, MAP).notes if "passed over" in note)
    assert note.startswith("1 file of other kinds passed over: b.export; data end in .csv")


def test_a_folder_without_data_says_the_endings_shortly(tmp_path):
    folder(tmp_path, b__export=HEAD)
    for look in (lambda: Table(tmp_path, MAP), lambda: inspect_file.run(tmp_path)):
        with pytest.raises(InputError, match=r"no file whose name ends in \.csv.*\.parquet") as raised:
            look()
        assert len(str(raised.value)) < 300 + len(str(tmp_path))


def test_invoice_lines_beside_other_files(tmp_path):
    folder(tmp_path, OnlineRetail__csv=INVOICES + INVOICE, plays__csv=HEAD + "ann,pear,2025-03-01\n")
    source = OnlineRetail(tmp_path, {})
    assert users(source) == ["17850"]
    assert "1 of 2 files hold no invoice lines and are passed over: plays.csv" in source.notes


def test_an_invoice_file_that_lacks_a_column_is_not_passed_over(tmp_path):
    folder(tmp_path, a__csv=INVOICES + INVOICE, b__csv=(INVOICES + INVOICE).replace("CustomerID", "Buyer"))
    with pytest.raises(InputError, match="column 'CustomerID' is missing"):
        OnlineRetail(tmp_path, {}).parts()


def test_a_folder_of_other_files_alone_is_refused(tmp_path):
    folder(tmp_path, plays__csv=HEAD + "ann,pear,2025-03-01\n")
    with pytest.raises(InputError, match="column 'InvoiceNo' is missing"):
        OnlineRetail(tmp_path, {}).parts()


def test_ids_that_a_spreadsheet_has_shortened_are_named(tmp_path):
    path = folder(tmp_path, a__csv=HEAD + 'ann,"9,14896E+18",2025-03-01\nbob,12e5,2025-03-01\n') / "a.csv"
    (note,) = (note for note in Table(path, MAP).notes if "spreadsheet" in note)
    assert "item: 1 different ids" in note
    assert "'9,14896E+18'" in note


def test_twins_of_unicode_are_named(tmp_path):
    path = folder(tmp_path, a__csv=HEAD + "é,a,2025-03-01\ne\u0301,a,2025-03-01\nü,a,2025-03-01\n") / "a.csv"
    source = Table(path, MAP)
    assert any("user: 1 different ids look like another one" in note for note in source.notes)
    assert len(set(users(source))) == 3


def test_uuids_of_parquet_are_ids(tmp_path):
    ids = [uuid.uuid4(), uuid.uuid4()]
    column = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes for one in ids], pa.binary(16)))
    pa.parquet.write_table(
        pa.table({"user": column, "item": ["a"] * 2, "at": ["2025-03-01"] * 2}), tmp_path / "a.parquet"
    )
    assert users(Table(tmp_path, MAP)) == [str(one) for one in ids]


@pytest.mark.parametrize(("encoding", "word"), [("cp1251", "Æóê"), ("latin-1", "Käse"), ("utf-8", "")])
def test_a_guessed_encoding_is_shown_by_a_word(tmp_path, encoding, word):
    text = HEAD + f"{'Жук' if encoding == 'cp1251' else 'Käse'},a,2025-03-01\n" * 3
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert any(f"(a guess: is {word!r} what stands in it?)" in note for note in Table(tmp_path, MAP).notes) == bool(
        word
    )
