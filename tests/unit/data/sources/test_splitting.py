"""Which lines are records: against a plain reading of the rule, over dirty files in pieces of any size."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from recsys.data.sources import Table, reading
from recsys.data.sources.base import Chunk, LineCount, Lines, Part
from recsys.data.sources.formats import forms_of
from recsys.data.sources.splitting import Splitter
from recsys.errors import RecsysError

N = 3


def values_of(text: str, delimiter: str, quoting: bool) -> list[str] | None:
    """The values of a record, None where it is not well formed; character by character."""
    values, at = [], 0
    while True:
        value = ""
        if quoting and text[at : at + 1] == '"':
            at += 1
            while True:
                if at >= len(text):
                    return None
                if text[at] != '"':
                    value, at = value + text[at], at + 1
                elif text[at : at + 2] == '""':
                    value, at = value + '"', at + 2
                else:
                    at += 1
                    break
        else:
            while at < len(text) and not text.startswith(delimiter, at):
                if text[at] == "\n":
                    return None
                value, at = value + text[at], at + 1
        values.append(value)
        if at == len(text):
            return values
        if not text.startswith(delimiter, at):
            return None
        at += len(delimiter)


def by_the_rule(lines: list[str], delimiter: str, quoting: bool) -> list[tuple[int, int, list[str] | None]]:
    """(index of the first line, number of lines, the values or None where it is rejected), blank lines left away."""
    found, i = [], 0

    def is_whole(line: str) -> bool:
        return line.count(delimiter) == N - 1

    while i < len(lines):
        if not lines[i]:
            i += 1
            continue
        record, last = None, i
        for k in range(i, len(lines)):
            values = values_of("\n".join(lines[i : k + 1]), delimiter, quoting)
            if values is not None and len(values) == N:
                record, last = values, k
                break
            if k > i and is_whole(lines[k]):
                break
        if last > i and is_whole(lines[i]) and is_whole(lines[last]):
            record, last = None, i
        if record is None and quoting and '\\"' in lines[i]:  # a backslash before a quote or a backslash stands for it
            doubled = re.sub(r'\\(["\\])', lambda at: '""' if at[1] == '"' else "\\", lines[i])
            values = values_of(doubled, delimiter, quoting)
            record = values if values is not None and len(values) == N else None
        found.append((i, last - i + 1, record))
        i = last + 1
    return found


TEXT = st.text(st.sampled_from('ab "",;|:\t\\é€'), max_size=6)


@st.composite
def dirty_lines(draw: st.DrawFn, delimiter: str) -> list[str]:
    d = delimiter
    plain = st.builds(lambda i: f"u{i}{d}pear{d}2024-05-01", st.integers(0, 99))
    quoted = st.builds(lambda i: f'"u{i}"{d}"a ""b""{d}c"{d}2024-05-01', st.integers(0, 99))
    broken = st.builds(lambda i, last: f'u{i}{d}"one\ntwo{d}\n{last}"{d}2024-05-01', st.integers(0, 99), TEXT)
    opened = st.builds(lambda i: f'u{i}{d}"5 inch{d}2024-05-01', st.integers(0, 99))
    closes = st.builds(lambda i: f'u{i}{d}12"{d}2024-05-01', st.integers(0, 99))
    short = st.builds(lambda i: f"u{i}{d}pear", st.integers(0, 99))
    noise = st.lists(TEXT, min_size=1, max_size=4).map(d.join)
    blocks = draw(
        st.lists(st.one_of(plain, plain, quoted, broken, opened, closes, short, noise, st.just("")), max_size=25)
    )
    return [line for block in blocks for line in block.split("\n")]


@st.composite
def dirty_files(draw: st.DrawFn) -> tuple[list[str], str, str, bytes, bool, int]:
    delimiter = draw(st.sampled_from([",", ";", "\t", "|", "::"]))
    lines = draw(dirty_lines(delimiter))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    ends = draw(st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=len(lines) + 1, max_size=len(lines) + 1))
    text = "who;what;at".replace(";", delimiter) + ends[0]
    text += "".join(line + end for line, end in zip(lines, ends[1:], strict=True))
    if lines and lines[-1] and draw(st.booleans()):
        text = text.rstrip("\r\n")
    if not draw(
        st.booleans()
    ):  # a CR before an LF is one end, so that ends that meet are two only where a line is between
        text = text.replace("\r\n", "\n")
    quoting = draw(st.booleans())
    return lines, delimiter, encoding, text.encode(encoding), quoting, draw(st.sampled_from([64, 100, 333, 1 << 20]))


def physical_lines(data: bytes, encoding: str) -> list[str]:
    text = data.decode(encoding)
    lines = re.split("\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(file=dirty_files())
def test_every_line_of_a_dirty_file_is_loaded_or_rejected_by_the_rule(file):
    _, delimiter, encoding, data, quoting, block_bytes = file
    lines = physical_lines(data, encoding)[1:]
    expected = by_the_rule(lines, delimiter, quoting)
    before, reading.BLOCK_BYTES = reading.BLOCK_BYTES, block_bytes
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "log.csv")
            path.write_bytes(data)
            csv = reading.CsvFormat(delimiter, encoding=encoding, quoting=quoting)
            (form,) = forms_of(path, csv)  # a column more, and a title, are told from the lines: other tests' matter
            assume(form.columns == ("who", "what", "at") and form.n_header == 1)
            blocks = list(reading.read_blocks(path, ["who", "what", "at"], csv=csv))
    finally:
        reading.BLOCK_BYTES = before
    rows = [
        tuple(cell.decode() for cell in row.values())
        for block in blocks
        for row in reading.pa.table(block.cells).to_pylist()
    ]
    good = [(at, n, values) for at, n, values in expected if values is not None]
    assert rows == [tuple(values) for _, _, values in good]
    assert [line for block in blocks for line in block.lines] == [at + 2 for at, _, _ in good]
    assert [row.line for block in blocks for row in block.rejected] == [
        at + 2 for at, _, values in expected if values is None
    ]
    total = sum((block.lines_read for block in blocks), Lines(0))
    assert total == Lines(
        len(lines) + 1, lines.count("") - blank_inside(lines, good), 1, sum(n - 1 for _, n, _ in good)
    )
    assert blocks[-1].end == len(expected)


def blank_inside(lines: list[str], good: list[tuple[int, int, list[str]]]) -> int:
    return sum(lines[at : at + n].count("") for at, n, _ in good)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(file=dirty_files(), times=st.lists(st.sampled_from(["2024-05-01", "", "soon", "1714557600"]), max_size=5))
def test_the_lines_of_an_import_add_up(file, times):
    _, delimiter, encoding, data, quoting, block_bytes = file
    further = "".join(f"v{delimiter}pear{delimiter}{time}\n" for time in ["2024-05-01", *times])
    data += ("\n" + further).encode("utf-16-le" if encoding == "utf-16" else encoding)
    options = {"user": "who", "item": "what", "timestamp": "at", "timestamp_format": "iso"}
    options |= {"delimiter": delimiter, "encoding": encoding, "quoting": "yes" if quoting else "no"}
    before, reading.BLOCK_BYTES = reading.BLOCK_BYTES, block_bytes
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "log.csv")
            path.write_bytes(data)
            (part,) = Table(path, options).parts()
            count = LineCount()
            for chunk in part.read():
                count.add(part, chunk)
    finally:
        reading.BLOCK_BYTES = before
    assert sum(count.by_fate().values()) == count.lines.total == len(physical_lines(data, encoding))
    assert count.loaded >= 1 + times.count("2024-05-01")


@pytest.mark.parametrize(
    ("text", "records", "rejected"),
    [
        ('a,"x\ny",c\n', ["a,x\ny,c"], []),
        ('a,"x\n\ny ""z""",c\n', ['a,x\n\ny "z",c'], []),
        ('"x\ny",b,c\n', ["x\ny,b,c"], []),
        ('a,b,"x\ny"\n', ["a,b,x\ny"], []),
        ('a,"x,c\nd,e,f\n', ["d,e,f"], [1]),  # never closed
        ('a,"x,c\nd,e,f\ng,12",i\n', ["d,e,f", 'g,12",i'], [1]),  # closed by a stray one, with the right number
        ('a,"x,c\ng,12",i\n', ['g,12",i'], [1]),
        ('a,"x\nd,e,f\ng",i\n', ["d,e,f"], [1, 3]),  # would swallow a record
        ('a,"x" y,c\nd,e,f\n', ["d,e,f"], [1]),
        ('a,x "y" z,c\n', ['a,x "y" z,c'], []),
        ('a,"x\ny"\n', [], [1, 2]),
        ('"', [], [1]),
    ],
)
def test_a_quote_costs_its_own_line(tmp_path, text, records, rejected):
    (tmp_path / "log.csv").write_text("who,what,at\n" + text)
    for block_bytes in (64, 1 << 20):
        blocks = read_small(tmp_path / "log.csv", block_bytes)
        rows = [row for block in blocks for row in reading.pa.table(block.cells).to_pylist()]
        assert [b",".join(row.values()).decode() for row in rows] == records
        assert [row.line - 1 for block in blocks for row in block.rejected] == rejected


