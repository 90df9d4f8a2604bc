"""The files that people have: any delimiter, encoding, packing and layout of folders, and what is said of the rest."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from recsys.data.sources import OnlineRetail, RetailRocket, Table, reading
from recsys.data.sources.base import EVENTS, LineCount, Rejected, Source
from recsys.errors import InputError

MAP = {"user": "user_id", "item": "item_id", "timestamp": "ts"}
PLAIN = "user_id,item_id,ts\nu1,a,2024-05-01\nu2,b,2024-05-02\n"
BOTH = [("u1", "a"), ("u2", "b")]


def zipped(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def read(source: Source, stream: str = EVENTS) -> tuple[list[dict[str, object]], list[Rejected], LineCount]:
    """Rows, rejected lines and what became of all lines of one stream."""
    rows: list[dict[str, object]] = []
    rejected: list[Rejected] = []
    count = LineCount()
    for part in source.parts():
        if part.stream == stream:
            one = LineCount()
            for chunk in part.read():
                one.add(part, chunk)
                count.add(part, chunk)
                rows += chunk.rows.to_pylist()
                rejected += chunk.rejected
    return rows, rejected, count


def pairs(source: Source) -> list[tuple[object, object]]:
    return [(row["visitorid"], row["itemid"]) for row in read(source)[0]]


def given(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("semicolons.csv", PLAIN.replace(",", ";")),
        ("tabs.txt", PLAIN.replace(",", "\t")),
        ("commas.tsv", PLAIN),
        ("pipes.dat", PLAIN.replace(",", "|")),
        ("colons.dat", PLAIN.replace(",", "::")),
        ("mark.csv", PLAIN.encode("utf-8-sig")),
        ("utf16.csv", PLAIN.encode("utf-16")),
        ("utf16le.csv", PLAIN.encode("utf-16-le")),
        ("utf16be.csv", PLAIN.encode("utf-16-be")),
        ("utf32.csv", PLAIN.encode("utf-32")),
        ("cr-only.csv", PLAIN.replace("\n", "\r")),
        ("cr-lf.csv", PLAIN.replace("\n", "\r\n")),
        ("mixed.csv", "user_id,item_id,ts\ru1,a,2024-05-01\r\n\nu2,b,2024-05-02"),
        ("blank-first.csv", "\n \n" + PLAIN),
        ("sep-line.csv", "sep=;\n" + PLAIN.replace(",", ";")),
        ("sep-line-quoted.csv", '"sep=,"\r\n' + PLAIN),
        ("spaces.csv", PLAIN.replace("user_id,item_id", " user_id , item_id")),
        ("quoted.csv", '"user_id";"item_id";"ts"\n"u1";"a";"2024-05-01"\n"u2";"b";"2024-05-02"\n'),
        ("duplicates.csv", "x,x,user_id,item_id,ts,,\n1,2,u1,a,2024-05-01,,\n1,2,u2,b,2024-05-02,,\n"),
        ("really-gzip.csv", gzip.compress(PLAIN.encode(), mtime=0)),
        (
            "two-members.csv.gz",
            gzip.compress(PLAIN[:30].encode(), mtime=0) + gzip.compress(PLAIN[30:].encode(), mtime=0),
        ),
        ("bz2.csv", bz2.compress(PLAIN.encode())),
        ("zstd.csv.zst", bytes(pa.compress(PLAIN.encode(), "zstd"))),
        ("one.csv.zip", zipped(**{"one.csv": PLAIN, "__MACOSX/._one.csv": "x", "README.md": "about"})),
        ("UPPER.CSV", PLAIN),
    ],
)
def test_a_file_is_read_as_it_is(tmp_path, name, content):
    given(tmp_path, name, content)
    assert pairs(Table(tmp_path, MAP)) == pairs(Table(tmp_path / name, MAP)) == BOTH
    assert not read(Table(tmp_path / name, MAP))[1]


def test_what_was_told_from_the_file_is_noted(tmp_path):
    path = given(tmp_path, "german.csv", "Kunde;Artikel;ts;Preis\nK-1;Stühle-7;2024-05-01;12,50\n".encode("cp1252"))
    source = Table(path, {"user": "Kunde", "item": "Artikel", "timestamp": "ts"})
    assert pairs(source) == [("K-1", "Stühle-7")]
    assert any("german.csv: read as columns divided by semicolons, a header, cp1252" in note for note in source.notes)
    assert not any("read as columns" in note for note in Table(given(tmp_path, "plain.csv", PLAIN), MAP).notes)


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({"names": "user_id,item_id,stars,ts"}, "u1,a,4.0,1714557600\nu2,b,1.0,1714557601\n", BOTH),
        ({"names": "user_id,item_id,ts"}, PLAIN, BOTH),  # the first line holds the names: it is a header
        ({"names": "user_id,item_id,ts", "header": "yes"}, PLAIN.replace("ts", "x"), BOTH),
        ({"delimiter": "^"}, PLAIN.replace(",", "^"), BOTH),
        ({"delimiter": "tab"}, PLAIN.replace(",", "\t"), BOTH),
        ({"delimiter": "||"}, PLAIN.replace(",", "||"), BOTH),
        ({"delimiter": ","}, "user_id,item_id,ts;x\nu1,a,2024-05-01\n", None),
        ({"quoting": "no"}, PLAIN.replace("a,", '"a,'), [("u1", '"a'), ("u2", "b")]),
        ({"quoting": "yes"}, PLAIN.replace(",", "\t").replace("a\t", '"a"\t'), BOTH),
        ({"encoding": "utf-16-le"}, PLAIN.encode("utf-16-le"), BOTH),
    ],
)
def test_options_say_how_a_file_is_written(tmp_path, options, text, expected):
    path = given(tmp_path, "log.csv", text)
    if expected is None:
        with pytest.raises(InputError, match="column 'ts' is missing"):
            Table(path, {**MAP, **options})
    else:
        assert pairs(Table(path, {**MAP, **options})) == expected


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("delimiter", '"'),
        ("delimiter", "-----"),
        ("encoding", "utf-99"),
        ("encoding", "rot13"),
        ("encoding", "idna"),
        ("header", "maybe"),
        ("quoting", "1"),
        ("names", "a,b"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path, option, value):
    path = given(tmp_path, "log.csv", PLAIN)
    with pytest.raises(InputError, match="names" if option == "names" else f"option {option}="):
        Table(path, {**MAP, option: value})


def test_quotes_in_a_tsv_are_letters_unless_the_header_is_quoted(tmp_path):
    rows = ['u1\ta1\t"weird al" yankovic\t2009-05-01', 'u2\ta3\t"heroes\t2009-05-02', 'u3\ta4\t12" mixes\t2009-05-03']
    given(tmp_path, "plays.tsv", "\n".join(["user_id\titem_id\tname\tts", *rows, ""]))
    source = Table(tmp_path / "plays.tsv", MAP | {"value": ""})
    assert pairs(source) == [("u1", "a1"), ("u2", "a3"), ("u3", "a4")]
    given(tmp_path, "quoted.tsv", '"user_id"\t"item_id"\t"ts"\n"u1"\t"a\tb"\t"2009-05-01"\n')
    assert pairs(Table(tmp_path / "quoted.tsv", MAP)) == [("u1", "a\tb")]


def test_a_stray_quote_costs_its_own_line(tmp_path):
    lines = [f"u{i},a,2024-05-01,5 inch" for i in range(1_000)]
    lines[100] = 'u100,a,2024-05-01,"5 inch'
    lines[900] = 'u900,a,2024-05-01,"5 inch'
    path = given(tmp_path, "two.csv", "\n".join(["user_id,item_id,ts,note", *lines, ""]))
    rows, rejected, count = read(Table(path, MAP))
    assert (len(rows), [row.line for row in rejected]) == (998, [102, 902])
    assert count.by_fate() | {"loaded": 998, "rejected": 2, "header": 1} == count.by_fate()
    invoices = [f"{i},1000{i},HEART,6,12/1/2010 8:26,2.55,170{i},United Kingdom" for i in range(100)]
    invoices[50] = invoices[50].replace("HEART", '"HEART OF WICKER')
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
    path = given(tmp_path, "OnlineRetail.csv", "\n".join([header, *invoices, ""]))
    rows, rejected, _ = read(OnlineRetail(path, {}))
    assert (len(rows), [row.line for row in rejected]) == (99, [52])


def test_json_lines_are_read_with_nested_values_as_json(tmp_path):
    lines = [
        '{"user_id": "u1", "item_id": 7, "ts": 1714557600, "tags": ["x", {"y": 1}]}',
        "",
        "{broken",
        "[1]",
        '{"ts": 1714557601, "item_id": 9007199254740993, "user_id": "u\\u00e9", "more": null}',
        '{"user_id": null, "item_id": "a", "ts": 1714557602}',
        '{"user_id": {"id": 1}, "item_id": "a", "ts": 1714557602}',
    ]
    path = given(tmp_path, "events.jsonl", gzip.compress("\n".join(lines).encode()))
    source = Table(path, MAP)
    rows, rejected, count = read(source)
    assert [(row["visitorid"], row["itemid"]) for row in rows] == [("u1", "7"), ("ué", "9007199254740993")]
    assert [row.line for row in rejected] == [3, 4, 6, 7]
    assert rejected[-1].reason == "user_id holds several values, where one is needed; name one, as user_id.id"
    assert (count.lines.total, count.lines.blank) == (7, 1)
    items = [
        {"item_id": "7", "title": "Lamp", "size": {"w": 2}},
        {"item_id": "8", "tags": ["a", "b"], "available": True},
    ]
    given(tmp_path, "items.ndjson", "\n".join(map(json.dumps, items)))
    rows = read(Table(path, {**MAP, "items": "items.ndjson"}), "item_properties")[0]
    assert {(row["itemid"], row["property"], row["value"]) for row in rows} == {
        ("7", "title", "Lamp"),
        ("7", "size", '{"w": 2}'),
        ("8", "tags", '["a", "b"]'),
        ("8", "available", "1"),
    }


def test_a_zip_of_several_files_is_read_through_and_names_the_member(tmp_path):
    second = PLAIN.replace("u", "v").replace("vser", "user") + "short\n"
    path = given(tmp_path, "both.zip", zipped(**{"b/2.csv": second, "a.csv": PLAIN, "empty.csv": ""}))
    rows, rejected, count = read(Table(path, MAP))
    assert [row["visitorid"] for row in rows] == ["u1", "u2", "v1", "v2"]
    assert [(row.line, row.reason) for row in rejected] == [(7, "1 columns where 3 are expected")]
    assert count.lines.total == 7
    with pytest.raises(InputError, match=r"bad\.zip: b\.csv: column 'item_id' is missing"):
        Table(given(tmp_path, "bad.zip", zipped(**{"a.csv": PLAIN, "b.csv": "user_id,ts\n"})), MAP)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_two_files_of_one_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "log.zip", "w") as archive:
        archive.writestr("log.csv", PLAIN)
        archive.writestr("log.csv", "user_id,item_id,ts\nu3,c,2024-05-03\n")
    with pytest.raises(InputError, match=r"more than one file of the name log\.csv; unpack it"):
        Table(tmp_path / "log.zip", MAP)


@pytest.mark.parametrize("name", ["a\0b", "\ud800b"])
def test_a_property_whose_name_no_database_takes_is_named(tmp_path, name):
    (tmp_path / "log.csv").write_text(PLAIN)
    (tmp_path / "items.jsonl").write_text(json.dumps({"item_id": "a", name: "x"}) + "\n")
    with pytest.raises(InputError, match=r"items\.jsonl: the name of column .* rename it"):
        Table(tmp_path / "log.csv", {**MAP, "items": "items.jsonl"})


def test_a_cell_of_another_encoding_costs_the_property_or_the_row(tmp_path):
    path = given(tmp_path, "log.csv", PLAIN)
    titles = "item_id,title,available\na,Café,0\nb,Ärger,1\n".encode() + b"c,Caf\xe9,0\n\xe9,x,1\n"
    given(tmp_path, "items.csv", titles)
    rows, rejected, _ = read(Table(path, {**MAP, "items": "items.csv", "encoding": "utf-8"}), "item_properties")
    assert ("c", "available", "0") in {(row["itemid"], row["property"], row["value"]) for row in rows}
    assert [row.line for row in rejected] == [5]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "AH2L9,0000000116,4.0,1019865600\n" * 2, r"first line looks like data.*--option names=c1,c2,c3,c4"),
        ("x.csv", "User_ID,item-id,ts\n1,2,3\n", r"did you mean 'User_ID' by 'user_id', 'item-id' by 'item_id'\?"),
        ("x.csv", "user_idþitem_idþts\n1þ2þ3\n", "No delimiter was found"),
        ("x.json", '[\n{"user_id": 1}\n]\n', "a JSON array; write one object a line"),
        (
            "x.jsonl",
            '{"user": 1, "item_id": 2, "ts": 3}\n',
            "'user_id' is missing; the file has 'user', 'item_id', 'ts'",
        ),
        ("x.csv", zipped(**{"xl/workbook.xml": "<a/>"}), "an Excel workbook; save its sheet as CSV"),
        ("x.csv", zipped(), "the zip archive is empty"),
        ("x.csv", zipped(**{"a.zip": "PK\3\4"}), "an archive within an archive"),
        ("x.csv.gz", gzip.compress(gzip.compress(b"a,b\n", mtime=0), mtime=0), "packed twice"),
        ("x.csv", b"\xd0\xcf\x11\xe0aaaa", "an Excel workbook"),
        ("x.csv", "<!DOCTYPE html><table>", "HTML or XML"),
        ("x.csv", b"\x00\x01\x02\x03,\x00\n", "not a text file"),
        ("x.csv", b"ARROW1\0\0", r"an Arrow \(Feather\) file"),
        ("x.csv", "\n" * 70_000 + PLAIN, "begins with .* blank lines"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_way_out(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        Table(given(tmp_path, name, content), MAP)


def test_folders_are_read_recursively_and_empty_parts_count_as_loaded(tmp_path):
    full = pa.table({"user_id": ["u1"], "item_id": ["a"], "ts": [1714557600000]})
    for name, table in (("day=2024-05-01/part-0.parquet", full), ("day=2024-05-02/part-0.parquet", full.slice(1))):
        given(tmp_path, f"hive/{name}", b"")
        pyarrow.parquet.write_table(table, tmp_path / "hive" / name)
    for name in ("_SUCCESS", "_temporary/0/part-1.parquet", ".hidden/x.csv", "day=2024-05-01/.part-0.parquet.crc"):
        given(tmp_path, f"hive/{name}", b"x")
    given(tmp_path, "hive/README.txt", "about")
    given(tmp_path, "hive/b.csv", "user_id,item_id,ts\n")
    given(tmp_path, "hive/c.csv", "")
    given(tmp_path, "hive/d.csv", "\n\n")
    source = Table(tmp_path / "hive", MAP)
    assert [part.name for part in source.parts()] == [
        "b.csv", "c.csv", "d.csv", "day=2024-05-01/part-0.parquet", "day=2024-05-02/part-0.parquet"
    ]  # fmt: skip
    rows, rejected, count = read(source)
    assert (len(rows), rejected, count.lines.total, count.lines.header, count.lines.blank) == (1, [], 4, 1, 2)
    assert any("4 of 5 files hold no rows" in note for note in source.notes)
    for path in (tmp_path / "hive").rglob("part-0.parquet"):
        if "05-01" in str(path):
            path.unlink()
    with pytest.raises(InputError, match="holds no rows"):
        Table(tmp_path / "hive", MAP)


def test_folders_that_are_links_are_read_once(tmp_path):
    given(tmp_path, "days/a.csv", PLAIN)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "days").symlink_to(tmp_path / "days")
    (tmp_path / "days" / "loop").symlink_to(tmp_path / "in")
    assert [part.name for part in Table(tmp_path / "in", MAP).parts()] == ["days/a.csv"]


def test_a_file_of_items_in_a_folder_of_events_is_told_its_option(tmp_path):
    given(tmp_path, "a.csv", PLAIN)
    given(tmp_path, "items.csv", "item_id,title\na,Lamp\n")
    message = r"items\.csv: column 'user_id', 'ts' is missing.*options items and categories"
    with pytest.raises(InputError, match=message):
        Table(tmp_path, MAP)


def test_retailrocket_takes_folders_of_parts_and_a_day_without_events(tmp_path):
    rows = "1433221332117,257597,view,355908\n"
    given(tmp_path, "events.csv", "timestamp,visitorid,event,itemid\n" + rows)
    given(tmp_path, "events_2.csv", "timestamp,visitorid,event,itemid\n")
    given(tmp_path, "item_properties.parquet/_SUCCESS", "")
    table = pa.table({"timestamp": [1433221332117], "itemid": [355908], "property": ["categoryid"], "value": ["7"]})
    pyarrow.parquet.write_table(table, given(tmp_path, "item_properties.parquet/part-0.snappy.parquet", ""))
    source = RetailRocket(tmp_path, {})
    assert [part.name for part in source.parts()] == [
        "events.csv",
        "events_2.csv",
        "item_properties.parquet/part-0.snappy.parquet",
    ]
    assert len(read(source)[0]) == 1
    assert len(read(source, "item_properties")[0]) == 1


PARQUET = {
    "user_id": pa.array([2**63 + 5, 7], pa.uint64()),
    "item_id": pa.array([b"caf\xe9", b"b"], pa.large_binary()),
    "ts": pa.array([1714557600000, 1714644000000], pa.timestamp("ms")),
}


def test_parquet_types_of_the_world_are_read_or_named(tmp_path):
    path = tmp_path / "log.parquet"
    pyarrow.parquet.write_table(pa.table(PARQUET), path)
    rows, rejected, count = read(Table(path, MAP))
    assert len(rows) + len(rejected) == count.lines.total == 2
    assert [(row["visitorid"], row["itemid"]) for row in rows] == [("7", "b")]
    lists = {**PARQUET, "item_id": pa.array([["a", "b"], ["c"]])}
    pyarrow.parquet.write_table(pa.table(lists), path)
    with pytest.raises(
        InputError, match=r"log\.parquet: column 'item_id' holds list<.*>, several values.*name a column"
    ):
        read(Table(path, MAP))


def test_nested_columns_of_items_are_json_and_all_other_types_are_text(tmp_path):
    columns = {
        "item_id": pa.array(["a", "b"]).dictionary_encode(),
        " title\ufeff": pa.array(["Lamp", None], pa.large_string()),
        "tags": pa.array([["x", "y"], None]),
        "size": pa.array([{"w": 2, "at": None}, None]),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "price": pa.array([2.5, None], pa.float64()),
        "cost": pa.array(["1.50", None]).cast(pa.decimal128(5, 2)),
        "big": pa.array([2**64 - 1, None], pa.uint64()),
        "flag": pa.array([True, None]),
        "day": pa.array([19844, None], pa.date32()),
        "time": pa.array([3600, None], pa.time32("s")),
        "took": pa.array([5, None], pa.duration("s")),
        "half": pa.array([0.5, None], pa.float16()),
        "none": pa.nulls(2),
        "raw": pa.array([b"\xff", b"ok"], pa.large_binary()),
    }
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "items.parquet")
    source = Table(given(tmp_path, "log.csv", PLAIN), {**MAP, "items": "items.parquet"})
    rows, rejected, _ = read(source, "item_properties")
    assert {row["property"]: row["value"] for row in rows if row["itemid"] == "a"} == {
        "title": "Lamp",
        "tags": '["x", "y"]',
        "size": '{"w": 2, "at": null}',
        "map": '[["k", 1]]',
        "price": "2.5",
        "cost": "1.50",
        "big": str(2**64 - 1),
        "flag": "true",
        "day": "2024-05-01",
        "time": "01:00:00.000",
        "took": "5",
        "half": "0.5",
    }
    assert not rejected


def test_a_member_of_another_format_is_an_error_of_its_own(tmp_path):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(PARQUET), buffer)
    packed = given(tmp_path, "log.parquet.gz", gzip.compress(buffer.getvalue()))
    with pytest.raises(InputError, match=r"the file is Parquet, packed with gzip; unpack it"):
        Table(packed, MAP)
    text = given(tmp_path, "text.parquet", PLAIN)
    with pytest.raises(InputError, match=r"text\.parquet: not a Parquet file"):
        Table(text, MAP)
    assert reading.is_parquet(given(tmp_path, "parquet.csv", buffer.getvalue()))
