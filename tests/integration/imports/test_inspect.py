"""`recsys inspect`: the command that it proposes is run as it stands, for each kind of file that people have."""

from __future__ import annotations

import shlex

import pyarrow as pa
import pyarrow.parquet
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from airflow_service.demo.data import loaded_source
from recsys import cli
from recsys.errors import InputError
from recsys.steps import import_raw, inspect_file
from recsys.storage import raw_tables as raw
from recsys.storage.engine import url_of
from tests.integration.imports.inspect_cases import (
    CASES,
    FIRST,
    MAY,
    PLAIN,
    VORGANG,
    Case,
    parquet,
)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_proposed_command_loads_the_file(case, clean_database, tmp_path):
    path = case.write(tmp_path / "in")
    report = inspect_file.run(path)
    assert report.problem is None
    assert report.command is not None
    words = shlex.split(report.command)
    quoted = shlex.quote(str(path))
    expected = case.command.replace("PATH/a.csv", shlex.quote(str(path / "a.csv"))).replace("PATH", quoted)
    assert report.command == f"recsys import {expected}"
    shown = inspect_file.text(report)
    assert all(text in shown for text in [*case.texts, report.command])
    result = import_raw.run(
        words[2],
        words[3],
        options=dict(pair.split("=", 1) for pair in words[5::2]),
        engine=clean_database,
        quarantine_dir=tmp_path / "quarantine",
    )
    assert result["n_loaded"]["events"] == case.n_events == report.n_rows
    at = raw.events.c
    with clean_database.connect() as connection:
        query = sa.select(at.timestamp, at.visitorid, at.event, at.itemid, at.value).order_by(at.seq)
        first = connection.execute(query.limit(1)).one()
    assert tuple(first) == case.first


def test_figures_are_those_of_the_rows(tmp_path):
    rows = ["u1,a,2024-05-01,view", "u1,a,2024-05-01,view", "u2,b,2024-05-03,addtocart", "u3,a,2024-05-02,"]
    (tmp_path / "x.csv").write_text("user_id,item_id,ts,event\n" + "\n".join(rows) + "\n\n")
    report = inspect_file.run(tmp_path / "x.csv")
    assert (report.n_rows, report.n_users, report.n_items, report.n_duplicates) == (3, 2, 2, 1)
    assert report.event_types == {"view": 2, "addtocart": 1}
    assert report.span == ["2024-05-01 00:00", "2024-05-03 00:00"]
    assert report.lines["read"] == sum(n for fate, n in report.lines.items() if fate != "read") == 6
    assert [column["blank"] for column in report.columns] == [0, 0, 0, 0.25]
    assert any("1 events equal another one" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('"User-ID";"ISBN";"Book-Rating"\n"276725";"034545104X";"0"\n', "no column was found for times"),
        ("user_id,item_id,ts\n", "hold no rows"),
        (
            parquet(user_id=["u"], item_id=[["a", "b"]], ts=pa.array([MAY], pa.timestamp("ms"))),
            "several values in a row",
        ),
        ("name,colour\nx,y\n", "no column was found for users, items, times"),
    ],
)
def test_what_cannot_be_imported_is_said_with_what_was_seen(tmp_path, content, problem):
    path = Case({"x.csv": content}, "", 0, FIRST, "x.csv").write(tmp_path)
    report = inspect_file.run(path)
    assert report.command is None
    assert problem in str(report.problem)
    assert "cannot be imported as it is" in inspect_file.text(report)
    done = CliRunner().invoke(cli.app, ["inspect", str(path)])
    assert (done.exit_code, problem in done.stdout.replace("\n", " ")) == (2, True)


def test_what_is_known_goes_before_what_is_guessed(tmp_path):
    (tmp_path / "x.csv").write_text("a;b;c\n7;8;1714521600\n")
    done = CliRunner().invoke(cli.app, ["inspect", str(tmp_path), "-o", "user=b", "-o", "item=a", "-o", "timestamp=c"])
    assert done.exit_code == 0
    assert f"table {shlex.quote(str(tmp_path))} -o user=b -o item=a -o timestamp=c -o bought=\n" in done.stdout
    with pytest.raises(InputError, match="no such file"):
        inspect_file.run(tmp_path / "nowhere")