def read_small(path: Path, block_bytes: int) -> list[reading.Block]:
    before, reading.BLOCK_BYTES = reading.BLOCK_BYTES, block_bytes
    try:
        return list(reading.read_blocks(path, ["who", "what", "at"]))
    finally:
        reading.BLOCK_BYTES = before


def test_reasons_name_the_column_and_the_quote(tmp_path):
    (tmp_path / "log.csv").write_text('who,what,at\na,"5 inch,c\na,"x" y,c\na,b\n')
    (block,) = reading.read_blocks(tmp_path / "log.csv", ["who", "what", "at"])
    assert [row.reason for row in block.rejected] == [
        "a quote opens and is not closed in column 2",
        "text follows the closing quote in column 2",
        "2 columns where 3 are expected",
    ]


def test_a_line_without_end_costs_itself_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.data.sources.texts.MAX_LINE_BYTES", 500)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 100)
    (tmp_path / "log.csv").write_text('who,what,at\na,"b,c\n' + "x" * 5_000 + "\nd,e,f\n")
    blocks = list(reading.read_blocks(tmp_path / "log.csv", ["who", "what", "at"]))
    assert [(row.line, row.text[:5]) for block in blocks for row in block.rejected] == [(2, 'a,"b,'), (3, "xxxxx")]
    assert sum((block.lines_read for block in blocks), Lines(0)) == Lines(4, header=1)
    assert sum(len(block.lines) for block in blocks) == 1


