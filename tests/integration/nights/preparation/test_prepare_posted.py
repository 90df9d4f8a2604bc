"""Posted events in the next data set."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from fast_api_service.catalogue.repository import Change
from recsys.errors import InputError
from recsys.steps import prepare_dataset
from recsys.storage import tables
from tests.integration.nights.preparation.preparing import DAY_MS, LATE_MS, START_MS, keys_of, put_objects, write_shop


def test_posted_events_are_part_of_the_next_data_set(ctx, load, post, tmp_path: Path) -> None:
    load(write_shop(tmp_path / "shop"))
    first = prepare_dataset.run(ctx=ctx)
    assert first["n_events_from"] == {"import": 32, "posted": 0}
    put_objects(ctx, erase_user=102)
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
    fields = {"category_id": 5, "title": "New", "properties": {"790": "n9.5", "888": "x"}}
    put_objects(
        ctx, Change("item", 77, fields), Change("item", 78, {"available": False}), Change("item", 3, {"title": "Told"})
    )
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
