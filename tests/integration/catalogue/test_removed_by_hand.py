"""Rows and tables that somebody removes by SQL, and a database that is restored under running workers."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from recsys.events.connections import Connections
from recsys.storage import keys, raw_imports, tables
from recsys.storage.embedded_server import Home
from recsys.updater import new_users
from recsys.updater.store import TrainingStore
from tests.conftest import execute, sibling
from tests.integration import serving_shop as shop
from tests.integration.serving_shop import put, row_of


@pytest.mark.parametrize("how", ["delete from items where item_key >= 50", "truncate items"])
def test_no_item_gets_the_key_of_another_that_was_removed(
    clean_database_url: str, clean_database: sa.Engine, how: str
) -> None:
    engine = clean_database
    shop.stock(engine)
    shop.publish(engine, "v1", shop.FIRST)
    with shop.running_service(clean_database_url) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        execute(clean_database_url, how)
        for number in range(20):
            put(client, f"/items/{7000 + number}")
        assert row_of(engine, tables.items, "7000")["item_key"] == 61
        answer = client.post("/recommend", json={"user_id": 501, "top_k": 50}).json()
    sources = {entry["item_id"]: entry["source"] for entry in answer["recommendations"]}
    assert {source for item_id, source in sources.items() if item_id >= 7000} <= {"available"}


def test_no_user_gets_the_lists_of_another_who_was_removed(clean_database_url: str, clean_database: sa.Engine) -> None:
    engine = clean_database
    shop.stock(engine)
    greatest = shop.LIGHT
    execute(clean_database_url, f"delete from users where user_key >= {greatest}")
    with shop.running_service(clean_database_url) as client:
        shop.wait_until(lambda: client.get("/users").status_code == 200, 10)
        put(client, "/users/900")
    assert row_of(engine, tables.users, "900")["user_key"] == greatest + 1

    async def by_the_updater() -> dict[str, int]:
        connections = Connections(clean_database_url, "test")
        try:
            fence = await TrainingStore(connections).take_lease("test")
            assert fence is not None
            return await new_users.give_keys(connections, fence, ["901"])
        finally:
            await connections.close()

    execute(clean_database_url, f"delete from users where user_key > {greatest}")
    assert asyncio.run(by_the_updater()) == {"901": greatest + 2}
    execute(clean_database_url, f"delete from users where user_key > {greatest}")
    row = {"user_key": greatest, "user_id": "902", "first_seen_at": None, "properties": "{}"}
    types = {"user_key": pa.int32(), "user_id": pa.string(), "first_seen_at": pa.string(), "properties": pa.string()}
    rows = pa.table({name: pa.array([value], types[name]) for name, value in row.items()})
    assert keys.store(engine, "users", rows, top=greatest - 1, update=False).moved == {greatest: greatest + 3}
    assert row_of(engine, tables.users, "902")["user_key"] == greatest + 3


def test_another_shop_begins_with_the_first_key(clean_database: sa.Engine) -> None:
    shop.stock(clean_database)
    with clean_database.begin() as connection:
        raw_imports.start_over(connection)
        last = connection.execute(sa.select(tables.catalogue_epoch)).mappings().one()
    assert [last[f"last_{name}_key"] for name in ("item", "category", "user")] == [0, 0, 0]


@pytest.mark.parametrize("table", ["publication_pointer", "server_identity", "catalogue_epoch", "training_state"])
@pytest.mark.parametrize("how", ["delete from {}", "truncate {}"])
def test_a_row_that_everything_reads_cannot_be_removed(
    clean_database_url: str, clean_database: sa.Engine, table: str, how: str
) -> None:
    with pytest.raises(Exception, match=f"the row of {table} is needed"):
        execute(clean_database_url, how.format(table))
    assert shop.count(clean_database, table) == 1


def test_a_worker_serves_what_is_restored_while_it_looks_on(
    clean_database_url: str, clean_database: sa.Engine, tmp_path: Path
) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    dump = tmp_path / "dump"
    copy_url = sibling(clean_database_url, "restored_under_a_worker")
    maintenance = sibling(clean_database_url, "postgres")
    name = "restored_under_a_worker"
    execute(maintenance, f"drop database if exists {name} with (force)", f"create database {name}")
    _run(tmp_path, "pg_dump", "--format=custom", f"--file={dump}", clean_database_url)
    try:
        _run(tmp_path, "pg_restore", "--no-owner", "--section=pre-data", f"--dbname={copy_url}", str(dump))
        with shop.running_service(copy_url) as client:
            shop.wait_until(lambda: client.get("/health").status_code == 200, 10)
            restore = ("pg_restore", "--no-owner", "--section=data", f"--dbname={copy_url}", str(dump))
            _run(tmp_path, *restore, "--table=id_types")
            time.sleep(1.5)  # the worker has looked: it knows what ids are like, and no item
            execute(copy_url, "delete from id_types")
            _run(tmp_path, *restore)
            time.sleep(1.5)
            _run(tmp_path, "pg_restore", "--no-owner", "--section=post-data", f"--dbname={copy_url}", str(dump))
            shop.wait_until(lambda: shop.is_ready(client), 10)
            shop.wait_until(lambda: client.get("/ready").json()["n_items"] == 60, 10)
    finally:
        execute(maintenance, f"drop database if exists {name} with (force)")


def _run(folder: Path, program: str, *arguments: str) -> None:
    done = subprocess.run([str(Home.of(folder).binaries / program), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
