"""`recsys inspect`: the command that it proposes is run as it stands, for each kind of file that people have."""

from __future__ import annotations

import gzip
import io
import shlex
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from airflow_service.demo.data import held
from recsys import cli
from recsys.errors import InputError
from recsys.steps import import_raw, inspect_file
from recsys.storage import raw_tables as raw
from recsys.storage.engine import url_of


@dataclass(frozen=True)
class Case:
    """Files, what is proposed for them (without the path) and the first event that is loaded."""

    files: dict[str, bytes | str]
    command: str
    n_events: int
    first: tuple[int, str, str, str, float | None]  # milliseconds, user, type, item, value
    path: str = ""  # of what is inspected, in the folder
    said: list[str] = field(default_factory=list)  # in the report

    def write(self, folder: Path) -> Path:
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / self.path


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def zipped(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("events.csv", text)
    return buffer.getvalue()


NONE = pa.array([], pa.string())
MAY = 1714521600000  # 2024-05-01
PLAIN = "user_id,item_id,ts\nu1,a,2024-05-01\nu2,b,2024-05-02\n"
FIRST = (MAY, "u1", "interaction", "a", None)
MAP = "-o user=user_id -o item=item_id -o timestamp=ts"
RETAILROCKET = {
    "events.csv": "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n",
    "category_tree.csv": "categoryid,parentid\n1338,1278\n",
}
INVOICES = (
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    "536365,85123A,WHITE HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom\n"
    '536366,10000,"HEART OF WICKER,6,12/13/2010 8:26,2.55,17850,United Kingdom\n'
    "536367,85123A,WHITE HEART,6,12/14/2010 8:26,2.55,17850,United Kingdom\n"
)
VORGANG = "Kundennummer;Artikelnummer;Zeitpunkt;Vorgang;Preis in €\n" + "".join(
    f"K{n};A{n};01.05.2024 00:00;{what};{price}\n"
    for n, (what, price) in enumerate(
        [*[("Angesehen", "816,04")] * 3, *[("Warenkorb", "12,50")] * 2, *[("Gekauft", "3,00")] * 2], 1
    )
)
REES46 = (
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d76fde\n"
    "2019-10-01 00:00:01 UTC,cart,3900821,2053013552326770905,appliances.water_heater,aqua,33.20,554748717,9333dfbd\n"
    "2019-10-01 00:00:04 UTC,purchase,1307067,2053013558920217191,computers.notebook,lenovo,251.74,550050854,7c90fc70\n"
    "2019-10-01 00:00:05 UTC,remove_from_cart,1307067,2053013558920217191,,lenovo,251.74,550050854,7c90fc70\n"
)
CASES = {
    "plain": Case({"log.csv": PLAIN}, f"table PATH {MAP} -o bought=", 2, FIRST, "log.csv"),
    "stray quote": Case(
        {"one.csv": 'ts,user_id,item_id,event,note\n2024-05-01,u1,a,view,ok\n2024-05-02,u2,b,view,"5 inch\n'},
        f"table PATH {MAP} -o event=event",
        1,
        (MAY, "u1", "view", "a", None),
        "one.csv",
        ["1 rejected: a quote opens and is not closed in column 5", "3 read, 1 loaded, 1 rejected, 1 header"],
    ),
    "german shop": Case(
        {"Export.csv": VORGANG},
        "table PATH -o user=Kundennummer -o item=Artikelnummer -o timestamp=Zeitpunkt -o event=Vorgang "
        "-o 'value=Preis in €' -o weights=Angesehen:1,Warenkorb:3,Gekauft:5 -o labels=Warenkorb,Gekauft "
        "-o bought=Gekauft",
        7,
        (MAY, "K1", "Angesehen", "A1", 816.04),
        "Export.csv",
        ["bought   Gekauft (hidden from whoever did it)", "labels   Warenkorb, Gekauft", "816,04 | 12,50"],
    ),
    "types by their words alone": Case(
        {"x.csv": VORGANG.replace("Vorgang", "Was").replace("Angesehen", "Produkt angesehen")},
        "table PATH -o user=Kundennummer -o item=Artikelnummer -o timestamp=Zeitpunkt -o event=Was "
        "-o 'value=Preis in €' -o 'weights=Produkt angesehen:1,Warenkorb:3,Gekauft:5' -o labels=Warenkorb,Gekauft "
        "-o bought=Gekauft",
        7,
        (MAY, "K1", "Produkt angesehen", "A1", 816.04),
        "x.csv",
    ),
    "few unknown words": Case(
        {"x.csv": "user_id,item_id,ts,colour\n" + "u1,a,2024-05-01,red\nu2,b,2024-05-02,blue\n" * 3},
        f"table PATH {MAP} -o bought=",
        6,
        FIRST,
        "x.csv",
        ["colour may hold event types (red, blue): if so, give -o event=colour", "bought   none (nothing is hidden)"],
    ),
    "types of unknown meaning": Case(
        {"x.csv": "user_id,item_id,ts,event\n" + "u1,a,2024-05-01,x1\nu2,b,2024-05-02,yy\nu2,b,2024-05-02,zz\n" * 3},
        f"table PATH {MAP} -o event=event -o weights=x1:1,yy:1,zz:1 -o labels=x1,yy,zz -o bought=",
        9,
        (MAY, "u1", "x1", "a", None),
        "x.csv",
        ["the weights of x1, yy, zz are guessed"],
    ),
    "orders": Case(
        {"x.csv": PLAIN.replace("ts\n", "ts,order_id\n").replace("-01\n", "-01,7\n").replace("-02\n", "-02,8\n")},
        f"table PATH {MAP} -o transaction=order_id",
        2,
        FIRST,
        "x.csv",
        ["bought   interaction"],
    ),
    "tsv with quotes": Case(
        {"plays.tsv": 'user\tartid\tartname\tat\nu1\ta1\t"heroes\t2024-05-01T00:00:00Z\n'},
        "table PATH -o user=user -o item=artid -o timestamp=at -o bought=",
        1,
        (MAY, "u1", "interaction", "a1", None),
        "plays.tsv",
    ),
    "online retail": Case(
        {"OnlineRetail.csv": INVOICES},
        "online-retail PATH",
        2,
        (1291191960000, "17850", "transaction", "85123A", 2.55),
        "OnlineRetail.csv",
    ),
    "seconds": Case(
        {"log.csv": PLAIN.replace("2024-05-01", "1714521600").replace("2024-05-02", "1714521601")},
        f"table PATH {MAP} -o bought=",
        2,
        FIRST,
        "log.csv",
    ),
    "microseconds": Case(
        {"log.csv": f"user_id,item_id,ts\nu1,a,{MAY * 1000}\n"}, f"table PATH {MAP} -o bought=", 1, FIRST, "log.csv"
    ),
    "days of excel": Case(
        {"x.csv": "user,item,at\nu1,a,45413\nu2,b,45414.5\n"},
        "table PATH -o user=user -o item=item -o timestamp=at -o bought=",
        2,
        FIRST,
        "x.csv",
    ),
    "yyyymmdd": Case(
        {"x.csv": "customer,sku,day\nu1,a,20240501\n"},
        "table PATH -o user=customer -o item=sku -o timestamp=day -o bought=",
        1,
        FIRST,
        "x.csv",
    ),
    "cr only": Case({"x.csv": PLAIN.replace("\n", "\r")}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv"),
    "large numbers": Case(
        {
            "x.parquet": parquet(
                user_id=pa.array([2**63 + 5, 7], pa.uint64()),
                item_id=pa.array([b"a", b"\xff"], pa.large_binary()),
                ts=pa.array([MAY, MAY + 1], pa.timestamp("ms")),
            )
        },
        f"table PATH {MAP} -o user_id_type=string -o bought=",
        1,
        (MAY, str(2**63 + 5), "interaction", "a", None),
        "x.parquet",
    ),
    "items with lists": Case(
        {
            "e.parquet": parquet(user_id=["u1"], item_id=["a"], ts=pa.array([MAY], pa.timestamp("ms"))),
            "items.parquet": parquet(item_id=["a"], title=["Lamp"], tags=[["x", "y"]]),
        },
        f"table PATH {MAP} -o bought= -o items=items.parquet",
        1,
        FIRST,
    ),
    "rees46": Case(
        {"2019-Oct.csv": REES46},
        "table PATH -o user=user_id -o item=product_id -o timestamp=event_time -o event=event_type -o value=price "
        "-o weights=view:1,cart:3,purchase:5,remove_from_cart:0.5 -o labels=cart,purchase -o bought=purchase",
        4,
        (1569888000000, "541312140", "view", "44600062", 35.79),
        "2019-Oct.csv",
        ["remove_from_cart speak against an item"],
    ),
    "day first": Case(
        {"x.csv": "user_id,item_id,ts\nu1,a,01-05-2024 00:00\nu2,b,29-05-2024 00:00\n"},
        f"table PATH {MAP} -o bought=",
        2,
        FIRST,
        "x.csv",
    ),
    "day or month": Case(
        {"x.csv": "user_id,item_id,ts\nu1,a,05/01/2024 00:00\n"},
        f"table PATH {MAP} -o timestamp_format=month-first -o bought=",
        1,
        FIRST,
        "x.csv",
        ["nothing tells whether the day or the month comes first"],
    ),
    "gorse": Case(
        {
            "g.csv": "feedback_type,user_id,item_id,time_stamp\nread,u1,a,2024-05-01 00:00:00 +0000 UTC\n"
            "like,u2,b,2024-05-02 10:00:00 +0000 UTC\n"
        },
        "table PATH -o user=user_id -o item=item_id -o timestamp=time_stamp -o event=feedback_type "
        "-o weights=read:1,like:5 -o labels=like -o bought=like",
        2,
        (MAY, "u1", "read", "a", None),
        "g.csv",
    ),
    "diginetica": Case(
        {"d.csv": "user_id,item_id,eventdate,timeframe\nu1,a,2024-05-01,60000\nu1,b,2024-05-01,1031018\n"},
        "table PATH -o user=user_id -o item=item_id -o timestamp=eventdate+timeframe -o bought=",
        2,
        (MAY + 60_000, "u1", "interaction", "a", None),
        "d.csv",
    ),
    "german excel": Case(
        {
            "Export 2024.csv": "Kunde;Artikel;Datum;Preis\nK-1;Stühle-7;31.05.2024 18:05;12,50\n"
            "K-2;Tisch-1;01.06.2024 09:10;1.299,00\n".encode("cp1252")
        },
        "table PATH -o user=Kunde -o item=Artikel -o timestamp=Datum -o value=Preis -o bought=",
        2,
        (1717178700000, "K-1", "interaction", "Stühle-7", 12.5),
        "Export 2024.csv",
        ["semicolons", "cp1252"],
    ),
    "yoochoose": Case(
        {
            "clicks.dat": "11,2014-04-07T10:51:09.277Z,214536502,0\n11,2014-04-07T10:54:09.868Z,214536500,0\n"
            "12,2014-04-02T13:42:17.614Z,214662742,S\n"
        },
        "table PATH -o user=user -o item=item -o timestamp=timestamp -o names=user,timestamp,item,c4 -o bought=",
        3,
        (1396867869277, "11", "interaction", "214536502", None),
        "clicks.dat",
        ["no header"],
    ),
    "ratings without header": Case(
        {"ratings_Books.csv": "AH2L9,0000000116,4.0,1019865600\nA2III,0000000116,1.0,1395619200\n"},
        "table PATH -o user=user -o item=item -o timestamp=timestamp -o value=value "
        "-o names=user,item,value,timestamp -o bought=",
        2,
        (1019865600000, "AH2L9", "interaction", "0000000116", 4.0),
        "ratings_Books.csv",
    ),
    "movielens file": Case(
        {"ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"},
        "table PATH -o user=user -o item=item -o timestamp=timestamp -o value=value "
        "-o names=user,item,value,timestamp -o bought=",
        3,
        (978300760000, "1", "interaction", "1193", 5.0),
        "ratings.dat",
    ),
    "movielens folder": Case(
        {
            "ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n",
            "movies.dat": "1193::One Flew (1975)::Drama\n661::James (1996)::Animation|Musical\n",
        },
        "movielens PATH",
        2,
        (978300760000, "1", "liked", "1193", 5.0),
    ),
    "retailrocket": Case(RETAILROCKET, "retailrocket PATH", 1, (1433221332117, "257597", "view", "355908", None)),
    "retailrocket file": Case(
        RETAILROCKET,
        "table PATH -o user=visitorid -o item=itemid -o timestamp=timestamp -o event=event "
        "-o transaction=transactionid",
        1,
        (1433221332117, "257597", "view", "355908", None),
        "events.csv",
    ),
    "blank first line": Case({"x.csv": "\n" + PLAIN}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv"),
    "zip": Case({"x.csv.zip": zipped(PLAIN)}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv.zip"),
    "gzip by content": Case(
        {"x.csv": gzip.compress(PLAIN.encode())}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv"
    ),
    "sep line": Case({"x.csv": "sep=;\n" + PLAIN.replace(",", ";")}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv"),
    "utf-16": Case({"x.csv": PLAIN.encode("utf-16")}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv", ["utf-16"]),
    "json lines": Case(
        {"x.jsonl": '{"user":"u1","item":"a","timestamp":1714521600,"event":"view"}\n'},
        "table PATH -o user=user -o item=item -o timestamp=timestamp -o event=event",
        1,
        (MAY, "u1", "view", "a", None),
        "x.jsonl",
    ),
    "folder with items": Case(
        {"e.csv": PLAIN, "items.csv": "item_id,title,available\na,Café,0\n".encode("cp1252")},
        f"table PATH {MAP} -o bought= -o items=items.csv",
        2,
        FIRST,
    ),
    "folder of days": Case(
        {
            "day=1/part-0.parquet": parquet(user_id=["u1"], item_id=["a"], ts=pa.array([MAY], pa.timestamp("ms"))),
            "day=2/part-0.parquet": parquet(
                user_id=pa.array([], pa.string()),
                item_id=pa.array([], pa.string()),
                ts=pa.array([], pa.timestamp("ms")),
            ),
            "_SUCCESS": "",
        },
        f"table PATH {MAP} -o bought=",
        1,
        FIRST,
        "",
        ["1 of 2 files hold no rows"],
    ),
    "folder with strangers": Case(
        {"a.csv": PLAIN, "about us.csv": "name,text\nx,y\n"},
        f"table PATH/a.csv {MAP} -o bought=",
        2,
        FIRST,
        "",
        ["about us.csv"],
    ),
}


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
    assert all(text in shown for text in [*case.said, report.command])
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
    (told,) = [warning for warning in report.warnings if "clicks.dat" in warning]
    assert "user,timestamp,item,c4" in told
    assert f"`recsys inspect {shlex.quote(str(tmp_path / 'clicks.dat'))}`" in told


def test_that_nothing_counts_as_bought_lasts(load, clean_database, tmp_path):
    given = {"user": "user_id", "item": "item_id", "timestamp": "ts"}
    for day, options in enumerate((given | {"bought": ""}, given), 1):
        (tmp_path / f"{day}.csv").write_text(PLAIN.replace("2024-05", f"2024-0{day}"))
        load("table", str(tmp_path), options=options)
    with clean_database.connect() as connection:
        query = sa.select(raw.imports.c.bought_event_types).order_by(raw.imports.c.import_id.desc())
        assert connection.execute(query).scalars().first() == []
    there = held(url_of(clean_database))
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
