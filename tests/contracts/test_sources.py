"""What every source promises. A new source adds one case."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from recsys.data.sources import SOURCES, open_source, reading
from recsys.data.sources.base import EVENTS, STREAMS, Chunk, Source
from recsys.errors import InputError

YEAR_2000_MS, YEAR_2030_MS = 946_684_800_000, 1_893_456_000_000


@dataclass(frozen=True)
class Case:
    """A small input of a source. The events' file comes first; `needed` is a column that it cannot do without."""

    source: str
    files: dict[str, str]
    n_events: int
    needed: str
    bad_row: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def events_file(self) -> str:
        return next(iter(self.files))

    def write(self, folder: Path, **changed: str) -> Path:
        for name, text in {**self.files, **changed}.items():
            (folder / name).write_text(text)
        return folder


RETAILROCKET = {
    "events.csv": "timestamp,visitorid,event,itemid,transactionid\n"
    "1433221332117,257597,view,355908,\n1433224214164,992329,addtocart,248676,\n1433221999827,7,transaction,3,4000\n",
    "item_properties_part1.csv": "timestamp,itemid,property,value\n1435460400000,3,categoryid,1338\n"
    "1435460400000,3,790,n12000.000\n",
    "category_tree.csv": "categoryid,parentid\n1338,1278\n1278,\n",
}
CASES = [
    Case("retailrocket", RETAILROCKET, 3, "itemid", "1433221332117,seven,view,1,"),
    Case("generated", RETAILROCKET, 3, "event", "1433221332117,7,glance,1,"),
    Case(
        "movielens",
        {
            "ratings.csv": "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n"
            "1,9,4.0,1260759179\n2,31,3.0,1260759182\n",
            "movies.csv": 'movieId,title,genres\n31,"Dangerous, Minds (1995)",Drama\n'
            "9,Heat,Action|Crime\n8,Un,(no genres listed)\n",
        },
        3,
        "movieId",
        "1,31,eleven,1260759144",
    ),
    Case(
        "online-retail",
        {
            "lines.csv": "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
            "536365,85123A,WHITE HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom\n"
            "536366,PADS,PADS TO MATCH,6,2010-12-01 08:28:00,0.001,17850,United Kingdom\n"
            "C536379,85123A,WHITE HEART,-1,12/1/2010 9:41,2.55,17850,United Kingdom\n"
            "536370,POST,POSTAGE,3,12/1/2010 8:45,18.00,12583,France\n"
            "536414,22139,,56,12/1/2010 11:52,0.00,,United Kingdom\n"
        },
        2,
        "StockCode",
        "536365,71053,LANTERN,6,yesterday,2.55,17850,United Kingdom",
    ),
    Case(
        "table",
        {
            "log.csv": 'who,what,at,did,paid\nann,"pear, green",2024-05-01T10:00:00+02:00,view,\n'
            "bob,fig,2024-05-01 10:00,transaction,2.5\n",
        },
        2,
        "what",
        "bob,fig,noon,view,",
        {"user": "who", "item": "what", "timestamp": "at", "event": "did", "value": "paid"},
    ),
]


@pytest.fixture(params=CASES, ids=lambda case: case.source)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def chunks_by_part(source: Source) -> dict[tuple[str, str], list[Chunk]]:
    return {(part.stream, part.name): list(part.read()) for part in source.parts()}


def event_rows(source: Source) -> pa.Table:
    return pa.Table.from_batches([c.rows for part in source.parts() if part.stream == EVENTS for c in part.read()])


def test_every_source_has_a_case():
    assert {case.source for case in CASES} == set(SOURCES)


def test_parts_give_the_streams_columns_and_the_events_come_first(case, tmp_path):
    source = open_source(case.source, case.write(tmp_path), case.options)
    parts = source.parts()
    assert parts[0].stream == EVENTS
    assert len({(part.stream, part.name) for part in parts}) == len(parts)
    for part in parts:
        ends = []
        for chunk in part.read():
            assert chunk.rows.schema == STREAMS[part.stream]
            chunk.rows.validate(full=True)
            assert not any(chunk.rows[item.name].null_count for item in chunk.rows.schema if not item.nullable)
            ends.append(chunk.end)
        assert ends == sorted(set(ends))
        assert ends
    assert len(event_rows(source)) == case.n_events


