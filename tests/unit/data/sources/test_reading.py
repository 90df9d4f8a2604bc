"""No record of a file is lost: each is loaded, rejected with its line, or left out on purpose."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data.sources import RetailRocket, reading
from recsys.data.sources.base import Chunk, Lines
from recsys.data.sources.checking import Checked
from recsys.data.sources.times import TimeFormat
from recsys.errors import InputError
from recsys.ids import BLANKS

HEADER = b"timestamp,visitorid,event,itemid\n"
GOOD = st.builds(
    lambda t, u, e, i: f"{t},{u},{e},{i}".encode(),
    st.integers(10**12, 1_700_000_000_000),
    st.integers(0, 10**17),
    st.sampled_from(["view", "addtocart", "transaction"]),
    st.integers(0, 10**6),
)
# Of what is no UTF-8, 0xA0 is a blank: the file is read as Windows-1252.
ANYTHING = st.binary(min_size=1, max_size=40).map(lambda line: line.translate(bytes.maketrans(b"\n\r\xa0", b"xyz")))
DAMAGED = st.tuples(GOOD, st.integers(0, 30), ANYTHING).map(lambda x: x[0][: x[1]] + x[2][:3] + x[0][x[1] :])
BLANK = f"[{re.escape(BLANKS)}]*"
ID = rf"{BLANK}(?:0|-?[1-9][0-9]{{0,17}})(?:\.0{{0,2}})?{BLANK}"
SPACE = rf"[\s{re.escape(BLANKS)}]*"  # around numbers, the separators of ASCII are blanks, too
TIME = rf"{SPACE}([+]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?){SPACE}"
GOOD_LINE = re.compile(rf"{TIME},{ID},(view|addtocart|transaction),{ID}")


def read_events(lines: list[bytes], block_bytes: int) -> list[Chunk]:
    before, reading.BLOCK_BYTES = reading.BLOCK_BYTES, block_bytes
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "events.csv").write_bytes(HEADER + b"".join(line + b"\n" for line in lines))
            (part,) = RetailRocket(Path(folder), {}).parts()
            return list(part.read())
    finally:
        reading.BLOCK_BYTES = before


def is_good(line: bytes) -> bool:
    found = GOOD_LINE.fullmatch(line.decode(errors="replace"))
    return found is not None and 315_532_800_000 <= float(found[1]) <= (time.time() + 86_400) * 1000


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    lines=st.lists(st.one_of(GOOD, GOOD, DAMAGED, ANYTHING), min_size=1, max_size=60),
    block_bytes=st.sampled_from([150, 400, 1 << 20]),
)
def test_loaded_and_rejected_are_all_rows_each_with_its_line(lines, block_bytes):
    if not b"".join(lines).strip(b" \t\v\f\x1c\x1d\x1e\x1f"):
        with pytest.raises(InputError, match="the file holds no rows"):
            read_events(lines, block_bytes)
        return
    chunks = read_events(lines, block_bytes)
    rejected = [row.line - 2 for chunk in chunks for row in chunk.rejected]
    loaded = [tuple(row.values()) for chunk in chunks for row in chunk.rows.to_pylist()]
    assert chunks[-1].end == len(lines)
    assert rejected == [i for i, line in enumerate(lines) if not is_good(line)]
    expected = [line.decode().split(",") for line in lines if is_good(line)]
    assert [(t, u, e, i) for t, u, e, i, *_ in loaded] == [
        (round(float(t.strip().strip(BLANKS))), *(x.strip(BLANKS).split(".")[0] for x in (u, e, i)))
        for t, u, e, i in expected
    ]


@pytest.mark.parametrize("block_bytes", [60, 70, 103, 150, 180, 1 << 20])
def test_a_line_after_a_nul_is_a_line(block_bytes):
    good = b"1000000000000,0,view,0"
    lines = [b"\xf9K", b"\0\0\x801000000000000,1,view,1", b"\0" * 3 + good, b"\0" + good, b"\0", good, b"\0", good]
    chunks = read_events(lines, block_bytes)
    rejected = [(row.line - 2, row.text) for chunk in chunks for row in chunk.rejected]
    assert chunks[-1].end == len(lines)
    assert sum(chunk.rows.num_rows for chunk in chunks) == 2
    assert [place for place, _ in rejected] == [0, 1, 2, 3, 4, 6]
    assert rejected[-1][1] == "\0"


def test_the_sizes_of_blocks_change_nothing_but_the_pieces():
    lines = [f"14332213321{i % 90 + 10},{i},view,{i}".encode() if i % 7 else b"1,2" for i in range(300)]
    small, large = read_events(lines, 200), read_events(lines, 1 << 20)
    assert len(small) > len(large)
    assert [row for c in small for row in c.rows.to_pylist()] == [row for c in large for row in c.rows.to_pylist()]
    assert [row for c in small for row in c.rejected] == [row for c in large for row in c.rejected]


def checked(**columns: list[object] | pa.Array) -> Checked:
    cells = {name: pa.array(values) for name, values in columns.items()}
    n = len(next(iter(cells.values())))
    return Checked(reading.Block(cells, np.arange(1, n + 1), n, []))


@pytest.mark.parametrize(
    ("cell", "unit", "millis"),
    [
        ("2024-05-01T10:00:00Z", "iso", 1714557600000),
        ("2024-05-01T12:00:00+02:00", "iso", 1714557600000),
        ("2024-05-01 10:00", "iso", 1714557600000),
        ("2024-05-01", "iso", 1714521600000),
        ("2024-05-01 10:00:00.250", "iso", 1714557600250),
        ("1714557600", "s", 1714557600000),
        ("1714557600.25", "s", 1714557600250),
        ("1714557600000", "ms", 1714557600000),
        ("01/05/2024", "iso", None),
        ("1714557600000", "s", None),
        ("-5", "ms", None),
        ("nan", "s", None),
        ("1e300", "s", None),
        ("", "ms", None),
    ],
)
def test_instants(cell, unit, millis):
    fine = {"iso": "2024-05-01T00:00:00Z", "s": "1714557600", "ms": "1714557600000"}
    block = checked(at=[cell, fine[unit]])
    value = block.timestamp("at", TimeFormat(unit)).to_pylist()[0]
    assert (value if block.keep[0] else None) == millis
    assert block.keep[1]


@pytest.mark.parametrize(
    ("cells", "texts", "kept"),
    [
        (
            ["7", "007", "x", "", "1.5", "-3", "9" * 19, "7.0", "1.2e3"],
            ["7", None, None, None, None, "-3", None, "7", None],
            [1, 0, 0, 0, 0, 1, 0, 1, 0],
        ),
        ([7.0, None, 1.5, float("nan"), float("inf")], ["7", None, None, None, None], [1, 0, 0, 0, 0]),
        ([7, None], ["7", None], [1, 0]),
    ],
)
def test_integer_ids(cells, texts, kept):
    block = checked(user=cells)
    assert block.identifier("user", "integer").to_pylist() == texts
    assert block.keep.tolist() == [bool(k) for k in kept]


def test_text_ids_are_bounded_and_hold_no_nul():
    block = checked(user=["ann", "é" * 128, "é" * 129, "a\0b", None, b"\xff".decode("latin-1")])
    block.identifier("user", "string")
    assert block.keep.tolist() == [True, True, False, False, False, True]


def test_numbers():
    block = checked(value=["1.5", "1e3", "1_0", "inf", "ten", ""])
    assert block.number("value", required=False).to_pylist()[:2] == [1.5, 1000.0]
    assert block.keep.all()
    assert block.emptied == {"value is no number, or the decimal sign is not known (option decimal)": 3}
    block = checked(value=["1.5", "ten", ""])
    block.number("value")
    assert block.keep.tolist() == [True, False, False]


def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path):
    path = tmp_path / "events.parquet"
    path.write_text("timestamp,visitorid,event,itemid\n")
    with pytest.raises(InputError, match=r"events\.parquet: not a Parquet file"):
        RetailRocket(tmp_path, {}).parts()
    path.unlink()
    pyarrow.parquet.write_table(pa.table({"timestamp": [1]}), path)
    path.rename(tmp_path / "events.csv")
    with pytest.raises(InputError, match=r"events\.csv: "):
        RetailRocket(tmp_path, {}).parts()


def test_a_quoted_value_may_hold_delimiters_and_line_breaks(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('a,b\n"1,2","x\ny"\n3,z\n1,2,3\n')
    (block,) = reading.read_blocks(path, ["a", "b"])
    assert block.cells["a"].to_pylist() == [b"1,2", b"3"]
    assert block.cells["b"].to_pylist() == [b"x\ny", b"z"]
    assert [row.line for row in block.rejected] == [5]
    assert block.lines_read == Lines(5, header=1, continued=1)


def test_a_column_that_occurs_twice_is_refused(tmp_path):
    (tmp_path / "events.csv").write_text("timestamp,event,event,visitorid,itemid\n1,view,view,2,3\n")
    with pytest.raises(InputError, match="'event' occurs more than once"):
        RetailRocket(tmp_path, {}).parts()


def test_a_file_of_another_format_is_given_up_early(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_WRONG_FIRST", 10)
    (tmp_path / "events.csv").write_bytes(HEADER + b"1;2;3;4\n" * 1000)
    with pytest.raises(
        InputError, match=r"events\.csv: not one of the first .* line 2: 1 columns where 4 are expected \(1;2;3;4\)"
    ):
        next(RetailRocket(tmp_path, {}).parts()[0].read())
