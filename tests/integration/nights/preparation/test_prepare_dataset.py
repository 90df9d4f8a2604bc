"""From raw tables in real Postgres to a data set and keys, and again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from recsys.errors import EmptyResultError, ImportUnderWayError, InputError
from recsys.steps import prepare_dataset
from recsys.steps.context import Context
from recsys.storage import raw_tables, tables
from tests.integration.nights.preparation.preparing import DAY_MS, START_MS, keys_of, write_shop


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


def test_nothing_imported_an_unfinished_import_and_a_bad_instant_are_named(ctx, load, tmp_path: Path) -> None:
    with pytest.raises(EmptyResultError, match="recsys import"):
        prepare_dataset.run(ctx=ctx)
    load(write_shop(tmp_path / "shop"))
    with pytest.raises(InputError, match="'yesterday' is not an instant"):
        prepare_dataset.run(as_of="yesterday", ctx=ctx)
    with pytest.raises(EmptyResultError, match="no event lies before"):
        prepare_dataset.run(as_of="2015-01-01", ctx=ctx)
    with ctx.engine.begin() as connection:
        connection.execute(raw_tables.imports.update().values(status="loading"))
    with pytest.raises(ImportUnderWayError, match="not finished") as refused:
        prepare_dataset.run(ctx=ctx)
    assert refused.value.transient, "a night that meets an import waits for it"


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
    with pytest.raises(EmptyResultError, match="all 1 raw events are in the future"):
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