def test_what_is_declared_fits_the_events(case, tmp_path):
    source = open_source(case.source, case.write(tmp_path), case.options)
    events, declared = event_rows(source), source.declaration
    assert set(events["event"].to_pylist()) <= set(declared.event_weights)
    assert all(weight > 0 for weight in declared.event_weights.values())
    assert declared.label_event_types
    assert {*declared.label_event_types, *declared.bought_event_types} <= set(declared.event_weights)
    assert pc.all(
        pc.and_(pc.greater(events["timestamp"], YEAR_2000_MS), pc.less(events["timestamp"], YEAR_2030_MS))
    ).as_py()
    for column, id_type in (("visitorid", declared.user_id_type), ("itemid", declared.item_id_type)):
        if id_type == "integer":
            assert [str(int(text)) for text in events[column].to_pylist()] == events[column].to_pylist()


def test_a_file_is_read_in_the_same_pieces_each_time(case, tmp_path, monkeypatch):
    first = case.files[case.events_file].splitlines(keepends=True)
    path = case.write(tmp_path, **{case.events_file: first[0] + "".join(first[1:]) * 50})
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1_000)
    source = open_source(case.source, path, case.options)
    assert chunks_by_part(source) == chunks_by_part(open_source(case.source, path, case.options))
    chunks = next(iter(chunks_by_part(source).values()))
    assert len(chunks) > 1
    assert chunks[-1].end == 50 * (len(first) - 1)


def test_a_bad_row_is_set_aside_and_the_others_go_on(case, tmp_path):
    text = case.files[case.events_file]
    n_rows = text.count("\n") - 1
    path = case.write(tmp_path, **{case.events_file: text + case.bad_row + "\n" + "".join(text.splitlines(True)[1:])})
    (chunks, *_) = chunks_by_part(open_source(case.source, path, case.options)).values()
    rejected = [row for chunk in chunks for row in chunk.rejected]
    assert [row.line for row in rejected] == [n_rows + 2]
    assert rejected[0].reason
    n_left_out = sum(sum(chunk.left_out.values()) for chunk in chunks)
    n_loaded = sum(chunk.rows.num_rows for chunk in chunks)
    assert n_loaded == 2 * case.n_events
    assert n_loaded + len(rejected) + n_left_out == 2 * n_rows + 1 == chunks[-1].end


def test_a_missing_column_is_named(case, tmp_path):
    text = case.files[case.events_file]
    path = case.write(tmp_path, **{case.events_file: text.replace(case.needed, "something", 1)})
    with pytest.raises(InputError, match=rf"{case.events_file}: column '{case.needed}' is missing"):
        chunks_by_part(open_source(case.source, path, case.options))


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_file_is_named(case, tmp_path, text):
    path = case.write(tmp_path, **{case.events_file: text})
    with pytest.raises(InputError, match=rf"{case.events_file}: .*empty"):
        chunks_by_part(open_source(case.source, path, case.options))


def test_a_packed_file_that_is_cut_short_is_an_error(case, tmp_path):
    import gzip

    text = case.files[case.events_file]
    packed = gzip.compress((text + "".join(text.splitlines(True)[1:]) * 500).encode())
    path = case.write(tmp_path)
    (path / case.events_file).unlink()
    (path / (case.events_file + ".gz")).write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=rf"{case.events_file}\.gz"):
        chunks_by_part(open_source(case.source, path, case.options))


def test_an_unknown_option_and_a_wrong_path_are_refused(case, tmp_path):
    with pytest.raises(InputError, match="no option colour"):
        open_source(case.source, case.write(tmp_path), {**case.options, "colour": "red"})
    with pytest.raises(InputError, match="nowhere"):
        open_source(case.source, tmp_path / "nowhere", case.options)


def test_an_unknown_source_is_told_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="retailrocket, movielens, online-retail, table, generated"):
        open_source("amazon", tmp_path)
