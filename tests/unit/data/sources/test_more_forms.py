"""Forms of text files as programs write them: quotes, delimiters, headers, JSON; no line is lost in any."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from recsys.data.sources import Table
from recsys.data.sources.base import EVENTS, LineCount
from recsys.data.sources.reading import columns_of, values_of
from recsys.errors import InputError
from recsys.steps import inspect_file

MAP = {"user": "user", "item": "item", "timestamp": "at"}
DAYS = [f"2025-03-{day:02} 10:00" for day in range(1, 13)]


class Read:
    """What a table says of its events, every line accounted for."""

    def __init__(self, source: Table) -> None:
        self.count = LineCount()
        self.rows: list[dict[str, object]] = []
        self.reasons: dict[int, str] = {}
        for part in source.parts():
            for chunk in part.read() if part.stream == EVENTS else ():
                self.count.add(part, chunk)
                self.rows += chunk.rows.to_pylist()
                self.reasons |= {row.line: row.reason for row in chunk.rejected}

    @property
    def items(self) -> list[object]:
        return [row["itemid"] for row in self.rows]


def write(folder: Path, text: str | bytes, name: str = "log.csv") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def read(folder: Path, text: str, name: str = "log.csv", **options: str) -> Read:
    return Read(Table(write(folder, text, name), {**MAP, **options}))


def lines(row: str, n: int = 12) -> str:
    return "".join(row.format(i=i, item=f"i{i % 3}", day=DAYS[i]) + "\n" for i in range(n))


# Quotes


def test_quotes_that_backslashes_escape(tmp_path):
    text = 'user,item,at,title\n"ann","4\\" pipe","2025-03-01","a \\"b, c\\" d"\nbob,fig,2025-03-01,"say \\"hi"\n'
    got = read(tmp_path, text + 'eve,nut,2025-03-01,"C:\\\\dir \\"x\\""\n')
    assert got.items == ['4" pipe', "fig", "nut"]
    assert got.reasons == {}


def test_a_line_that_no_way_of_escaping_makes_a_record_is_rejected_alone(tmp_path):
    got = read(tmp_path, 'user,item,at\nann,"a\\" b,2025-03-01\nbob,fig,2025-03-01\n')
    assert (got.items, got.reasons) == (["fig"], {2: "text follows the closing quote in column 2"})


def test_a_backslash_at_the_end_of_a_value_is_its_last_character(tmp_path):
    assert read(tmp_path, 'user,item,at\nann,"a\\",2025-03-01\n').items == ["a\\"]


@pytest.mark.parametrize("delimiter", [", ", ",  ", "; "])
def test_blanks_between_a_delimiter_and_a_quote(tmp_path, delimiter):
    row = delimiter.join(('"u{i}"', '"{item}, x; y"', '"{day}"'))
    got = read(tmp_path, delimiter.join(('"user"', '"item"', '"at"')) + "\n" + lines(row))
    assert got.items[:2] == ["i0, x; y", "i1, x; y"]
    assert got.count.loaded == 12


# Delimiters


@pytest.mark.parametrize("delimiter", ["\x01", "\x1f", "^", "~", "¦", "#", "\t", "|"])
def test_unusual_delimiters_are_told_from_the_file(tmp_path, delimiter):
    head, row = (delimiter.join(cells) for cells in (("user", "item", "at"), ("u{i}", "{item}", "{day}")))
    got = read(tmp_path, f"{head}\n{lines(row)}")
    assert (len(got.rows), got.items[0]) == (12, "i0")


@pytest.mark.parametrize("given", ["\x01", r"\x01", r"\001", "^A"])
def test_the_delimiter_of_hive_is_an_option_that_a_shell_can_write(tmp_path, given):
    got = read(tmp_path, "ann\x01pear\x012025-03-01\n", delimiter=given, names="user,item,at")
    assert got.items == ["pear"]


def test_spaces_and_the_row_names_of_r(tmp_path):
    got = read(tmp_path, '"user" "item" "at"\n' + lines('"{i}" "u{i}" "{item}" "{day}"'))
    assert got.items[:3] == ["i0", "i1", "i2"]


def test_prose_has_no_delimiter(tmp_path):
    with pytest.raises(InputError, match="No delimiter was found"):
        read(tmp_path, "this is no table at all\nit has words\nof several lines and no more\n")


# Headers


def test_a_delimiter_at_the_end_of_each_line_but_the_header(tmp_path):
    got = read(tmp_path, "user,item,at\n" + lines("u{i},{item},{day},"))
    assert (len(got.rows), got.items[0]) == (12, "i0")


def test_a_decimal_comma_without_quotes_is_no_row_name(tmp_path):
    got = read(tmp_path, "user,item,at,price\n" + lines("u{i},{item},{day},{i},50"))
    assert (got.rows, len(got.reasons)) == ([], 12)


@pytest.mark.parametrize(
    ("title", "n_header", "n_blank"),
    [
        ("Sales of March\n\n", 2, 1), ("# by shop, in March\n# rows: 12\n", 3, 0), ("Sales,,\n,,\n", 3, 0),
        ("\nSales\nMarch\n", 3, 1), ("", 1, 0),
    ],
)  # fmt: skip
def test_titles_above_the_header_are_passed_over_and_said(tmp_path, title, n_header, n_blank):
    source = Table(write(tmp_path, title + "user,item,at\n" + lines("u{i},{item},{day}")), MAP)
    got = Read(source)
    assert len(got.rows) == 12
    assert (got.count.lines.header, got.count.lines.blank) == (n_header, n_blank)
    assert any("of a title" in note for note in source.notes) == (n_header > 1)


def test_a_header_behind_a_sharp_is_no_title(tmp_path):
    assert columns_of(write(tmp_path, "#user,item,at\n" + lines("u{i},{item},{day}"))) == ["#user", "item", "at"]


def test_a_name_of_two_lines_in_the_header(tmp_path):
    got = read(tmp_path, '"user\nname",item,at\n' + lines("u{i},{item},{day}"), user="user name")
    assert (len(got.rows), got.count.lines.header) == (12, 2)


def test_a_stray_quote_in_the_header_takes_no_line_with_it(tmp_path):
    got = read(tmp_path, 'user,item,at,5" note\n' + lines("u{i},{item},{day},x"))
    assert (len(got.rows), got.count.lines.header) == (12, 1)


# JSON


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"user": "ann", "item": "pear"}, indent=1), '{"user": "ann"}{"user": "bob"}',
        '{"user": "ann"},\n{"user": "bob"},\n', "{'user': 'ann'}\n",
    ],
)  # fmt: skip
def test_what_begins_like_json_and_is_none_is_said_to_be_so(tmp_path, text):
    with pytest.raises(InputError, match=r"begins like JSON.*one object a line.*jq"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ['[\n{"user": "ann"}\n]', '[{"user": "ann"}]', '["ann","pear"]\n["bob","fig"]\n'])
def test_arrays_of_json_are_named(tmp_path, text):
    with pytest.raises(InputError, match="a JSON array"):
        read(tmp_path, text)


def test_a_list_inside_one_object_is_pointed_at(tmp_path):
    with pytest.raises(InputError, match=r"jq -c '\.events\[\]'"):
        read(tmp_path, '{"n": 1, "events": [{"user": "ann"}]}\n')


def test_values_inside_objects_are_named_by_paths(tmp_path):
    rows = ({"user": {"id": f"u{i}"}, "item": {"ref": {"sku": f"i{i}"}}, "at": {"$date": DAYS[i]}} for i in range(9))
    path = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "log.jsonl")
    assert values_of(path) == ["user.id", "item.ref.sku", "at.$date"]
    options = {"user": "user.id", "item": "item.ref.sku", "timestamp": "at.$date"}
    assert Read(Table(path, options)).items == [f"i{i}" for i in range(9)]
    report = inspect_file.run(path)
    assert (report.map, report.n_rows) == ({**options, "timestamp": "at.$date"}, 9)


def test_an_object_where_a_value_is_needed_says_the_path(tmp_path):
    got = read(
        tmp_path,
        '{"user": {"id": 1}, "item": "a", "at": "2025-03-01"}\n' + '{"user": 1, "item": "b", "at": "2025-03-01"}\n',
    )
    assert got.reasons == {1: "user holds several values, where one is needed; name one, as user.id"}


def test_numbers_of_json_are_ids_as_those_of_parquet(tmp_path):
    values = ("5863.0", "5863", "NaN", "Infinity", "9007199254740993", "1.5", "1e3", "null")
    got = read(tmp_path, "".join(f'{{"user": "u", "item": {value}, "at": "2025-03-01"}}\n' for value in values))
    assert got.items == ["5863", "5863", "9007199254740993", "1.5", "1000"]
    assert set(got.reasons.values()) == {"item is empty"}


def test_reasons_for_bad_json_do_not_tell_places(tmp_path):
    good = '{"user": "u", "item": "i", "at": "2025-03-01"}\n'
    got = read(tmp_path, good * 5 + '{"user": "u" "item"\n{"user": "some", "x" 1}\n')
    assert len(got.reasons) == 2
    assert not any("char" in reason for reason in got.reasons.values())


# What is no table


def archive(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (archive("xl/workbook.bin"), "Excel"), (archive("mimetype", "content.xml"), "OpenDocument"),
        (archive("word/document.xml"), "Word"), (b"INSERT INTO events VALUES (1, 2);\n", "an SQL script"),
        (b"-- MySQL dump 10.13\n", "an SQL script"), (b"RDX3\nX\n\0\0\0\3", "a data file of R"),
    ],
)  # fmt: skip
def test_other_files_are_called_by_their_name(tmp_path, content, what):
    with pytest.raises(InputError, match=what):
        Table(write(tmp_path, content), MAP)


def test_an_archive_of_different_files_says_that_they_are_read_as_one(tmp_path):
    with zipfile.ZipFile(tmp_path / "log.zip", "w") as file:
        file.writestr("events.csv", "user,item,at\nann,pear,2025-03-01\n")
        file.writestr("items.csv", "item,title\npear,Pear\n")
    with pytest.raises(InputError, match=r"items\.csv.*read as one: unpack it"):
        Table(tmp_path / "log.zip", MAP)


def test_escaped_quotes_in_a_text_that_is_told_to_escape_them(tmp_path):
    text = "user,item,at,title\n" + lines('"u{i}","{item}","{day}","5\\" x, \\\\{i}"')
    source = Table(write(tmp_path, text), {**MAP, "item": "title"})
    got = Read(source)
    assert got.items[:2] == ['5" x, \\0', '5" x, \\1']
    assert (got.count.loaded, got.count.lines.total) == (12, 13)
