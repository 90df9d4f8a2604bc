"""Who was erased does not come back with an import: their rows are left out and counted, whenever they were erased."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from fast_api_service.catalogue import erasure
from fast_api_service.postgres.write_pool import Writable
from recsys.data.sources import reading
from recsys.dsn import postgres_url
from recsys.storage import keys, raw_imports
from recsys.storage import raw_tables as raw
from tests.integration.imports.importing import MAP, rows, write


def lines_of(n: int, first: int = 0) -> list[str]:
    """Events of ten users, one a minute."""
    return [f"u{i % 10},i{i},2024-05-01 {i // 60:02}:{i % 60:02}" for i in range(first, first + n)]


def users(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(raw.events.c.visitorid).order_by(raw.events.c.seq)))


@pytest.fixture
def erase(clean_database: sa.Engine, clean_database_url: str) -> Callable[[str], int]:
    """Erase a user as the service does; gives the number of imported events that went."""

    async def whole(user: str) -> int:
        writes = Writable(postgres_url(clean_database_url))
        await writes.open()
        try:
            return (await erasure.erase(writes, user)).removed["raw_events"]
        finally:
            await writes.close()

    with clean_database.begin() as connection:
        keys.store_id_types(connection, {"user": "string", "item": "string", "category": "string"})
    return lambda user: asyncio.run(whole(user))


@pytest.mark.parametrize("name", ["events.csv", "grown.csv"])
@pytest.mark.parametrize("how", [{}, {"drop_duplicates": True}, {"keep_duplicates": True}])
def test_later_exports_do_not_bring_an_erased_user_back(load, clean_database, tmp_path, erase, name, how, capsys):
    load("table", write(tmp_path / "events.csv", *lines_of(100)), options=MAP)
    assert erase("u3") == 10
    result = load("table", write(tmp_path / name, "", *lines_of(150), "u3,i,never"), options=MAP, **how)
    assert "u3" not in users(clean_database)
    keeps_all = "keep_duplicates" in how and name == "grown.csv"
    assert len(users(clean_database)) == (90 + 135 if keeps_all else 135)
    assert result["left_out"]["of erased users"] == 15
    n_new = 135 if keeps_all else 45
    assert {fate: n for fate, n in result["lines"].items() if n} == {
        "read": 153,
        "loaded": n_new,
        "left out": 150 - n_new,
        "rejected": 1,
        "blank": 1,
        "header": 1,
    }
    assert "15 of erased users" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_grown_export_is_known_though_much_of_it_was_erased(load, clean_database, tmp_path, erase):
    load("table", write(tmp_path / "a.csv", *lines_of(100)), options=MAP)
    for user in ("u1", "u2", "u3"):
        erase(user)
    result = load("table", write(tmp_path / "b.csv", *lines_of(140)), options=MAP)
    assert any("b.csv contains a.csv: it has grown" in note for note in result["notes"])
    assert result["left_out"] == {"of erased users": 42, "loaded before": 70}
    assert len(users(clean_database)) == 98


def test_a_replacement_does_not_bring_an_erased_user_back(load, clean_database, tmp_path, erase):
    log = write(tmp_path / "a.csv", *lines_of(100))
    load("table", log, options=MAP)
    erase("u3")
    result = load("table", log, options=MAP, replace=True)
    assert (len(users(clean_database)), result["left_out"]) == (90, {"of erased users": 10})


def test_properties_of_an_erased_user_stay_away(load, clean_database, tmp_path, erase):
    folder = tmp_path / "ml"
    folder.mkdir()
    (folder / "ratings.dat").write_text("1::7::5::978300760\n2::7::3::978300761\n")
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    load("movielens", folder)
    with clean_database.begin() as connection:
        keys.store_id_types(connection, {"user": "integer", "item": "integer", "category": "string"})
    erase(1)
    (folder / "users.dat").write_text("1::F::1::10::48068\n2::M::57::16::70072\n")
    result = load("movielens", folder)
    assert {row[1] for row in rows(clean_database, raw.user_properties)} == {"2"}
    assert result["left_out"]["of erased users"] == 4


@pytest.mark.parametrize("way", ["rows", "difference", "replace"])
def test_who_is_erased_while_an_import_runs_is_gone_after_the_receipt(
    load, clean_database, tmp_path, erase, monkeypatch, way
):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 2_000)
    if way == "difference":
        load("table", write(tmp_path / "0.csv", *lines_of(50)), options=MAP)
    log = write(tmp_path / "1.csv", *lines_of(1_000))
    erasing = threading.Thread(target=erase, args=["u3"])
    name = "note"
    was, calls = getattr(raw_imports, name), []

    def erase_in_between(connection, *args, **kwargs):
        noted = was(connection, *args, **kwargs)
        calls.append(args)
        if len(calls) == (1 if way == "difference" else 3):  # rows of the user are written and not committed
            erasing.start()
            wait_for_the_tombstone(clean_database)
        return noted

    monkeypatch.setattr(raw_imports, name, erase_in_between)
    result = load("table", log, options=MAP, replace=way == "replace")
    erasing.join()
    assert "u3" not in users(clean_database)
    assert len(users(clean_database)) == 900
    with clean_database.connect() as connection:
        file = raw_imports.files(connection)[-1]
    assert file.n_loaded + sum(file.left_out.values()) == file.position == 1_000
    assert file.left_out["of erased users"] > 0
    assert result["lines"]["read"] == sum(n for fate, n in result["lines"].items() if fate != "read")


def wait_for_the_tombstone(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        while not keys.erased(connection):
            connection.rollback()