def test_many_stray_quotes_in_a_file_larger_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1 << 20)
    lines = [f"u{i},{'5 inch' if i % 3 else chr(34) + '5 inch'},2024-05-01\n" for i in range(70_000)]
    (tmp_path / "log.csv").write_text("who,what,at\n" + "".join(lines))
    assert (tmp_path / "log.csv").stat().st_size > reading.BLOCK_BYTES
    blocks = list(reading.read_blocks(tmp_path / "log.csv", ["who"]))
    assert len(blocks) > 1
    assert [row.line for block in blocks for row in block.rejected] == list(range(2, 70_002, 3))
    assert sum(len(block.lines) for block in blocks) == 70_000 - len(range(2, 70_002, 3))


def test_a_lost_line_is_a_fault_that_stops_the_load(tmp_path):
    empty = reading.pa.RecordBatch.from_pylist([], reading.STREAMS["events"])
    part = Part("events", tmp_path / "log.csv", "log.csv", lambda: iter(()))
    with pytest.raises(RecsysError, match=r"log\.csv: 1 of 3 lines are not accounted for"):
        LineCount().add(part, Chunk(empty, 1, lines=Lines(3, blank=1, header=1)))


def test_what_is_kept_back_is_bounded(monkeypatch):
    monkeypatch.setattr("recsys.data.sources.splitting.MAX_RECORD_BYTES", 100)
    splitter = Splitter(3, ",", True, 1)
    pieces = [b'a,"never closed\n', *[b"prose\n"] * 49]
    kept = [split for piece in pieces for split in splitter.split(piece, last=False)]
    assert sum(split.lines.total for split in kept) > 25
    assert [row.line for split in kept for row in split.rejected] == [1, *range(2, 51)]


def test_a_small_file_is_one_block_whatever_its_last_lines_leave_open(tmp_path):
    (tmp_path / "log.csv").write_text('who,what,at\nbad\nu1,a,"x\ny"\nu2,b,2024-05-01\nu3,"c')
    (block,) = reading.read_blocks(tmp_path / "log.csv", ["who", "what", "at"])
    assert (len(block.lines), [row.line for row in block.rejected]) == (2, [2, 6])
