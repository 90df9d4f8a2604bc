"""What a worker serves when the rows under it go away: another shop, deleted rows, an emptied table, another server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
import sqlalchemy as sa

from fast_api_service.runtime import catalogue_loader
from fast_api_service.runtime.catalogue_loader import Pulse
from recsys.storage import raw_imports, tables
from recsys.storage.engine import engine_of
from tests.conftest import database_named, execute, sibling
from tests.integration import serving_shop as shop
from tests.integration import tiny_model
from tests.integration.runtime.test_switching import held_back


@contextmanager
def served(database_url: str, **environment: str) -> Iterator[httpx.Client]:
    with shop.running_service(database_url, **environment) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        yield client


def stock_another(connection: sa.Connection, json_type: str) -> None:
    """A shop of five items, under keys that the first one had given to others."""
    connection.execute(sa.insert(tables.categories), [{"category_key": 1, "category_id": "77"}])
    ids = [{"item_key": key, "item_id": new_id(key, json_type)} for key in range(1, 6)]
    connection.execute(sa.insert(tables.items), [one | {"category_key": 1, "available": True} for one in ids])
    types = [{"entity": entity, "json_type": json_type} for entity in ("user", "item")]
    connection.execute(sa.insert(tables.id_types), [*types, {"entity": "category", "json_type": "integer"}])


def publish_nothing_but(connection: sa.Connection, models: dict[str, str]) -> None:
    """A publication without lists, in the caller's transaction."""
    fence = connection.execute(sa.text("select fence + 1 from publication_pointer")).scalar_one()
    values = {"status": "published", "dataset": "dataset/v2", "manifest": {}, "models": models, "fence": fence}
    insert = sa.insert(tables.publications).values(values).returning(tables.publications.c.publication_id)
    shop.point_at(connection, connection.execute(insert).scalar_one(), fence)


def new_id(key: int, json_type: str) -> str:
    return str(70 + key) if json_type == "integer" else f"new-{key}"


def shown(client: httpx.Client, **request: object) -> list[int | str]:
    answer = client.post("/recommend", json={"top_k": 100} | request)
    if answer.status_code == 503:
        return []
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["recommendations"]]


@pytest.mark.parametrize("json_type", ["integer", "string"])
def test_another_shop(clean_database_url: str, clean_database: sa.Engine, json_type: str) -> None:
    shop.stock(clean_database, json_type)
    shop.publish(clean_database, "v1", shop.FIRST)
    with served(clean_database_url) as first, served(clean_database_url) as second:
        for client in (first, second):
            assert len(shown(client)) == 57
        with clean_database.begin() as connection:
            raw_imports.start_over(connection)
        for client in (first, second):
            shop.wait_until(lambda client=client: shown(client) == [], 5)
            assert client.get("/ready").status_code == 503
        with clean_database.begin() as connection:
            stock_another(connection, json_type)
        own = [int(new_id(key, json_type)) if json_type == "integer" else new_id(key, json_type) for key in range(1, 6)]
        for client in (first, second):
            shop.wait_until(lambda client=client: sorted(shown(client)) == own, 5)
            assert client.get(f"/similar/{shop.item_id(1, json_type)}").status_code == 404
            assert (
                len(shown(client, exclude=[shop.item_id(1, json_type)])) == 5
            )  # an id of the former shop hides nothing
            assert client.post("/recommend", json={"category_id": 902}).status_code == 404
        shop.publish(clean_database, "v2", {"default": {0: [1, 2, 3]}, "i2i": {1: [2]}})
        for client in (first, second):
            shop.wait_until(lambda client=client: shop.is_ready(client), 5)
            assert shown(client)[:3] == own[:3]
            info = client.get("/model/info").json()
            assert (info["catalogue"]["n_items"], info["publication"]["dataset"]) == (5, "dataset/v2")


def test_a_worker_that_saw_nothing_of_the_change_serves_no_mixture(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    """The former shop goes and the next one is published in one moment."""
    shop.stock(clean_database, "string")
    shop.publish(clean_database, "v1", shop.FIRST)
    with served(clean_database_url) as client:
        with clean_database.begin() as holder:
            holder.execute(sa.text("lock table items, publication_pointer in access exclusive mode"))
            raw_imports.start_over(holder)
            holder.execute(sa.insert(tables.items), [{"item_key": 1, "item_id": "new-1", "available": True}])
            types = [{"entity": entity, "json_type": "string"} for entity in ("user", "item", "category")]
            holder.execute(sa.insert(tables.id_types), types)
        seen: list[tuple[int, tuple[int | str, ...]]] = []

        def is_new() -> bool:
            answer = client.post("/recommend", json={"top_k": 100}).json()
            ids = tuple(item["item_id"] for item in answer["recommendations"])
            seen.append((answer["provenance"]["publication_id"], ids))
            return ids == ("new-1",)

        shop.wait_until(is_new, 5)
        assert {(publication, ids == ("new-1",)) for publication, ids in seen} == {(1, False), (0, True)}
        assert not [ids for _, ids in seen if "new-1" in ids and len(ids) > 1]


def test_another_shop_does_not_wait_for_its_models(
    clean_database_url: str, clean_database: sa.Engine, tmp_path: Path
) -> None:
    for number in (1, 2):
        tiny_model.write(tmp_path, f"v{number}")
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST, {"deepfm": "deepfm/v1"})
    with served(clean_database_url, ARTIFACT_ROOT=str(tmp_path), API_MODEL_WAIT_S="600") as client:
        shop.wait_until(lambda: tiny_model.in_service(client) == "deepfm/v1", 20)
        with held_back(tmp_path / "deepfm_serving" / "v2"):
            with clean_database.begin() as holder:  # a worker sees nothing of what is between
                holder.execute(sa.text("lock table items, publication_pointer in access exclusive mode"))
                raw_imports.start_over(holder)
                stock_another(holder, "integer")
                publish_nothing_but(holder, {"deepfm": "deepfm/v2"})
            shop.wait_until(lambda: sorted(shown(client)) == [71, 72, 73, 74, 75], 5)
            shop.wait_until(lambda: shop.is_ready(client), 5)
            away = client.post("/predict", json={"user_id": 1, "item_id": 71})
            assert away.json()["status"] == "model_unavailable"  # the former shop's does not know these items
        shop.wait_until(lambda: tiny_model.in_service(client) == "deepfm/v2", 20)


