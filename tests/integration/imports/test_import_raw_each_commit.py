"""An import that is killed before any of its commits, and run again, ends as one that was not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from recsys.data.sources import reading
from recsys.errors import EmptyResultError
from recsys.storage import raw_imports
from recsys.storage import raw_tables as raw
from tests.integration.imports.importing import MAP, rows, write

ALL = MAP | {"items": "items.csv", "categories": "tree.csv"}
REPORTED = (
    "status",
    "n_loaded",
    "n_loaded_before",
    "n_rejected",
    "rejected",
    "left_out",
    "n_duplicates",
    "totals",
    "files",
)


class Killed(BaseException):
    """Ends an import where it stands, as SIGKILL does: what is committed stays."""


@contextmanager
def killed_before_commit(engine: sa.Engine, number: int | None) -> Iterator[list[int]]:
    """The number of commits so far; before the one of that number the process is dead."""
    commits = [0]

    def count(_: sa.Connection) -> None:
        commits[0] += 1
        if commits[0] == number:
            raise Killed

    sa.event.listen(engine, "commit", count)
    try:
        yield commits
    finally:
        sa.event.remove(engine, "commit", count)


def write_events(path: Path, n: int, day: int = 1) -> Path:
    """Every tenth row is bad, every seventh equals the one before."""
    places = [i - 1 if i % 7 == 6 else i for i in range(n)]
    lines = [
        f"u{i % 5},{'' if row % 10 == 9 else f'i{i % 4}'},2024-05-{day:02}T{i // 60:02}:{i % 60:02}"
        for row, i in enumerate(places)
    ]
    return write(path, *lines)


def write_catalogue(folder: Path, state: int) -> None:
    write(
        folder / "items.csv", *[f"i{i},Title {i},{i + state * (i % 2)}" for i in range(4)], header="item_id,title,price"
    )
    write(folder / "tree.csv", "a,", f"b,{'a' if state else ''}", header="categoryid,parentid")


def first(folder: Path) -> Path:
    write_events(folder / "1.csv", 30)
    write_events(folder / "2.csv", 30, day=2)
    write_catalogue(folder, 0)
    return folder


def later(folder: Path) -> Path:
    write_events(folder / "1.csv", 40)
    write_events(folder / "3.csv", 25, day=3)
    write_catalogue(folder, 1)
    return folder


def state(engine: sa.Engine) -> dict[str, list[str]]:
    """All that the raw tables hold, without numbers that a second start may change."""
    tables = (raw.events, raw.item_properties, raw.category_tree)
    found = {table.name: sorted(repr(row[table is raw.events : -1]) for row in rows(engine, table)) for table in tables}
    with engine.connect() as connection:
        files = raw_imports.files(connection)
        found["imports"] = [row.status for row in raw_imports.imports(connection)]
    found["files"] = sorted(repr((f.stream, f.file, f.position, f.n_loaded, f.left_out, f.complete)) for f in files)
    return found


@pytest.fixture
def kill_at_each_commit(load, clean_database: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Do an import whole, then killed before each of its commits and run again; the ends must be the same."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 300)

    def play(steps: list[Callable[[Path], Path]], **how: bool) -> None:
        def prepare(name: str) -> Path:
            with clean_database.begin() as connection:
                raw_imports.empty_raw(connection)
            for step in steps[:-1]:
                load("table", step(tmp_path / name), options=ALL)
            return steps[-1](tmp_path / name)

        folder = prepare("whole")
        with killed_before_commit(clean_database, None) as commits:
            whole = load("table", folder, options=ALL, **how)
        wanted, last = state(clean_database), commits[0] + 1
        n_killed = 0
        for number in range(1, last):
            folder = prepare(f"killed {number}")
            try:
                with killed_before_commit(clean_database, number):
                    load("table", folder, options=ALL, **how)
            except Killed:
                n_killed += 1
            result = load("table", folder, options=ALL, **how)
            assert state(clean_database) == wanted, f"killed before commit {number}"
            assert {name: result[name] for name in REPORTED} == {name: whole[name] for name in REPORTED}, number
        assert n_killed == last - 1 > 8

    return play


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"drop_duplicates": True}, {"keep_duplicates": True}])
@pytest.mark.parametrize("steps", [[first], [first, later]])
def test_killed_at_each_commit(kill_at_each_commit, steps, how):
    kill_at_each_commit(steps, **how)


@pytest.mark.slow
def test_a_killed_import_goes_on_with_duplicates_left_out_and_counts_each_row_once(
    load, clean_database, tmp_path, monkeypatch
):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 300)
    log = write_events(tmp_path / "1.csv", 50)
    n_distinct = 39
    fewer = 0
    for number in range(1, commits_of(load, clean_database, log) + 1):
        with pytest.raises(Killed), killed_before_commit(clean_database, number):
            load("table", log, options=MAP)
        result = load("table", log, options=MAP, drop_duplicates=True)
        n_there = len(rows(clean_database, raw.events))
        assert (result["n_loaded"], result["n_loaded_before"]) == ({"events": n_there}, {"events": 0})
        assert n_there + result["n_rejected"] + sum(result["left_out"].values()) == 50
        assert n_there - result["n_duplicates"] == n_distinct
        fewer += n_there == n_distinct
        with clean_database.begin() as connection:
            raw_imports.empty_raw(connection)
    assert fewer == number - 1, "in all cases but the one in which the file was complete before"


def test_what_is_left_after_the_last_file_is_done_when_the_import_is_run_again(load, clean_database, tmp_path):
    log = write_events(tmp_path / "in" / "1.csv", 30)
    with pytest.raises(Killed), killed_before_commit(clean_database, commits_of(load, clean_database, log)):
        load("table", log, options=MAP)
    with clean_database.connect() as connection:
        assert [row.status for row in raw_imports.imports(connection)] == ["loading"], "nights wait for it"
    other = write_events(tmp_path / "other.csv", 20, day=2)
    result = load("table", other, options=MAP)
    assert any(f"the import of {log}, which was interrupted at the end, is finished" in n for n in result["notes"])
    assert (result["n_loaded"], load("table", log, options=MAP)["status"]) == ({"events": 18}, "already loaded")
    with clean_database.connect() as connection:
        assert {row.status for row in raw_imports.imports(connection)} == {"complete"}


def test_an_import_of_nothing_that_is_killed_at_its_end_leaves_no_trace_either(load, clean_database, tmp_path):
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
    log = write(tmp_path / "OR.csv", "536366,22633,HAND WARMER,6,12/1/2010 8:28,1.85,,United Kingdom", header=header)

    def fail() -> None:
        with pytest.raises(EmptyResultError):
            load("online-retail", log)

    with killed_before_commit(clean_database, None) as commits:
        fail()
    with pytest.raises(Killed), killed_before_commit(clean_database, commits[0]):
        load("online-retail", log)
    assert all(row[-2] for row in rows(clean_database, raw.import_files)), "all files are complete"
    fail()
    assert rows(clean_database, raw.imports) == rows(clean_database, raw.import_files) == []


def commits_of(load, engine: sa.Engine, log: Path) -> int:
    """The number of commits that a first import has; afterwards the raw tables are empty."""
    with killed_before_commit(engine, None) as commits:
        load("table", log, options=MAP)
    with engine.begin() as connection:
        raw_imports.empty_raw(connection)
    return commits[0]
