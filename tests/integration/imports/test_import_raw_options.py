"""What a database makes of other options at a further import, and what one table says of it all."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from recsys.errors import InputError
from recsys.storage import raw_tables as raw
from tests.integration.imports.importing import FOUR, MAP, TYPED, dump, events, write


def test_new_types_and_options_that_say_the_defaults_are_taken(load, clean_database, tmp_path):
    header = "user_id,item_id,ts,event"
    write(tmp_path / "e1.csv", "u1,a,2024-05-01,view", header=header)
    write(tmp_path / "e2.csv", "u1,a,2024-05-02,view", "u1,b,2024-05-02,wishlist", header=header)
    load("table", tmp_path / "e1.csv", options=TYPED)
    options = TYPED | {
        "weights": "view:1,addtocart:3,transaction:5",
        "timestamp_format": "iso",
        "item_id_type": "string",
    }
    assert load("table", tmp_path / "e1.csv", options=options)["status"] == "already loaded"
    refused = load("table", tmp_path / "e2.csv", options=TYPED)
    (reason,) = refused["rejected"]
    assert "'wishlist' has no weight" in reason
    result = load("table", tmp_path / "e2.csv", options=TYPED | {"weights": FOUR})
    assert len(events(clean_database)) == 3, "the rejected row is loaded now that its type has a weight"
    assert any("event type wishlist is new, with weight 2" in note for note in result["notes"])
    assert result["event_types"]["wishlist"] == {"n": 1, "weight": 2}
    # what was said of types lasts
    write(tmp_path / "e3.csv", "u1,c,2024-05-03,wishlist", header=header)
    assert load("table", tmp_path / "e3.csv", options=MAP)["n_loaded"] == {"events": 1}


@pytest.mark.parametrize("name", ["event", "value", "transaction"])
def test_a_column_that_loaded_events_were_read_without_is_refused(load, clean_database, tmp_path, name):
    log = write(tmp_path / "e.csv", "u1,a,2024-05-01,view,5", header="user_id,item_id,ts,event,n")
    load("table", log, options=MAP)
    before = dump(clean_database)
    added = MAP | {name: "event" if name == "event" else "n"}
    with pytest.raises(InputError, match=rf"option {name}=.*loaded events have been read without.*--replace"):
        load("table", log, options=added)
    assert dump(clean_database) == before
    load("table", log, options=added, replace=True)
    assert len(events(clean_database)) == 1


def test_a_new_type_leaves_labels_and_bought_types_as_they_were(load, clean_database, tmp_path):
    header = "user_id,item_id,ts,event"

    def roles() -> tuple[object, ...]:
        return [(row.label_event_types, row.bought_event_types) for row in rows_of_imports()][-1]

    def rows_of_imports() -> list[sa.Row]:
        with clean_database.connect() as connection:
            return list(connection.execute(sa.select(raw.imports).order_by(raw.imports.c.import_id)))

    weights = "purchase:5,cart:3,view:1"
    load(
        "table", write(tmp_path / "1.csv", "u1,a,2024-05-01,view", header=header), options=TYPED | {"weights": weights}
    )
    assert roles() == (["purchase", "cart"], ["purchase"])
    for day, (new, labels, bought) in enumerate(
        [
            ("impression:0.1", ["purchase", "cart"], ["purchase"]),
            ("hide:-1", ["purchase", "cart"], ["purchase"]),
            ("wish:2", ["purchase", "cart", "wish"], ["purchase"]),
            ("subscribe:6", ["purchase", "cart", "wish", "subscribe"], ["purchase", "subscribe"]),
        ],
        start=2,
    ):
        weights = f"{new},{weights}"
        line = f"u1,a,2024-05-{day:02},{new.partition(':')[0]}"
        log = write(tmp_path / f"{day}.csv", line, header=header)
        result = load("table", log, options=TYPED | {"weights": weights})
        assert roles() == (labels, bought), result["notes"]
    result = load("table", log, options=TYPED | {"labels": "purchase", "bought": "purchase"})
    assert roles() == (["purchase"], ["purchase"])
    with pytest.raises(InputError, match="no type has a weight above 0"):
        load("table", log, options=TYPED | {"weights": "view:-1,hide:-2"}, replace=True)


def test_weights_of_the_settings_count_at_import(load, clean_database, tmp_path, monkeypatch):
    header = "user_id,item_id,ts,event"
    log = write(tmp_path / "e.csv", "u1,a,2024-05-01,view", "u1,b,2024-05-02,wishlist", header=header)
    monkeypatch.setenv("RECSYS_EVENT_WEIGHTS", '{"view":1,"wishlist":2,"addtocart":3,"transaction":5}')
    assert load("table", log, options=TYPED)["n_rejected"] == 0
    shop = write(
        tmp_path / "shop" / "events.csv", "1714521600000,1,wishlist,2", header="timestamp,visitorid,event,itemid"
    )
    assert load("retailrocket", shop.parent, replace=True)["n_rejected"] == 0
    assert len(events(clean_database)) == 1


def test_other_meanings_of_ids_are_refused(load, clean_database, tmp_path):
    write(tmp_path / "e.csv", "1,2,2024-05-01")
    load("table", tmp_path / "e.csv", options=MAP)
    write(tmp_path / "f.csv", "1,3,2024-05-02")
    before = dump(clean_database)
    with pytest.raises(InputError, match=r"item_id_type is integer.*string in the database.*leave out the option"):
        load("table", tmp_path / "f.csv", options=MAP | {"item_id_type": "integer"})
    with pytest.raises(InputError, match=r"item=user_id: it was item=item_id.*--replace"):
        load("table", tmp_path / "f.csv", options=MAP | {"item": "user_id"})
    assert dump(clean_database) == before


def test_one_table_says_what_became_of_everything(load, tmp_path, capsys):
    header = "user_id,item_id,ts,event"
    lines = [
        "u1,a,2024-05-01,view",
        "u1,a,2024-05-01,view",
        "u2,b,2024-05-03,addtocart",
        "u3,b,2024-05-03,wishlist",
        "",
    ]
    log = write(tmp_path / "in" / "[b]log.csv", *lines, header=header)
    write(tmp_path / "items.csv", "a,Lamp", "z,Sofa", "y,Bed", header="item_id,title")
    result = load("table", log.parent, options=TYPED | {"items": str(tmp_path / "items.csv")})
    assert result["totals"] == {
        "events": 3,
        "users": 2,
        "items_with_events": 2,
        "items_described": 3,
        "items_with_events_described": 1,
    }
    assert result["span"] == ["2024-05-01 00:00", "2024-05-03 00:00"]
    assert result["event_types"]["transaction"] == {"n": 0, "weight": 5}
    assert (result["n_duplicates"], result["lines"]["blank"]) == (1, 1)
    assert result["lines"]["read"] == sum(n for fate, n in result["lines"].items() if fate != "read")
    table = " ".join(capsys.readouterr().err.replace("│", " ").split())
    for part in (
        "events of [b]log.csv 3 loaded now, 1 rejected",
        "1 event 'wishlist' has no weight",
        "3 of 2 users, 2024-05-01 00:00 to 2024-05-03 00:00",
        "type addtocart 1 events, weight 3",
        "items of events 2, of which 1 described",
        "items described 3, of which 1 have events",
        "exact duplicates 1",
    ):
        assert part in table


def test_bad_rows_are_read_again_only_when_what_makes_them_bad_may_have_changed(load, tmp_path):
    header = "user_id,item_id,ts,event"
    write(tmp_path / "in" / "log.csv", "u1,a,2024-05-01,view", ",a,2024-05-01,view", header=header)
    for day in (1, 2):
        write(tmp_path / f"items{day}.csv", f"a,{day}", header="item_id,title")
    load("table", tmp_path / "in", options=TYPED | {"items": str(tmp_path / "items1.csv")})
    result = load("table", tmp_path / "in", options=TYPED | {"items": str(tmp_path / "items2.csv")})
    assert [file["stream"] for file in result["files"]] == ["item_properties"]


def test_bad_rows_of_a_file_are_read_again_by_its_new_name_too(load, clean_database, tmp_path):
    header = "user_id,item_id,ts,event"
    log = write(tmp_path / "in" / "log.csv", "u1,a,2024-05-01,view", "u2,b,2024-05-02,wishlist", header=header)
    load("table", log.parent, options=TYPED)
    log.rename(log.with_name("renamed.csv"))
    for _ in range(2):
        assert load("table", log.parent, options=TYPED)["status"] == "already loaded"
    result = load("table", log.parent, options=TYPED | {"weights": FOUR})
    assert result["left_out"] == {"loaded before": 1}
    assert events(clean_database) == [("u1", "a"), ("u2", "b")]
    result = load("table", log.parent, options=TYPED)
    assert (result["status"], result["n_loaded"], result["notes"][1:]) == ("already loaded", {"events": 0}, [])
    assert result["n_loaded_before"] == {"events": 2}
