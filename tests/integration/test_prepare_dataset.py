"""From raw tables in real Postgres to a data set and keys, and again."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from fast_api_service import erasure
from fast_api_service.catalogue_store import CatalogueStore, Told
from fast_api_service.writable import Writable
from recsys.artifacts import ArtifactStore
from recsys.errors import EmptyResultError, ImportUnderWayError, InputError, ShopReplacedError
from recsys.online.connections import Connections
from recsys.online.event import parse
from recsys.online.postgres_log import PostgresLog
from recsys.settings import Settings
from recsys.steps import import_raw, prepare_dataset
from recsys.steps.context import Context
from recsys.storage import raw_tables, tables
from recsys.tracking import Tracker

DAY_MS = 86_400_000
START_MS = 1_433_000_000_000


def write_shop(folder: Path, *, n_items: int = 8, first_day: int = 0, part: int = 1) -> Path:
    """Four users view and buy items 0 … n_items, one event an hour, from `first_day` on."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, properties = ["timestamp,visitorid,event,itemid,transactionid"], ["timestamp,itemid,property,value"]
    for i in range(4 * n_items):
        at = START_MS + first_day * DAY_MS + i * 3_600_000
        event, order = ("transaction", str(i)) if i % 4 == 0 else ("view", "")
        lines.append(f"{at},{100 + i % 4},{event},{i % n_items},{order}")
    for item in range(n_items):
        at = START_MS + first_day * DAY_MS
        properties += [
            f"{at},{item},categoryid,{item % 2 + 5}",
            f"{at},{item},available,1",
            f"{at},{item},790,n{item}.5",
        ]
        properties += [f'{at},{item},888,say "hi" \\ é']
    (folder / f"events_{part}.csv").write_text("\n".join(lines) + "\n")
    (folder / f"item_properties_part{part}.csv").write_text("\n".join(properties) + "\n")
    (folder / "category_tree.csv").write_text("categoryid,parentid\n5,1\n6,1\n1,\n")
    return folder


@pytest.fixture
def ctx(clean_database: sa.Engine, tmp_path: Path) -> Context:
    settings = Settings(artifact_root=str(tmp_path / "artifacts"), local_dir=tmp_path, _env_file=None)
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "mlflow"))
    return Context(settings, clean_database, ArtifactStore(settings.artifact_root), tracker)


@pytest.fixture
def load(ctx: Context, tmp_path: Path):
    def run(path: Path, **kwargs: object) -> None:
        import_raw.run("retailrocket", path, engine=ctx.engine, quarantine_dir=tmp_path / "quarantine", **kwargs)

    return run


def keys_of(ctx: Context, table: sa.Table) -> dict[str, int]:
    key, id_ = list(table.c)[:2]
    with ctx.engine.connect() as connection:
        return {row[1]: row[0] for row in connection.execute(sa.select(key, id_))}


