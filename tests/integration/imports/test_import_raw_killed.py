"""Imports that are killed, replaced, grown and renamed in any order end as one import of the final files would."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data.sources import reading
from recsys.errors import InputError
from recsys.steps import import_raw
from recsys.storage import raw_imports
from recsys.storage import raw_tables as raw
from tests.integration.imports.importing import rows

MAP = {"user": "user_id", "item": "item_id", "timestamp": "ts"}

REPLACING = """
import sys
from recsys.data.sources import reading
from recsys.steps import import_raw
from recsys.storage import raw_imports
from recsys.storage.engine import engine_of
reading.BLOCK_BYTES = 20_000
for name in ("append", "start_over", "mark_complete"):
    def told(*args, was=getattr(raw_imports, name), name=name, **kwargs):
        print(name, flush=True)
        return was(*args, **kwargs)
    setattr(raw_imports, name, told)
options = {"user": "user_id", "item": "item_id", "timestamp": "ts"}
import_raw.run("table", sys.argv[1], options=options, replace=True, engine=engine_of(sys.argv[2]),
               quarantine_dir=sys.argv[3])
"""


def write(path: Path, lines: list[str], header: str = "user_id,item_id,ts") -> Path:
    path.write_text("\n".join([header, *lines, ""]))
    return path


def events(engine: sa.Engine) -> Counter[tuple[object, ...]]:
    return Counter(row[1:7] for row in rows(engine, raw.events))


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", ["append 1", "append 7", "start_over 1", "mark_complete 1"])
def test_a_replacement_that_is_killed_leaves_the_old_state_whole(
    clean_database: sa.Engine, clean_database_url: str, tmp_path: Path, killed_at: str
) -> None:
    old = write(tmp_path / "old.csv", [f"u{i},a{i % 7},2024-05-01T00:00:{i % 60:02}" for i in range(500)])
    new = write(tmp_path / "new.csv", [f"v{i},b{i % 7},2024-06-01T00:00:{i % 60:02}" for i in range(9_000)])
    import_raw.run("table", old, options=MAP, engine=clean_database, quarantine_dir=tmp_path / "q")
    before = {table.name: rows(clean_database, table) for table in raw.metadata.sorted_tables}
    call = [sys.executable, "-c", REPLACING, str(new), clean_database_url, str(tmp_path / "q")]
    name, count = killed_at.split()
    waited_for = [name] * int(count)
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == name:
                waited_for.pop()
            if not waited_for:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    with clean_database.connect() as connection:
        connection.detach()
        import_raw._lock(connection)  # the killed one's session is over
    assert {table.name: rows(clean_database, table) for table in raw.metadata.sorted_tables} == before
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert sum(events(clean_database).values()) == 9_000


class Killed(BaseException):
    """Ends an import where it stands, as SIGKILL does: what is committed stays."""


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(1, 40)),
        st.tuples(st.just("grow and shuffle"), st.integers(1, 10)),
        st.tuples(st.just("rename"), st.just(0)),
        st.tuples(st.just("copy"), st.just(0)),
        st.tuples(st.just("pack"), st.just(0)),
        st.tuples(st.just("another file"), st.integers(1, 20)),
        st.tuples(st.just("catalogue"), st.integers(0, 5)),
        st.tuples(st.just("kill"), st.integers(1, 4)),
    ),
    max_size=7,
)


@pytest.mark.slow
@settings(max_examples=10, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS)
def test_any_sequence_of_imports_ends_as_one_of_the_final_files(
    clean_database: sa.Engine, monkeypatch: pytest.MonkeyPatch, operations: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 300)
    with tempfile.TemporaryDirectory() as temporary:
        world = World(Path(temporary), clean_database)
        world.load(replace=True)
        for name, n in operations:
            if name == "kill":
                world.change("grow", 20)
                world.load(kill_at=n)
                continue
            world.change(name, n)
            world.load()
        world.load()
        found, state = events(clean_database), world.newest_properties()
        world.load(replace=True)
        assert found == events(clean_database)
        assert {key: state[key] for key in world.newest_properties()} == world.newest_properties()


class World:
    """A folder of exports and a catalogue beside it."""

    def __init__(self, folder: Path, engine: sa.Engine) -> None:
        self.folder, self.engine = folder, engine
        self.n = 0
        self.lines = {"events.csv": self.more(10)}
        self.catalogue = {f"i{i}": "x" for i in range(4)}
        self.extra: list[tuple[str, str]] = []

    def more(self, n: int) -> list[str]:
        """New events, three at each second."""
        self.n += n
        return [
            f"u{i % 5},i{i % 4},2024-05-01T00:{i // 3 // 60:02}:{i // 3 % 60:02}" for i in range(self.n - n, self.n)
        ]

    def change(self, name: str, n: int) -> None:
        first = next(iter(self.lines))
        if name.startswith("grow"):
            self.lines[first] += self.more(n)
            if name == "grow and shuffle":
                self.lines[first].reverse()
        elif name == "rename":
            self.lines = {f"events{self.n}-{i}.csv": lines for i, lines in enumerate(self.lines.values())}
        elif name in ("copy", "pack"):
            self.extra = [(first, name)]
        elif name == "another file":
            self.lines[f"more{self.n}.csv"] = self.more(n)
        else:
            self.catalogue |= {f"i{n}": "" if n % 2 else f"y{self.n}", "i0": f"z{n}"}

    def load(self, *, replace: bool = False, kill_at: int | None = None) -> None:
        path = self.folder / "in"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, lines in self.lines.items():
            write(path / name, lines)
        for name, how in self.extra if not kill_at else []:
            if (path / name).exists() and how == "copy":
                shutil.copy(path / name, path / f"copy of {name}")
            elif (path / name).exists():
                (path / f"{name}.gz").write_bytes(gzip.compress((path / name).read_bytes()))
        write(self.folder / "items.csv", [f"{i},{v}" for i, v in self.catalogue.items()], "item_id,colour")
        self.extra = []
        calls = 0
        appended, noted = raw_imports.append, raw_imports.note

        def count(was, *args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise Killed
            return was(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(raw_imports, "append", lambda *a, **k: count(appended, *a, **k))
            patch.setattr(raw_imports, "note", noted if kill_at is None else lambda *a, **k: count(noted, *a, **k))
            with contextlib.suppress(Killed):
                import_raw.run(
                    "table",
                    path,
                    options=MAP | {"items": str(self.folder / "items.csv")},
                    replace=replace,
                    engine=self.engine,
                    quarantine_dir=self.folder / "quarantine",
                )

    def newest_properties(self) -> dict[tuple[object, object], object]:
        """(item, property) → value, without those that are empty."""
        stored = [row[:4] for row in rows(self.engine, raw.item_properties)]
        newest = {}
        for _, item, name, value in sorted(stored, key=lambda row: row[0]):
            newest[item, name] = value
        return {key: value for key, value in newest.items() if value is not None}


def test_what_was_loaded_of_a_file_that_is_gone_is_taken_back_and_said(
    clean_database: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 300)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.csv", [f"u{i},i,2024-05-01" for i in range(100)])
    append, calls = raw_imports.append, []

    def die_at_the_third(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise Killed
        return append(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_imports, "append", die_at_the_third)
        with pytest.raises(Killed):
            import_raw.run("table", tmp_path / "in", options=MAP, engine=clean_database, quarantine_dir=tmp_path)
    n_half = sum(events(clean_database).values())
    assert 0 < n_half < 100
    (tmp_path / "in" / "a.csv").unlink()
    write(tmp_path / "in" / "b.csv", ["v,i,2024-05-02"])
    result = import_raw.run("table", tmp_path / "in", options=MAP, engine=clean_database, quarantine_dir=tmp_path)
    assert any(f"its {n_half} loaded rows" in note and "a.csv" in note for note in result["notes"])
    assert sum(events(clean_database).values()) == 1
    with clean_database.connect() as connection:
        assert {row.status for row in raw_imports.imports(connection)} == {"complete"}


def test_a_failed_import_does_not_take_what_others_loaded(clean_database: sa.Engine, tmp_path: Path) -> None:
    good = write(tmp_path / "good.csv", ["u,i,2024-05-01"])
    import_raw.run("table", good, options=MAP, engine=clean_database, quarantine_dir=tmp_path)
    bad = write(tmp_path / "bad.csv", ["u,i,never"])
    with pytest.raises(InputError, match="not one of the first"):
        import_raw.run(
            "table", bad, options=MAP | {"timestamp_format": "iso"}, engine=clean_database, quarantine_dir=tmp_path
        )
    assert sum(events(clean_database).values()) == 1
