"""Every physical line of an imported file is told of: loaded, rejected, blank, of the header, or part of a record."""

from __future__ import annotations

import csv
import gzip

import pytest
import sqlalchemy as sa

from recsys.data.sources import splitting
from recsys.errors import RecsysError
from recsys.steps import import_raw
from recsys.storage import raw_tables as raw

OPTIONS = {"user": "who", "item": "what", "timestamp": "at"}
LINES = [
    "",
    "sep=;",
    "who;what;at;note",
    'u1;a;2024-05-01;12" mixes',
    'u2;a;2024-05-01;"5 inch',
    "",
    'u3;a;2024-05-02;"two',
    'lines"',
    "u4;a",
    "u5;a;soon;",
    'u6;a;2024-05-03;"x" y',
    "u7;a;2024-05-04;",
]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_lines_of_a_dirty_file_add_up(clean_database, tmp_path, end, encoding):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "log.csv").write_bytes(gzip.compress(end.join(LINES).encode(encoding)))
    result = import_raw.run(
        "table",
        tmp_path / "in",
        options=OPTIONS,
        allow_bad_rows=True,
        engine=clean_database,
        quarantine_dir=tmp_path / "quarantine",
    )
    assert {fate: n for fate, n in result["lines"].items() if n} == {
        "read": len(LINES),
        "loaded": 3,
        "rejected": 4,
        "blank": 2,
        "header": 2,
        "continued": 1,
    }
    assert result["n_rejected"] == 4
    with open(result["quarantine"][0], newline="") as file:
        assert [int(row["line"]) for row in csv.DictReader(file)] == [5, 9, 10, 11]
    with clean_database.connect() as connection:
        users = connection.execute(sa.select(raw.events.c.visitorid).order_by(raw.events.c.seq)).scalars().all()
    assert users == ["u1", "u3", "u7"]


def test_a_reader_that_loses_a_line_stops_the_import(clean_database, tmp_path, monkeypatch):
    def lose(found: splitting._Found, reason: str, text: str) -> None:
        found.line += 1

    monkeypatch.setattr(splitting._Found, "reject", lose)
    (tmp_path / "log.csv").write_text("who,what,at\nu1,a,2024-05-01\nu2,a\nu3,a,2024-05-01\n")
    with pytest.raises(RecsysError, match=r"log\.csv: 1 of 4 lines are not accounted for"):
        import_raw.run("table", tmp_path / "log.csv", options=OPTIONS, engine=clean_database, quarantine_dir=tmp_path)
    with clean_database.connect() as connection:
        assert not connection.execute(sa.select(raw.events)).all()


def test_quarantine_files_of_two_folders_stay_apart_and_hold_no_formulas(clean_database, tmp_path):
    for name in ("a/b.csv", "a_b.csv"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"who,what,at\nu1,{name},2024-05-01\n=1+1,x,soon\n")
    result = import_raw.run(
        "table", tmp_path / "in", options=OPTIONS, engine=clean_database, quarantine_dir=tmp_path / "quarantine"
    )
    assert (result["n_rejected"], len(set(result["quarantine"]))) == (2, 2)
    for name in result["quarantine"]:
        with open(name, newline="") as file:
            [row] = csv.DictReader(file)
        assert row["row"].startswith("'=1+1"), "a spreadsheet takes it for text"