def test_a_data_set_its_keys_and_its_catalogue(ctx: Context, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    result = prepare_dataset.run(ctx=ctx)
    ref, dataset = ctx.dataset(result["dataset"])
    assert result["made"]
    assert ref == ctx.newest("prepare_dataset")
    assert dataset.meta.n_rows == {"events": 32, "items": 8, "users": 4, "categories": 3, "item_properties": 24}
    assert dataset.meta.id_types == {"user": "integer", "item": "integer", "category": "integer"}
    assert dataset.meta.as_of == (START_MS + 31 * 3_600_000 + 1) * 1000
    items = {row["item_id"]: row for row in dataset.table("items").to_pylist()}
    assert keys_of(ctx, tables.items) == {id_: row["item_key"] for id_, row in items.items()}
    assert keys_of(ctx, tables.users) == dict(zip(["100", "101", "102", "103"], range(1, 5), strict=True))
    with ctx.engine.connect() as connection:
        stored = connection.execute(sa.select(tables.items).where(tables.items.c.item_id == "3")).mappings().one()
        assert connection.execute(sa.select(tables.id_types.c.json_type)).scalars().all() == ["integer"] * 3
    assert stored["properties"] == {"888": 'say "hi" \\ é', "790": "n3.5"}
    assert stored["properties"] == json.loads(items["3"]["properties"])
    assert stored["category_key"] == items["3"]["category_key"] == keys_of(ctx, tables.categories)["6"]
    assert (items["3"]["price"], items["3"]["parent_category_key"]) == (3.5, keys_of(ctx, tables.categories)["1"])


def test_the_same_raw_tables_give_the_same_version_and_new_ones_keep_the_keys(ctx, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    first = prepare_dataset.run(ctx=ctx)
    load(tmp_path / "shop")  # all of it is there already
    assert prepare_dataset.run(ctx=ctx) == {**first, "made": False}
    assert prepare_dataset.run(ctx=ctx, force=True) == first
    before = keys_of(ctx, tables.items)
    load(write_shop(tmp_path / "shop", n_items=10, first_day=5, part=2))
    second = prepare_dataset.run(ctx=ctx)
    after = keys_of(ctx, tables.items)
    assert second["dataset"] != first["dataset"]
    assert {id_: after[id_] for id_ in before} == before
    assert sorted(after[id_] for id_ in ("8", "9")) == [9, 10]


def test_an_earlier_cut_gives_its_own_data_set_and_leaves_the_service_s_catalogue(ctx, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    load(write_shop(tmp_path / "shop", n_items=10, first_day=5, part=2))
    late = prepare_dataset.run(ctx=ctx)
    with ctx.engine.connect() as connection:
        catalogue = connection.execute(sa.select(tables.items).order_by("item_key")).all()
    early = prepare_dataset.run(as_of="2015-06-01", ctx=ctx)
    assert early["as_of"] == "2015-06-01T00:00:00+00:00"
    assert (early["n_rows"]["items"], late["n_rows"]["items"]) == (8, 10)
    assert ctx.newest("prepare_dataset") == late["dataset"]
    with ctx.engine.connect() as connection:
        assert connection.execute(sa.select(tables.items).order_by("item_key")).all() == catalogue


def test_keys_are_given_again_after_a_kill_between_keys_and_artifact(ctx, load, tmp_path: Path, monkeypatch) -> None:
    load(write_shop(tmp_path / "shop", n_items=10, first_day=5, part=2))
    with monkeypatch.context() as patch:
        patch.setattr(ctx.store, "_publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset.run(ctx=ctx)
    given = keys_of(ctx, tables.items)
    assert len(given) == 10
    assert ctx.newest("prepare_dataset") is None
    _, dataset = ctx.dataset(prepare_dataset.run(ctx=ctx)["dataset"])
    assert {row["item_id"]: row["item_key"] for row in dataset.table("items").to_pylist()} == given


def test_half_a_catalogue_is_refused_with_the_reason_unless_forced(ctx, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop", n_items=20))
    prepare_dataset.run(ctx=ctx)
    gone = START_MS + 30 * DAY_MS
    with ctx.engine.begin() as connection:
        rows = [{"timestamp": gone, "itemid": str(i), "property": "available", "value": "0"} for i in range(12)]
        connection.execute(raw_tables.item_properties.insert(), rows)
        event = {"timestamp": gone + 1, "visitorid": "100", "event": "view", "itemid": "15"}
        connection.execute(raw_tables.events.insert(), event)
    with pytest.raises(EmptyResultError, match="available items fell from 20 to 8"):
        prepare_dataset.run(ctx=ctx)
    with ctx.engine.connect() as connection:
        refused = connection.execute(sa.select(tables.training_runs).filter_by(status="refused")).mappings().one()
        assert "available items fell" in refused["reason"]
        assert connection.execute(sa.select(tables.items.c.available)).scalars().all() == [True] * 20
    assert prepare_dataset.run(ctx=ctx, force=True)["made"]


def tell(ctx: Context, *told: Told, delete: int | None = None, erase_user: int | None = None) -> list[str]:
    """What the shop says by API; what became of each object."""

    async def say() -> list[str]:
        writes = Writable(ctx.engine.url.set(drivername="postgresql").render_as_string(hide_password=False))
        await writes.open()
        store = CatalogueStore(writes)
        outcomes = await store.put(told) if told else []
        if delete is not None:
            assert await store.delete("item", delete) == (delete, True)
        if erase_user is not None:
            await erasure.erase(writes, erase_user)
        await writes.close()
        return [outcome.result or outcome.reason for outcome in outcomes]

    return asyncio.run(say())


def test_the_night_leaves_alone_what_the_shop_said_by_api(ctx, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    prepare_dataset.run(ctx=ctx)
    said = tell(
        ctx,
        Told("item", 3, {"available": False, "title": "Told", "properties": {"888": None}}),
        Told("item", 77, {"category_id": 5}),
        Told("category", 6, {"parent_id": None}),
        Told("user", 100, {"properties": {"country": "UK"}}),
        Told("user", 900, {}),
        delete=4,
    )
    assert said == ["updated", "created", "updated", "updated", "created"]
    with ctx.engine.connect() as connection:
        columns = [column for column in tables.items.c if column.name != "changed_xid"]
        told = connection.execute(sa.select(*columns).where(tables.items.c.told_at.is_not(None))).all()
    # more raw data: new and old properties of the same items, an event of the item that was added, a new item
    load(write_shop(tmp_path / "shop", n_items=9, first_day=5, part=2))
    with ctx.engine.begin() as connection:
        event = {"timestamp": START_MS + 9 * DAY_MS, "visitorid": "900", "event": "view", "itemid": "77"}
        connection.execute(raw_tables.events.insert(), event)
    ref = prepare_dataset.run(ctx=ctx)["dataset"]
    with ctx.engine.connect() as connection:
        now = connection.execute(sa.select(*columns).where(tables.items.c.told_at.is_not(None))).all()
        parent = sa.select(tables.categories.c.parent_category_key).where(tables.categories.c.category_id == "6")
        assert connection.execute(parent).scalar_one() is None
        person = sa.select(tables.users.c.properties).where(tables.users.c.user_id == "100")
        assert connection.execute(person).scalar_one() == {"country": "UK"}
    assert len(told) == 3
    assert now == told
    assert keys_of(ctx, tables.items) | {"77": 9, "8": 10} == keys_of(ctx, tables.items)
    items = {row["item_id"]: row["item_key"] for row in ctx.dataset(ref)[1].table("items").to_pylist()}
    assert (items["77"], items["8"], keys_of(ctx, tables.users)["900"]) == (9, 10, 5)
    assert 5 in ctx.dataset(ref)[1].table("users")["user_key"].to_pylist()


def test_an_erased_user_is_in_no_later_data_set_though_his_files_are_loaded_again(ctx, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    first = prepare_dataset.run(ctx=ctx)
    tell(ctx, erase_user=102)
    load(write_shop(tmp_path / "shop", n_items=10, first_day=5, part=2))  # they are in it
    second = prepare_dataset.run(ctx=ctx)
    with ctx.engine.connect() as connection:
        mentioned = sa.select(sa.func.count()).where(raw_tables.events.c.visitorid == "102")
        assert connection.execute(mentioned).scalar_one() == 0
    for result, there in ((first, True), (second, False)):
        dataset = ctx.dataset(result["dataset"])[1]
        assert (3 in dataset.table("users")["user_key"].to_pylist()) is there
        assert (3 in dataset.table("events")["user_key"].to_pylist()) is there
    assert keys_of(ctx, tables.users) == {"100": 1, "101": 2, None: 3, "103": 4}
    said = tell(ctx, Told("user", 102, {}), Told("user", 555, {}))
    assert "erased" in said[0]
    assert said[1] == "created"
    assert keys_of(ctx, tables.users)["555"] == 5


def test_an_erasure_makes_another_data_set_of_the_same_raw_tables(ctx, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    first = prepare_dataset.run(ctx=ctx)
    with ctx.engine.begin() as connection:  # a user of whom nothing is left in the raw tables but properties
        connection.execute(tables.erased_users.insert().values(digest=hashlib.sha256(b"103").digest()))
    second = prepare_dataset.run(ctx=ctx)
    assert second["made"]
    assert (first["n_rows"]["users"], second["n_rows"]["users"]) == (4, 3)


def test_nothing_imported_an_unfinished_import_and_a_bad_instant_are_named(ctx, load, tmp_path: Path) -> None:
    with pytest.raises(EmptyResultError, match="recsys import"):
        prepare_dataset.run(ctx=ctx)
    load(write_shop(tmp_path / "shop"))
    with pytest.raises(InputError, match="'yesterday' is no instant"):
        prepare_dataset.run(as_of="yesterday", ctx=ctx)
    with pytest.raises(EmptyResultError, match="no event lies before"):
        prepare_dataset.run(as_of="2015-01-01", ctx=ctx)
    with ctx.engine.begin() as connection:
        connection.execute(raw_tables.imports.update().values(status="loading"))
    with pytest.raises(ImportUnderWayError, match="not finished") as refused:
        prepare_dataset.run(ctx=ctx)
    assert refused.value.transient, "a night that meets an import waits for it"


LATE_MS = START_MS + 31 * 3_600_000  # the last event that write_shop writes


@pytest.fixture
def post(ctx: Context):
    """Put events (id, user, item, type, milliseconds) into the log as the service does."""

    def run(*rows: tuple[str, str | None, str, str, int], **more: object) -> None:
        samples = [
            {"event_id": name, "user_id": user, "session_id": "s", "item_id": item, "event_type": kind}
            | {"timestamp": dt.datetime.fromtimestamp(ms / 1000, dt.UTC)}
            | more
            for name, user, item, kind, ms in rows
        ]
        last = dt.datetime.fromtimestamp(max(row[4] for row in rows) / 1000, dt.UTC)
        events, rejected = parse([{k: v for k, v in one.items() if v is not None} for one in samples], last)
        assert not rejected

        async def append() -> None:
            url = ctx.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
            connections = Connections(url, "test")
            await PostgresLog(connections).append([event for _, event in events])
            await connections.close()

        asyncio.run(append())

    return run


def test_posted_events_are_part_of_the_next_data_set(ctx, load, post, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    first = prepare_dataset.run(ctx=ctx)
    assert first["n_events_from"] == {"import": 32, "posted": 0}
    tell(ctx, erase_user=102)
    hour = 3_600_000
    post(
        ("a", "900", "3", "view", LATE_MS + hour),  # a new user
        ("b", "100", "77", "transaction", LATE_MS + 2 * hour),  # a new item
        ("c", "100", "3", "like", LATE_MS + hour),  # of a type without a weight
        ("d", None, "3", "view", LATE_MS + hour),  # a guest
        ("e", "100", "x-1", "view", LATE_MS + hour),  # no id of this catalogue
        parameters={"price": 7.5},
    )
    with ctx.engine.begin() as connection:  # as it was posted before they were erased, and written after
        connection.execute(
            sa.text(
                "insert into events (event_id, user_id, item_id, event_type, occurred_at, digest)"
                " select 'f', '102', '3', 'view', occurred_at, '' from events where event_id = 'a'"
            )
        )
    second = prepare_dataset.run(ctx=ctx)
    assert second["dataset"] != first["dataset"]
    assert second["as_of"] == dt.datetime.fromtimestamp((LATE_MS + 2 * hour + 1) / 1000, dt.UTC).isoformat()
    assert second["n_events_from"] == {"import": 24, "posted": 2}  # less those of the erased user
    assert second["n_posted_left_out"] == {"of a guest": 1, "no weight for type like": 1, "id is no integer": 1}
    dataset = ctx.dataset(second["dataset"])[1]
    assert dict(dataset.meta.n_events_from) == second["n_events_from"]
    users, items = keys_of(ctx, tables.users), keys_of(ctx, tables.items)
    assert (users["900"], items["77"]) == (5, 9)
    newest = dataset.table("events").to_pylist()[-2:]
    assert [(row["user_key"], row["item_key"], row["event_type"], row["value"]) for row in newest] == [
        (5, items["3"], "view", 7.5),
        (users["100"], 9, "transaction", 7.5),
    ]
    by_price = newest[0]["weight"]  # of a view, which is 1 without
    assert (by_price > 1, newest[1]["weight"]) == (True, pytest.approx(5 * by_price))
    assert dataset.interactions().parameters is None  # two users told them: too few not to name one
    assert prepare_dataset.run(ctx=ctx) == second | {"made": False}
    # strictly before the cut, as for all others
    early = prepare_dataset.run(
        as_of=dt.datetime.fromtimestamp((LATE_MS + 2 * hour) / 1000, dt.UTC).isoformat(), ctx=ctx
    )
    assert early["n_events_from"]["posted"] == 1
    assert len(ctx.dataset(second["dataset"])[1].interactions((LATE_MS + hour) * 1000).user_key) == 24
    post(("g", "900", "4", "view", LATE_MS + hour))
    third = prepare_dataset.run(ctx=ctx)
    assert (third["n_events_from"]["posted"], third["as_of"]) == (3, second["as_of"])
    assert third["dataset"] != second["dataset"]


def test_items_that_the_api_alone_knows_are_in_the_data_set_as_it_told_them(ctx, load, post, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    prepare_dataset.run(ctx=ctx)
    told = {"category_id": 5, "title": "New", "properties": {"790": "n9.5", "888": "x"}}
    tell(ctx, Told("item", 77, told), Told("item", 78, {"available": False}), Told("item", 3, {"title": "Told"}))
    with ctx.engine.begin() as connection:
        at = dt.datetime.fromtimestamp((LATE_MS + DAY_MS) / 1000, dt.UTC)
        connection.execute(sa.update(tables.items).where(tables.items.c.told_at.is_not(None)).values(told_at=at))
    post(("a", "900", "77", "view", LATE_MS + DAY_MS - 10))
    before = prepare_dataset.run(ctx=ctx)  # strictly before the word
    row = {row["item_id"]: row for row in ctx.dataset(before["dataset"])[1].table("items").to_pylist()}["77"]
    assert (row["title"], row["category_key"], row["available"]) == (None, None, True)
    post(("b", "900", "77", "view", LATE_MS + DAY_MS + 10))
    dataset = ctx.dataset(prepare_dataset.run(ctx=ctx)["dataset"])[1]
    items = {row["item_id"]: row for row in dataset.table("items").to_pylist()}
    assert (items["77"]["title"], items["77"]["price"], items["77"]["available"]) == ("New", 9.5, True)
    assert items["77"]["category_key"] == keys_of(ctx, tables.categories)["5"]
    assert json.loads(items["77"]["properties"]) == {"790": "n9.5", "888": "x"}
    assert (items["78"]["available"], items["3"]["title"]) == (False, None)  # imports describe 3
    assert [items[id_]["item_key"] for id_ in ("77", "78")] == [9, 10]
    catalogue = dataset.catalogue((LATE_MS + DAY_MS) * 1000)
    assert 10 not in catalogue.item_key  # nothing was known of it then


def test_an_event_that_is_imported_as_well_counts_once(ctx, load, post, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    day = DAY_MS
    post(
        ("same second", "101", "1", "view", START_MS + 5 * day + 3_600_000 + 900),
        ("another second", "101", "1", "view", START_MS + 5 * day + 3_600_000 + 1000),
        ("another type", "101", "1", "transaction", START_MS + 5 * day + 3_600_000),
        ("later", "101", "1", "view", START_MS + 9 * day),
    )
    before = prepare_dataset.run(ctx=ctx)
    assert before["n_events_from"] == {"import": 32, "posted": 4}
    load(write_shop(tmp_path / "shop", first_day=5, part=2))
    after = prepare_dataset.run(ctx=ctx)
    assert after["n_events_from"] == {"import": 64, "posted": 3}
    assert after["n_posted_left_out"] == {"imported as well": 1}
    load(tmp_path / "shop", complete_until=dt.datetime.fromtimestamp((START_MS + 8 * day) / 1000, dt.UTC))
    complete = prepare_dataset.run(ctx=ctx)
    assert complete["n_events_from"] == {"import": 64, "posted": 1}
    assert complete["n_posted_left_out"] == {"an import is complete for that time": 3}
    with pytest.raises(InputError, match="in the future"):
        load(tmp_path / "shop", complete_until=dt.datetime.now(dt.UTC) + dt.timedelta(days=1))


def test_a_few_events_years_after_the_export_do_not_move_the_data_set(ctx, load, post, tmp_path, monkeypatch) -> None:
    load(write_shop(tmp_path / "shop"))
    first = prepare_dataset.run(ctx=ctx)
    post(*((f"e{i}", "900", str(i % 8), "view", LATE_MS + 300 * DAY_MS + i) for i in range(20)))
    same = prepare_dataset.run(ctx=ctx)
    assert (same["dataset"], same["made"]) == (first["dataset"], False)  # nothing is trained again for them
    assert same["n_posted_left_out"] == {"few, and long after all others": 20}
    post(("near", "900", "3", "view", LATE_MS + DAY_MS), ("odd", "900", "3", "like", LATE_MS + 150 * DAY_MS))
    second = prepare_dataset.run(ctx=ctx)
    assert second["as_of"] == dt.datetime.fromtimestamp((LATE_MS + DAY_MS + 1) / 1000, dt.UTC).isoformat()
    assert second["n_events_from"] == {"import": 32, "posted": 1}
    assert second["n_posted_left_out"]["few, and long after all others"] == 20
    assert first["as_of"] < second["as_of"]
    monkeypatch.setattr("recsys.data.posted.MIN_AFTER_GAP", 20)
    third = prepare_dataset.run(ctx=ctx)
    assert third["n_events_from"] == {"import": 32, "posted": 21}
    assert third["n_posted_left_out"] == {"no weight for type like": 1}


def test_an_event_of_the_future_is_left_out_and_stops_no_night(ctx, load, tmp_path: Path, caplog) -> None:
    shop = write_shop(tmp_path / "shop")
    load(shop)
    first = prepare_dataset.run(ctx=ctx)
    with ctx.engine.begin() as connection:
        future = {"timestamp": 4_000_000_000_000, "visitorid": "100", "event": "view", "itemid": "1"}
        connection.execute(sa.insert(raw_tables.events), future)
    with caplog.at_level("WARNING"):
        result = prepare_dataset.run(ctx=ctx)
    assert result["n_left_out"] == {prepare_dataset.FUTURE: 1}
    assert result["n_rows"] == first["n_rows"]
    assert result["as_of"] == first["as_of"]
    assert "they lie in the future: 1" in caplog.text
    with ctx.engine.begin() as connection:
        connection.execute(sa.delete(raw_tables.events).where(raw_tables.events.c.timestamp < future["timestamp"]))
    with pytest.raises(EmptyResultError, match="all 1 raw events lie in the future"):
        prepare_dataset.run(ctx=ctx)


def test_a_file_with_an_event_of_the_future_is_loaded_without_it(ctx, load, tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop")
    with (shop / "events_1.csv").open("a") as file:
        file.write("4000000000000,100,view,1,\n")
    load(shop)
    (quarantine,) = (tmp_path / "quarantine").rglob("events-*.csv")
    assert "lies more than a day in the future" in quarantine.read_text()
    assert prepare_dataset.run(ctx=ctx)["n_left_out"] == {}


def test_rows_by_hand_with_ids_that_are_none_cost_themselves_at_night(ctx, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    with ctx.engine.begin() as connection:
        row = {"timestamp": START_MS, "event": "view"}
        connection.execute(sa.insert(raw_tables.events), {**row, "visitorid": "100", "itemid": "1" * 19})
        connection.execute(sa.insert(raw_tables.events), {**row, "visitorid": "ann", "itemid": "1"})
        tree = raw_tables.category_tree
        connection.execute(sa.insert(tree), {"categoryid": "sale", "parentid": "1"})
    result = prepare_dataset.run(ctx=ctx)
    assert sorted(result["n_left_out"].values()) == [1, 1]
    for table in (tables.items, tables.users, tables.categories):
        assert all(id_.isdigit() and len(id_) < 19 for id_ in keys_of(ctx, table))


@pytest.fixture
def meanwhile(monkeypatch):
    """Have something done while the next data set is computed, which takes a second and a half then."""

    def run(work) -> None:
        def slowly(*args: object, **kwargs: object):
            monkeypatch.setattr(prepare_dataset, "prepare", computed)
            work()
            time.sleep(1.5)
            return computed(*args, **kwargs)

        computed = prepare_dataset.prepare
        monkeypatch.setattr(prepare_dataset, "prepare", slowly)

    return run


def test_no_transaction_is_open_and_no_keys_are_locked_while_a_data_set_is_computed(
    ctx, load, post, meanwhile, tmp_path: Path
) -> None:
    """What others write is written at once, keys given meanwhile are kept, and who is erased meanwhile stays erased."""
    load(write_shop(tmp_path / "shop"))
    prepare_dataset.run(ctx=ctx)
    load(write_shop(tmp_path / "shop", n_items=11, first_day=5, part=2))  # new items 8, 9, 10
    post(*((f"p{user}", user, "9", "view", LATE_MS + 5 * DAY_MS) for user in ("900", "901", "902")))
    with ctx.engine.begin() as connection:
        name = connection.execute(sa.text("select current_database()")).scalar_one()
        connection.execute(sa.text(f'alter database "{name}" set idle_in_transaction_session_timeout = 700'))
    ctx.engine.dispose()
    opened: list[object] = []

    def others() -> None:
        started = time.monotonic()
        told = [Told("item", 10, {}), Told("item", 555, {}), Told("category", 77, {}), Told("user", 901, {})]
        assert tell(ctx, *told, erase_user=902) == ["created"] * 4
        tell(ctx, erase_user=102)
        assert time.monotonic() - started < 3  # patience of the service, after which it is a 503
        with ctx.engine.connect() as connection:
            opened.extend(
                connection.execute(
                    sa.text(
                        "select state, query from pg_stat_activity where datname = current_database()"
                        " and state like 'idle in transaction%' and pid <> pg_backend_pid()"
                    )
                )
            )

    meanwhile(others)
    dataset = ctx.dataset(prepare_dataset.run(ctx=ctx)["dataset"])[1]
    assert opened == []
    assert dataset.meta.n_rows["events"] == len(dataset.table("events"))
    items, users = keys_of(ctx, tables.items), keys_of(ctx, tables.users)
    assert (items["10"], items["555"], users["901"]) == (9, 10, 5)  # as they were given meanwhile
    assert len({*items.values()}) == 12
    assert set(users) == {"100", "101", None, "103", "900", "901"}
    rows = dataset.table("items").to_pylist()
    assert {row["item_id"]: row["item_key"] for row in rows} == {row["item_id"]: items[row["item_id"]] for row in rows}
    alive = {users[name] for name in ("100", "101", "103", "900", "901")}
    assert set(dataset.table("users")["user_key"].to_pylist()) == alive
    user_by_key = {key: id_ for id_, key in users.items()}
    item_by_key = {key: id_ for id_, key in items.items()}
    events = dataset.table("events").to_pylist()
    assert {user_by_key[row["user_key"]] for row in events} == {"100", "101", "103", "900", "901"}
    assert sorted(item_by_key[row["item_key"]] for row in events if user_by_key[row["user_key"]] in {"900", "901"}) == [
        "9",
        "9",
    ]
    stored = {row["item_id"]: row["item_key"] for row in dataset.table("items").to_pylist()}
    titles = {row["item_key"] for row in dataset.table("item_properties").to_pylist()}
    assert titles <= {*stored.values()}
    again = prepare_dataset.run(ctx=ctx)  # the erased ones are known to it from the start
    assert again["n_rows"]["users"] == 5


def test_who_is_erased_while_a_data_set_is_published_is_not_in_it(ctx, load, tmp_path: Path, monkeypatch) -> None:
    load(write_shop(tmp_path / "shop"))
    publish, erased = ctx.store._publish, iter([102, 101])

    def and_erase(*arguments: object) -> None:
        publish(*arguments)
        if (user := next(erased, None)) is not None:
            tell(ctx, erase_user=user)

    monkeypatch.setattr(ctx.store, "_publish", and_erase)
    result = prepare_dataset.run(ctx=ctx)
    users = keys_of(ctx, tables.users)
    assert ctx.dataset(result["dataset"])[1].table("users")["user_key"].to_pylist() == [users["100"], users["103"]]
    assert result["n_rows"] == {"categories": 3, "events": 16, "item_properties": 24, "items": 8, "users": 2}


def test_a_shop_that_is_replaced_meanwhile_keeps_its_own_keys(ctx, load, meanwhile, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    other = write_shop(tmp_path / "other", n_items=3)
    meanwhile(lambda: load(other, replace=True))
    with pytest.raises(ShopReplacedError, match="emptied meanwhile"):
        prepare_dataset.run(ctx=ctx)
    assert keys_of(ctx, tables.items) == {}
    assert prepare_dataset.run(ctx=ctx)["n_rows"]["items"] == 3
