"""Data sets and what the shop says by API, also while they are computed."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from fast_api_service.catalogue.repository import Change
from recsys.errors import ShopReplacedError
from recsys.steps import prepare_dataset
from recsys.storage import raw_tables, tables
from tests.integration.nights.preparation.preparing import DAY_MS, LATE_MS, START_MS, keys_of, put_objects, write_shop


def test_the_night_leaves_alone_what_the_shop_said_by_api(ctx, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    prepare_dataset.run(ctx=ctx)
    results = put_objects(
        ctx,
        Change("item", 3, {"available": False, "title": "Told", "properties": {"888": None}}),
        Change("item", 77, {"category_id": 5}),
        Change("category", 6, {"parent_id": None}),
        Change("user", 100, {"properties": {"country": "UK"}}),
        Change("user", 900, {}),
        delete=4,
    )
    assert results == ["updated", "created", "updated", "updated", "created"]
    with ctx.engine.connect() as connection:
        columns = [column for column in tables.items.c if column.name != "changed_xid"]
        posted = connection.execute(sa.select(*columns).where(tables.items.c.told_at.is_not(None))).all()
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
    assert len(posted) == 3
    assert now == posted
    assert keys_of(ctx, tables.items) | {"77": 9, "8": 10} == keys_of(ctx, tables.items)
    items = {row["item_id"]: row["item_key"] for row in ctx.dataset(ref)[1].table("items").to_pylist()}
    assert (items["77"], items["8"], keys_of(ctx, tables.users)["900"]) == (9, 10, 5)
    assert 5 in ctx.dataset(ref)[1].table("users")["user_key"].to_pylist()


def test_an_erased_user_is_in_no_later_data_set_though_their_files_are_loaded_again(ctx, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    first = prepare_dataset.run(ctx=ctx)
    put_objects(ctx, erase_user=102)
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
    results = put_objects(ctx, Change("user", 102, {}), Change("user", 555, {}))
    assert "erased" in results[0]
    assert results[1] == "created"
    assert keys_of(ctx, tables.users)["555"] == 5


def test_an_erasure_makes_another_data_set_of_the_same_raw_tables(ctx, load, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    first = prepare_dataset.run(ctx=ctx)
    with ctx.engine.begin() as connection:  # a user of whom nothing is left in the raw tables but properties
        connection.execute(tables.erased_users.insert().values(digest=hashlib.sha256(b"103").digest()))
    second = prepare_dataset.run(ctx=ctx)
    assert second["made"]
    assert (first["n_rows"]["users"], second["n_rows"]["users"]) == (4, 3)


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
        new = [Change("item", 10, {}), Change("item", 555, {}), Change("category", 77, {}), Change("user", 901, {})]
        assert put_objects(ctx, *new, erase_user=902) == ["created"] * 4
        put_objects(ctx, erase_user=102)
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
            put_objects(ctx, erase_user=user)

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
