"""Imports of many files: each is set against what is loaded, which is looked at only where it may share rows."""

from __future__ import annotations

import zlib

import pytest
import sqlalchemy as sa

from recsys.errors import InputError
from recsys.storage import raw_differences, raw_seen
from recsys.storage import raw_tables as raw
from tests.integration.imports.importing import MAP, events, write


@pytest.fixture
def n_looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often loaded rows were looked at."""
    looks, shared = [], raw_differences.Staged.shared

    def count(staged: raw_differences.Staged) -> dict[int, int]:
        looks.append(staged.n_rows)
        return shared(staged)

    monkeypatch.setattr(raw_differences.Staged, "shared", count)
    return looks


def hash_of(line: str) -> int:
    return zlib.crc32(line.encode())


def lines(n: int, first: int = 0) -> list[str]:
    """In the files' order times overlap: as if each shop of a chain exported its own."""
    made = [f"u{i},i{i % 7},2024-05-{1 + i * 7919 % 28:02} {i % 24:02}:00" for i in range(first, first + n)]
    return sorted(made, key=hash_of)


def test_files_that_share_nothing_are_not_looked_up(load, clean_database, tmp_path, n_looks):
    for number in range(8):
        write(tmp_path / "in" / f"{number}.csv", *lines(50, 50 * number))
    result = load("table", tmp_path / "in", options=MAP)
    assert (result["n_loaded"], result["n_duplicates"], n_looks) == ({"events": 400}, 0, [])


def test_grown_files_among_many_are_known(load, clean_database, tmp_path, n_looks):
    write(tmp_path / "in" / "0.csv", *lines(40))
    load("table", tmp_path / "in", options=MAP)
    write(tmp_path / "in" / "1.csv", *lines(40, 100))
    write(tmp_path / "in" / "2.csv", *lines(3, 200))  # few: they are little of what holds them
    write(tmp_path / "in" / "3.csv", *lines(60, 100), *lines(40, 300))  # holds 1
    write(tmp_path / "in" / "4.csv", *lines(90, 200))  # holds 2
    write(tmp_path / "in" / "5.csv", *lines(50), *lines(20, 400))  # holds 0
    result = load("table", tmp_path / "in", options=MAP)
    loaded = events(clean_database)
    assert len(loaded) == len(set(loaded)) == 40 + 40 + 3 + 60 + 87 + 30
    assert (result["left_out"], n_looks) == ({"loaded before": 83}, [100, 90, 70])
    write(tmp_path / "in" / "6.csv", *lines(30, 20), *lines(30, 500))
    write(tmp_path / "in" / "7.csv", *lines(30, 600))
    with pytest.raises(InputError, match=r"6\.csv: 30 of its 60 events"):
        load("table", tmp_path / "in", options=MAP)


def test_what_is_loaded_is_always_known_and_what_is_not_hardly_ever(clean_database):
    insert = """
        insert into raw.events ("timestamp", visitorid, event, itemid)
        select i, 'u' || i % 97, 'view', 'i' || i from generate_series(1, 5000) i
    """
    with clean_database.begin() as connection:
        connection.execute(sa.text(insert))
        connection.execute(sa.text("create temp table others as select * from raw.events"))
        connection.execute(sa.text("update others set itemid = 'j' || itemid"))
        seen = raw_seen.Seen(connection)
        assert seen.n_known(connection, raw.events.fullname) == 5_000
        assert seen.n_known(connection, "others") < 5
        seen.add(connection, "others")
        assert seen.n_known(connection, "others") == 5_000