def test_rows_that_are_deleted_by_hand(clean_database_url: str, clean_database: sa.Engine) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    with served(clean_database_url) as client:
        assert {1001, 1060} <= set(shown(client))
        with clean_database.begin() as connection:
            connection.execute(sa.text("delete from items where item_id in ('1001', '1060')"))
            connection.execute(sa.text("delete from categories where category_id = '904'"))
        shop.wait_until(lambda: not {1001, 1060} & set(shown(client)), 5)
        assert len(shown(client)) == 55
        assert client.get("/similar/1001").status_code == 404
        shop.wait_until(lambda: client.post("/recommend", json={"category_id": 904}).status_code == 404, 5)
        assert client.post("/recommend", json={"user_id": 501}).json()["provenance"]["tier"] == "ranked"
        with clean_database.begin() as connection:  # the key comes back with another id, the id with another key
            connection.execute(
                sa.insert(tables.items),
                [
                    {"item_key": 1, "item_id": "2001", "available": True},
                    {"item_key": 61, "item_id": "1001", "available": True},
                ],
            )
        shop.wait_until(lambda: {1001, 2001} <= set(shown(client)), 5)
        assert client.get("/similar/2001").json()["recommendations"][0]["item_id"] == 1002
        assert client.get("/similar/1001").json()["recommendations"] == []


def test_an_emptied_table(clean_database_url: str, clean_database: sa.Engine) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    with served(clean_database_url) as client:
        assert shown(client)
        with clean_database.begin() as connection:
            connection.execute(sa.text("truncate items"))
        shop.wait_until(lambda: shown(client) == [], 5)
        assert client.get("/similar/1001").status_code == 404


def test_another_server_in_the_same_place(
    clean_database_url: str, clean_database: sa.Engine, postgres_server: str, template_database: str
) -> None:
    """A database that was restored from a dump, with stamps of transactions that this server has not had yet."""
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    name = sa.make_url(clean_database_url).database
    with database_named(postgres_server, template_database, "restored") as restored_url:
        restored = engine_of(restored_url)
        with restored.begin() as connection:
            stock_another(connection, "integer")
        shop.publish(restored, "v1", {"default": {0: [1, 2, 3]}, "i2i": {1: [2]}})  # has the number of the other one
        with restored.begin() as connection:
            for table in ("items", "categories"):
                connection.execute(sa.text(f"alter table {table} disable trigger user"))
                connection.execute(sa.text(f"update {table} set changed_xid = '4000000000'"))
                connection.execute(sa.text(f"alter table {table} enable trigger user"))
        restored.dispose()
        with served(clean_database_url) as client:
            assert len(shown(client)) == 57
            clean_database.dispose()
            here = sa.make_url(restored_url).database
            with moved(postgres_server, {name: f"{name}_former", here: name}):
                shop.wait_until(lambda: shown(client)[:3] == [71, 72, 73], 15)
                assert sorted(shown(client)) == [71, 72, 73, 74, 75]
                shop.put(client, "/items/72", available=False)
                shop.wait_until(lambda: 72 not in shown(client), 5)
                pulse = asyncio.run(look(clean_database_url))
                assert not pulse.items_changed, "all of the catalogue is news in every look"
                assert not pulse.categories_changed


async def look(url: str) -> Pulse:
    """What a worker sees that has read all there is."""
    connection = await asyncpg.connect(url)
    try:
        return await catalogue_loader.pulse(connection, await connection.fetchval("select pg_current_snapshot()::text"))
    finally:
        await connection.close()


@contextmanager
def moved(server: str, name_by_name: dict[str | None, str | None]) -> Iterator[None]:
    """Databases under other names, whoever is connected to them; taken back at the end."""
    names = list(name_by_name.items())
    _rename(server, names)
    try:
        yield
    finally:
        _rename(server, [(new, old) for old, new in reversed(names)])


def _rename(server: str, names: list[tuple[str | None, str | None]]) -> None:
    for old, new in names:
        execute(
            server,
            f'alter database "{old}" allow_connections false',
            f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{old}'",
        )
        shop.wait_until(lambda old=old: not _n_connected(server, old), 10)
        execute(server, f'alter database "{old}" rename to "{new}"', f'alter database "{new}" allow_connections true')


def _n_connected(server: str, name: str | None) -> int:
    engine = engine_of(sibling(server, "postgres"))
    with engine.connect() as connection:
        sql = sa.text("select count(*) from pg_stat_activity where datname = :name")
        n = int(connection.execute(sql, {"name": name}).scalar_one())
    engine.dispose()
    return n