def test_a_given_column_of_event_types_has_its_values_weighed(tmp_path):
    rows = VORGANG.replace("Vorgang", "Art")
    for text, column in ((rows, "Art"), (rows.split("\n", 1)[1], "c4")):
        (tmp_path / "x.csv").write_text(text)
        report = inspect_file.run(tmp_path / "x.csv", options={"event": column})
        assert report.problem is None
        assert "weights=Angesehen:1,Warenkorb:3,Gekauft:5 -o labels=Warenkorb,Gekauft -o bought=Gekauft" in str(
            report.command
        )
        assert report.event_types == {"Angesehen": 3, "Warenkorb": 2, "Gekauft": 2}


@pytest.mark.parametrize("category", ["S", "brand-7", "2089046292"])
def test_a_category_is_no_event_type(tmp_path, category):
    rows = [f"{n},2014-04-07T10:51:09.277Z,{214536500 + n},{'0' if n % 2 else category}" for n in range(40)]
    (tmp_path / "clicks.dat").write_text("\n".join(rows) + "\n")
    report = inspect_file.run(tmp_path / "clicks.dat")
    assert "event=" not in str(report.command)
    assert report.event_types == {"interaction": 40}


def test_weights_are_of_the_types_of_all_files(tmp_path):
    for day, what in enumerate(("Angesehen", "Gekauft"), 1):
        (tmp_path / f"{day}.csv").write_text(
            "Kunde;Artikel;Datum;Vorgang\n" + f"K1;A1;0{day}.05.2024 10:00;{what}\n" * 3
        )
    report = inspect_file.run(tmp_path)
    assert "weights=Angesehen:1,Gekauft:5 -o labels=Gekauft -o bought=Gekauft" in str(report.command)
    assert report.event_types == {"Angesehen": 3, "Gekauft": 3}


def test_files_of_other_columns_are_told_by_kind(tmp_path):
    clicks = "1,2014-04-07T10:51:09.277Z,214536502,0\n2,2014-04-07T10:54:09.868Z,214536500,S\n"
    buys = "1,2014-04-07T10:51:09.277Z,214536502,12462,1\n2,2014-04-07T10:54:09.868Z,214536500,523,2\n"
    for name, text in {"clicks.dat": clicks, "buys-1.dat": buys, "buys-2.dat": buys}.items():
        (tmp_path / name).write_text(text)
    report = inspect_file.run(tmp_path)
    assert report.problem is None
    assert f"{tmp_path / 'buys-1.dat'} " in str(report.command)
    (warning,) = [warning for warning in report.warnings if "clicks.dat" in warning]
    assert "user,timestamp,item,c4" in warning
    assert f"`recsys inspect {shlex.quote(str(tmp_path / 'clicks.dat'))}`" in warning


def test_that_nothing_counts_as_bought_lasts(load, clean_database, tmp_path):
    given = {"user": "user_id", "item": "item_id", "timestamp": "ts"}
    for day, options in enumerate((given | {"bought": ""}, given), 1):
        (tmp_path / f"{day}.csv").write_text(PLAIN.replace("2024-05", f"2024-0{day}"))
        load("table", str(tmp_path), options=options)
    with clean_database.connect() as connection:
        query = sa.select(raw.imports.c.bought_event_types).order_by(raw.imports.c.import_id.desc())
        assert connection.execute(query).scalars().first() == []
    there = loaded_source(url_of(clean_database))
    assert there is not None
    assert (there.source, there.path, there.is_complete) == ("table", tmp_path, True)


def test_the_line_for_the_demo_says_the_same(tmp_path):
    folder = tmp_path / "it's $5"
    folder.mkdir()
    (folder / "x.csv").write_text(VORGANG)
    report = inspect_file.run(folder)
    assert str(report.demo) in inspect_file.text(report)
    assert '"value=Preis in €"' in str(report.demo)
    make, demo, *variables = shlex.split(str(report.demo).replace("$$", "$"))
    given = dict(variable.split("=", 1) for variable in variables)
    assert (make, demo, given["SOURCE"], given["INPUT"]) == ("make", "demo", "table", str(folder))
    assert shlex.split(given["OPTIONS"]) == shlex.split(str(report.command))[5::2]


def test_a_large_file_is_looked_at_in_part_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.data.sources.reading.BLOCK_BYTES", 1_000)
    (tmp_path / "x.csv").write_text("user_id,item_id,ts\n" + "u1,a,2024-05-01\n" * 2_000)
    report = inspect_file.run(tmp_path / "x.csv")
    assert report.is_sample
    assert 0 < report.n_rows < 2_000
    assert "a sample" in inspect_file.text(report)
