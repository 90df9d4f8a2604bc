"""Imports into real Postgres: complete, resumable, and refused where they do not fit."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import sqlalchemy as sa

from recsys.data.sources import reading
from recsys.errors import InputError, RecsysError
from recsys.steps import import_raw
from recsys.storage import raw_imports, tables
from recsys.storage import raw_tables as raw
from tests.integration.imports.importing import rows

EVENTS = """timestamp,visitorid,event,itemid,transactionid
1433221332117,257597,view,355908,
1433224214164,992329,addtocart,248676,
1433221999827,111016,transaction,318965,4000
"""


def write_shop(folder: Path, events: str = EVENTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.csv").write_text(events)
    (folder / "item_properties_part1.csv").write_text(
        "timestamp,itemid,property,value\n1433041200000,355908,categoryid,1016\n1433041200000,355908,790,n12000.000\n"
    )
    (folder / "category_tree.csv").write_text("categoryid,parentid\n1016,213\n213,\n")
    return folder


def test_everything_is_loaded_in_order_and_a_second_run_does_nothing(load, clean_database, tmp_path):
    shop = write_shop(tmp_path / "shop")
    result = load("retailrocket", shop)
    assert result["n_loaded"] == {"events": 3, "item_properties": 2, "category_tree": 2}
    assert result["n_rejected"] == 0
    loaded = [row[1:7] for row in rows(clean_database, raw.events.select().subquery())]
    assert loaded == [
        (1433221332117, "257597", "view", "355908", None, None),
        (1433224214164, "992329", "addtocart", "248676", None, None),
        (1433221999827, "111016", "transaction", "318965", "4000", None),
    ]
    assert [row[:2] for row in rows(clean_database, raw.category_tree)] == [("1016", "213"), ("213", None)]
    (record,) = rows(clean_database, raw.imports.select().subquery())
    assert record[1] == "retailrocket"

    assert load("retailrocket", shop)["status"] == "already loaded"
    assert len(rows(clean_database, raw.events)) == 3


def test_bad_rows_are_in_quarantine_with_their_line_and_reason(load, clean_database, tmp_path):
    bad = "soon,1,view,2,\n1433221332117,x1,view,2,\n1433221332117,1,view\n1433221332117,1,like,2,\n"
    shop = write_shop(tmp_path / "shop", EVENTS + bad + "1433221332118,7,view,8,\n")
    result = load("retailrocket", shop)
    assert result["n_loaded"]["events"] == 4
    assert result["n_rejected"] == 4
    with open(result["quarantine"][0], newline="") as file:
        quarantined = list(csv.DictReader(file))
    assert [int(row["line"]) for row in quarantined] == [5, 6, 7, 8]
    assert [row["file"] for row in quarantined] == ["events.csv"] * 4
    reasons = [row["reason"] for row in quarantined]
    assert "timestamp" in reasons[0]
    assert "visitorid" in reasons[1]
    assert "3 columns where 5" in reasons[2]
    assert "event" in reasons[3]


def test_new_files_are_added_and_a_changed_one_is_refused(load, clean_database, tmp_path):
    shop = write_shop(tmp_path / "shop")
    load("retailrocket", shop)
    (shop / "events_2.csv").write_text(EVENTS.replace("14332", "14342"))
    assert load("retailrocket", shop)["n_loaded"]["events"] == 3
    (shop / "events_2.csv").write_text(EVENTS.replace("355908", "355909"))
    with pytest.raises(InputError, match=r"events_2\.csv.*differs.*--replace"):
        load("retailrocket", shop)
    assert len(rows(clean_database, raw.events)) == 6


def test_another_source_is_refused_unless_it_replaces(load, clean_database, tmp_path):
    load("retailrocket", write_shop(tmp_path / "shop"))
    with clean_database.begin() as connection:
        connection.execute(tables.users.insert().values(user_key=1, user_id="257597"))
        recent = {"owner": "user:257597", "item_keys": [1], "event_types": ["view"], "occurred_ms": [1]}
        connection.execute(tables.user_recent.insert().values(recent))
    log = tmp_path / "log.csv"
    log.write_text("who,what,at\nann,pear,2024-05-01T10:00:00Z\nbob,fig,2024-05-01 12:00:00\n")
    options = {"user": "who", "item": "what", "timestamp": "at"}
    with pytest.raises(InputError, match=r"has source retailrocket.*--replace"):
        load("table", log, options=options)
    assert len(rows(clean_database, raw.events)) == 3

    load("table", log, options=options, replace=True)
    assert [row[1:5] for row in rows(clean_database, raw.events)] == [
        (1714557600000, "ann", "interaction", "pear"),
        (1714564800000, "bob", "interaction", "fig"),
    ]
    assert rows(clean_database, raw.item_properties) == []
    assert rows(clean_database, tables.users) == []
    assert rows(clean_database, tables.user_recent) == []  # its keys would name other items now
    with pytest.raises(InputError, match=r"item=who.*--replace"):
        load("table", log, options={**options, "item": "who"})


def test_replacing_drops_lists_and_publications_and_shuts_out_their_publishers(load, clean_database, tmp_path):
    load("retailrocket", write_shop(tmp_path / "shop"))
    with clean_database.begin() as connection:
        version = connection.execute(
            tables.list_versions.insert()
            .values(
                kind="default", version="v", dataset="dataset/d", made_by="test", status="complete", sources=["popular"]
            )
            .returning(tables.list_versions.c.list_version_id)
        ).scalar_one()
        connection.execute(sa.text(f"create table lists_{version} partition of lists for values in ({version})"))
        publication = connection.execute(
            tables.publications.insert()
            .values(status="published", dataset="dataset/d", manifest={"default": version}, fence=7)
            .returning(tables.publications.c.publication_id)
        ).scalar_one()
        connection.execute(tables.publication_pointer.update().values(publication_id=publication, fence=7))
        update = {"number": 1, "base": "deepfm/v", "is_base": True, "artifact": "deepfm_update/1", "chain": "c"}
        connection.execute(
            tables.model_updates.insert(), update | {"log": "postgres", "after": "", "n_events": 0, "fence": 3}
        )
        connection.execute(tables.training_state.update().values(fence=3, holder="an updater"))
    load("retailrocket", write_shop(tmp_path / "shop"), replace=True)
    ((_, pointer, fence, _),) = rows(clean_database, tables.publication_pointer)
    assert (pointer, fence) == (None, 8)
    assert rows(clean_database, tables.publications) == rows(clean_database, tables.list_versions) == []
    assert rows(clean_database, tables.model_updates) == []
    with clean_database.connect() as connection:
        lease = connection.execute(sa.text("select fence, holder from training_state")).one()
    assert tuple(lease) == (4, None), "an updater that works on the old data is shut out"
    with clean_database.connect() as connection:
        assert connection.execute(sa.text(f"select to_regclass('lists_{version}')")).scalar_one() is None
    assert len(rows(clean_database, raw.events)) == 3


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ("", r"events\.csv.*empty"),
        ("timestamp,visitorid,event,itemid\n", r"events\.csv.*no rows"),
        ("timestamp,visitorid,itemid\n1,2,3\n", r"events\.csv: column 'event' is missing"),
        ("timestamp,visitorid,event,itemid\nx,2,view,3\ny,2,view,3\n", r"events\.csv: not one of the first 2 rows"),
    ],
)
def test_an_unusable_file_is_refused_before_anything_is_written(load, clean_database, tmp_path, events, message):
    with pytest.raises(InputError, match=message):
        load("retailrocket", write_shop(tmp_path / "shop", events))
    assert rows(clean_database, raw.imports) == rows(clean_database, raw.item_properties) == []


def test_a_second_import_at_the_same_time_waits_and_is_refused(load, clean_database, tmp_path, monkeypatch):
    monkeypatch.setattr(import_raw, "LOCK_PATIENCE_S", 0.3)
    with clean_database.connect() as connection:
        connection.detach()
        assert raw_imports.try_lock(connection)
        with pytest.raises(Exception, match="another import"):
            load("retailrocket", write_shop(tmp_path / "shop"))
    assert load("retailrocket", tmp_path / "shop")["status"] == "loaded"


CHILD = """
import sys
from recsys.data.sources import reading
from recsys.steps import import_raw
from recsys.storage.engine import engine_of
reading.BLOCK_BYTES = 20_000
import_raw.run("retailrocket", sys.argv[1], engine=engine_of(sys.argv[2]), quarantine_dir=sys.argv[3])
"""


@pytest.mark.slow
def test_a_load_killed_again_and_again_loads_every_row_exactly_once(
    clean_database_url, clean_database, tmp_path, monkeypatch
):
    n = 60_000
    lines = (
        f"{1433221332117 + i},{i % 997},{'view' if i % 50 else 'nonsense'},{i},\n" for i in range(n)
    )  # every row has an item of its own; each 50th is bad
    shop = write_shop(tmp_path / "shop", "timestamp,visitorid,event,itemid,transactionid\n" + "".join(lines))
    call = [sys.executable, "-c", CHILD, str(shop), clean_database_url, str(tmp_path / "quarantine")]
    n_killed = 0
    for target in (2_000, 15_000, 31_000, 50_000):
        child = subprocess.Popen(call, stderr=subprocess.DEVNULL)
        while child.poll() is None:
            done = [file.position for (stream, _), file in progress(clean_database).items() if stream == "events"]
            if done and done[0] >= target:
                os.kill(child.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        n_killed += child.wait() == -signal.SIGKILL
    assert n_killed >= 2

    monkeypatch.setattr(reading, "BLOCK_BYTES", 20_000)
    result = import_raw.run("retailrocket", shop, engine=clean_database, quarantine_dir=tmp_path / "quarantine")
    assert result["n_loaded"]["events"] == n - n // 50
    assert result["n_rejected"] == n // 50
    items = [int(str(row[4])) for row in sorted(rows(clean_database, raw.events))]
    assert items == [i for i in range(n) if i % 50]  # all of them, once each, in the file's order
    with open(result["quarantine"][0], newline="") as file:
        assert [int(row["line"]) for row in csv.DictReader(file)] == [i + 2 for i in range(0, n, 50)]


def progress(engine: sa.Engine) -> dict[tuple[str, str], raw_imports.FileProgress]:
    with engine.connect() as connection:
        return {(file.stream, file.file): file for file in raw_imports.files(connection)}


AWKWARD = ['"', ",", "''", "\\N", "\\.", "NULL", "é, ü", "line\nbreak", "tab\t", " pad ", "x\ry", "$1", "𝄞"]


def test_awkward_texts_arrive_as_they_are(load, clean_database, tmp_path):
    table = pa.table({"who": AWKWARD, "what": AWKWARD[::-1], "at": [1714557600000] * len(AWKWARD)})
    pyarrow.parquet.write_table(table, tmp_path / "log.parquet")
    load("table", tmp_path / "log.parquet", options={"user": "who", "item": "what", "timestamp": "at"})
    loaded = sorted(rows(clean_database, raw.events))
    ids = [text.strip() for text in AWKWARD]  # blanks at its ends are no part of an id
    assert [row[2] for row in loaded] == ids
    assert [row[4] for row in loaded] == ids[::-1]


@pytest.mark.skipif("RECSYS_DATA_DIR" not in os.environ, reason="RECSYS_DATA_DIR is not set")
def test_the_real_subset_is_loaded_and_its_missing_file_told(load, tmp_path):
    result = load("retailrocket", Path(os.environ["RECSYS_DATA_DIR"]) / "retailrocket")
    assert result["n_loaded"] == {"events": 21_012, "category_tree": 1_669}
    assert result["n_rejected"] == 0
    assert any("no item_properties file" in note for note in result["notes"])


@pytest.mark.slow
def test_a_load_goes_on_by_itself_when_its_connection_is_lost(load, clean_database, tmp_path, monkeypatch):
    shop = write_shop(tmp_path / "shop", EVENTS + "".join(f"{1433221332117 + i},1,view,{i},\n" for i in range(5_000)))
    monkeypatch.setattr(reading, "BLOCK_BYTES", 20_000)
    append, calls = raw_imports.append, []

    def lose_connection_once(connection, *args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            me = connection.execute(sa.text("select pg_backend_pid()")).scalar_one()
            with clean_database.connect() as other:
                other.execute(sa.select(sa.func.pg_terminate_backend(me)))
        return append(connection, *args, **kwargs)

    monkeypatch.setattr(raw_imports, "append", lose_connection_once)
    result = load("retailrocket", shop)
    assert result["n_loaded"]["events"] == len(rows(clean_database, raw.events)) == 5_003
    assert len(calls) > 5


def test_cells_that_are_left_empty_are_counted_and_cost_no_row(load, tmp_path):
    (tmp_path / "log.csv").write_text('who,what,at,paid\nann,a,2024-05-01,"12,50"\nbob,b,2024-05-02,gift\n')
    (tmp_path / "things.csv").write_text("what,available,price,categoryid\na,0.0,$5.00,12.0\nb,perhaps,dear,sale\n")
    options = {"user": "who", "item": "what", "timestamp": "at", "value": "paid", "items": "things.csv"}
    result = load("table", tmp_path / "log.csv", options=options | {"category_id_type": "integer"})
    assert (result["n_loaded"][raw.events.name], result["n_rejected"]) == (2, 0)
    assert result["emptied"] == {
        "paid is no number": 1,
        "price is no number": 1,
        "available 'perhaps' is no word for yes or no: the item counts as unavailable": 1,
        "categoryid is no whole number (option category_id_type=string takes any text)": 1,
    }


def test_each_file_of_a_folder_has_a_quarantine_file_of_its_own(load, clean_database, tmp_path):
    long = "x" * 240 + ".csv"
    folder = os.fsencode(tmp_path / "in")
    for number, name in enumerate([b"a_b.csv", b"a/b.csv", long.encode(), b"caf\xe9.csv"]):
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(f"user_id,item_id,ts\nu{number},a,2024-05-01\nu{number},,2024-05-01\n")
    result = load("table", tmp_path / "in", options={"user": "user_id", "item": "item_id", "timestamp": "ts"})
    assert result["n_loaded"] == {"events": 4}
    rejected = [line.split(",")[0] for path in result["quarantine"] for line in Path(path).read_text().splitlines()[1:]]
    assert sorted(rejected) == sorted(["a_b.csv", "a/b.csv", long, "caf\\xe9.csv"])


def test_who_reads_for_long_holds_up_a_replacement_but_no_other_reader(load, clean_database, tmp_path, monkeypatch):
    monkeypatch.setattr(raw_imports, "LOCK_MS", 50)
    monkeypatch.setattr(raw_imports, "LOCK_PATIENCE_S", 1.0)
    load("retailrocket", write_shop(tmp_path / "shop"))
    before = rows(clean_database, raw.events)
    waits = []
    with clean_database.connect() as reader, ThreadPoolExecutor(1) as other:
        reader.execute(sa.text("select * from items")).all()
        replacing = other.submit(load, "retailrocket", tmp_path / "shop", replace=True)
        with clean_database.connect() as connection:
            while not replacing.done():
                started = time.monotonic()
                connection.execute(sa.text("select * from id_types")).all()
                connection.rollback()
                waits.append(time.monotonic() - started)
                time.sleep(0.01)
        with pytest.raises(RecsysError, match="nothing was changed"):
            replacing.result()
    assert max(waits) < 0.5
    assert rows(clean_database, raw.events) == before
    assert load("retailrocket", tmp_path / "shop", replace=True)["n_loaded"]["events"] == 3
