"""From raw tables to a data set, on small worlds with a known answer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.action import BY_PARAMETER, action_of
from recsys.data.dataset import Dataset
from recsys.data.flags import flag
from recsys.data.keys import KnownKeys, no_keys
from recsys.data.prepare import Prepared, prepare
from recsys.data.raw import Declared, RawTables
from recsys.errors import EmptyResultError, InputError

MINUTE = 60_000
DECLARED = Declared(
    "hand",
    {"transaction": 5.0, "view": 1.0},
    ("transaction",),
    ("transaction",),
    dict.fromkeys(("user", "item"), "string"),
)


def raw_events(*rows: tuple[int, str, str, str, str | None]) -> pa.Table:
    names = ("timestamp", "visitorid", "event", "itemid", "transactionid")
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def raw_properties(*rows: tuple[int, str, str, str | None]) -> pa.Table:
    columns = list(map(list, zip(*rows, strict=True))) or [[], [], [], []]
    types = (pa.int64(), pa.string(), pa.string(), pa.string())
    names = ("timestamp", "itemid", "property", "value")
    return pa.table({n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)})


def prepared(folder: Path, events: pa.Table, properties: pa.Table | None = None, **options: object) -> Dataset:
    return all_prepared(folder, events, properties, **options).dataset


def all_prepared(folder: Path, events: pa.Table, properties: pa.Table | None = None, **options: object) -> Prepared:
    folder.mkdir(exist_ok=True)
    as_of = options.pop("as_of", 10**12)
    raw = RawTables(events, properties, options.pop("people", None), options.pop("tree", None))
    return prepare(folder, raw, DECLARED, as_of, threads=1, **options)


def test_a_session_ends_with_a_pause_or_another_transaction(tmp_path: Path) -> None:
    events = raw_events(
        (0, "u", "view", "a", None),
        (20 * MINUTE, "u", "view", "b", None),
        (45 * MINUTE, "u", "transaction", "b", "1"),  # the visit goes on
        (46 * MINUTE, "u", "transaction", "c", "2"),  # another order
        (46 * MINUTE, "v", "view", "c", None),  # another user
        (77 * MINUTE, "u", "transaction", "d", "2"),  # the same order, long after
        (107 * MINUTE, "u", "view", "d", None),  # 30 minutes: still the visit
        (138 * MINUTE, "u", "view", "d", None),  # 31 minutes: another
    )
    rows = prepared(tmp_path, events).table("events").to_pylist()
    sessions = [row["session_id"] for row in rows]
    assert sessions == [0, 0, 0, 1, 3, 1, 1, 2]
    assert [row["weight"] for row in rows] == [1, 1, 5, 5, 1, 5, 1, 1]


def test_items_have_their_latest_properties_before_the_cut(tmp_path: Path) -> None:
    events = raw_events(
        (1000, "u", "view", "a", None), (2000, "u", "view", "b", None), (5000, "u", "view", "late", None)
    )
    properties = raw_properties(
        (3000, "a", "colour", "red"),
        (1000, "a", "colour", "blue"),
        (1000, "a", "categoryid", "7"),
        (1500, "a", "available", "1"),
        (2500, "a", "available", "0"),
        (4000, "a", "available", "1"),  # at the cut
        (1000, "a", "790", "n12000.000"),
        (1000, "a", "title", "A thing"),
        (500, "only-described", "size", "1"),
        (1000, "a", "gone", None),
    )
    tree = pa.table({"categoryid": ["7", "1"], "parentid": pa.array(["1", None])})
    dataset = prepared(tmp_path, events, properties, tree=tree, as_of=4000 * 1000)
    items = {row["item_id"]: row for row in dataset.table("items").to_pylist()}
    assert list(items) == ["only-described", "a", "b"]  # by key: in order of first appearance
    a = items["a"]
    assert (a["available"], a["price"], a["title"]) == (False, 12000.0, "A thing")
    assert json.loads(a["properties"]) == {"colour": "red", "790": "n12000.000"}
    categories = {row["category_id"]: row for row in dataset.table("categories").to_pylist()}
    assert a["category_key"] == categories["7"]["category_key"]
    assert a["parent_category_key"] == categories["1"]["category_key"] == categories["7"]["parent_category_key"]
    assert (items["b"]["available"], items["b"]["category_key"], items["b"]["properties"]) == (True, None, "{}")
    assert dataset.interactions().item_key.tolist() == [a["item_key"], items["b"]["item_key"]]
    assert dataset.catalogue(2000 * 1000).item_key.tolist() == [1, 2]


def test_of_values_told_at_one_instant_the_later_row_counts(tmp_path: Path) -> None:
    events = raw_events((1000, "u", "view", "a", None))
    properties = [(500, "a", name, value) for value in ("9", "1", "5") for name in ("size", "categoryid")]
    dataset = prepared(tmp_path, events, raw_properties(*properties))
    item = dataset.table("items").to_pylist()[0]
    assert json.loads(item["properties"]) == {"size": "5"}
    assert dataset.table("item_properties")["value"].to_pylist() == ["5"]


def test_a_property_named_price_is_a_price_and_words_are_not(tmp_path: Path) -> None:
    events = raw_events((1000, "u", "view", "a", None), (1000, "u", "view", "b", None))
    properties = raw_properties(
        (500, "a", "price", "2.55"), (500, "b", "price", "3"), (500, "a", "790", "yes"), (600, "b", "price", "?")
    )
    items = prepared(tmp_path, events, properties).table("items").to_pylist()
    assert [item["price"] for item in items] == [2.55, 3.0]


def test_people_have_their_latest_properties(tmp_path: Path) -> None:
    people = pa.table(
        {"timestamp": [1, 2], "visitorid": ["u", "u"], "property": ["country"] * 2, "value": ["UK", 'F"R']}
    )
    made = all_prepared(tmp_path, raw_events((5, "u", "view", "a", None), (7, "v", "view", "a", None)), people=people)
    assert [json.loads(row["properties"]) for row in made.users.to_pylist()] == [{"country": 'F"R'}, {}]


def test_a_data_set_does_not_hold_who_somebody_is(tmp_path: Path) -> None:
    """Ids and properties of users go into Postgres alone, where an erasure finds them."""
    name, id_ = "Somebody Somewhere", "user-with-an-id"
    people = pa.table({"timestamp": [1], "visitorid": [id_], "property": ["name"], "value": [name]})
    made = all_prepared(tmp_path / "made", raw_events((5, id_, "view", "a", "order-1")), people=people)
    assert made.users["user_id"].to_pylist() == [id_]
    assert made.dataset.table("users").column_names == ["user_key", "first_seen_at"]
    files = sorted((tmp_path / "made").iterdir())
    assert len(files) == 6
    for file in files:
        content = str(pq.read_table(file).to_pydict()) if file.suffix == ".parquet" else file.read_text()
        assert id_ not in content
        assert name not in content


def test_erased_people_are_left_out_and_their_keys_are_not_given_again(tmp_path: Path) -> None:
    events = raw_events((5, "u", "view", "a", None), (6, "ü", "view", "b", None), (7, "w", "view", "a", None))
    people = pa.table({"timestamp": [1, 1], "visitorid": ["ü", "x"], "property": ["c"] * 2, "value": ["UK", "FR"]})
    erased = {hashlib.sha256(id_.encode()).hexdigest() for id_ in ("ü", "x", "nobody")}
    known = pa.table({"id": pa.array(["u", None]), "key": pa.array([1, 2], pa.int32())})
    keys = KnownKeys(no_keys(), known, no_keys())
    dataset, users = all_prepared(tmp_path, events, people=people, known=keys, erased=erased)
    assert [(row["user_id"], row["user_key"]) for row in users.to_pylist()] == [("u", 1), ("w", 3)]
    assert dataset.table("events")["user_key"].to_pylist() == [1, 3]
    assert [row["item_id"] for row in dataset.table("items").to_pylist()] == ["a"]


def test_what_cannot_be_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmptyResultError, match="no event lies before"):
        prepared(tmp_path, raw_events((5, "u", "view", "a", None)), as_of=5000)
    with pytest.raises(InputError, match="'wish': 1"):
        prepared(tmp_path, raw_events((5, "u", "wish", "a", None)))
    with pytest.raises(InputError, match="lacks the column itemid"):
        prepared(tmp_path, raw_events((5, "u", "view", "a", None)).drop(["itemid"]))
    with pytest.raises(InputError, match="have no weight"):
        Declared("x", {"view": 1.0}, ("buy",), (), {})
    with pytest.raises(InputError, match="at least one of them above 0"):
        Declared("x", {"view": -1.0}, (), (), {})
    with pytest.raises(InputError, match=r"finite numbers.*view"):
        Declared("x", {"view": float("nan")}, (), (), {})


POSTED = (
    ("transaction", {"quantity": 8}, None),
    ("view", {"duration": 1.0}, None),
    ("view", {"stars": 1}, None),
    ("view", {"stars": 4, "price": 10.5}, None),
    ("view", {}, 0.25),
    ("removefromcart", {}, None),
    ("dislike", {}, None),
    ("view", {"device": "phone"}, None),
)


def test_a_posted_event_means_by_night_what_it_means_by_day(tmp_path: Path) -> None:
    posted = pa.table(
        {
            "timestamp": [10 + i for i in range(len(POSTED))],
            "visitorid": [f"p{i}" for i in range(len(POSTED))],
            "event": [event for event, _, _ in POSTED],
            "itemid": ["a"] * len(POSTED),
            "transactionid": pa.nulls(len(POSTED), pa.string()),
            "value": pa.nulls(len(POSTED), pa.float64()),
            "parameters": pa.nulls(len(POSTED), pa.string()),
            "acted": [
                json.dumps(parameters) if set(parameters) & set(BY_PARAMETER) else None for _, parameters, _ in POSTED
            ],
            "label": pa.array([label for _, _, label in POSTED], pa.float64()),
            "seq": [100 + i for i in range(len(POSTED))],
        }
    )
    raw = RawTables(raw_events((5, "u", "view", "a", "t")), posted_events=posted)
    dataset = prepare(tmp_path, raw, DECLARED, 10**12, threads=1).dataset
    found = dataset.table("events").to_pylist()
    assert (found[0]["weight"], found[0]["label"]) == (1, 1), "what was imported says what its type does"
    for row, (event, parameters, label) in zip(found[1:], POSTED, strict=True):
        expected = action_of(event, label, parameters, DECLARED.event_weights)
        assert row["label"] == pytest.approx(expected.label), event
        assert row["weight"] == pytest.approx(expected.weight, rel=1e-6), event
    favour, against = dataset.interactions().in_favour, dataset.interactions().against
    assert len(against) == 4
    assert len(favour) == len(found) - 4
    assert favour.weight.min() == pytest.approx(0.25), "a weak sign counts little"


def test_a_type_with_a_negative_weight_speaks_against(tmp_path: Path) -> None:
    declared = replace(DECLARED, event_weights={**DECLARED.event_weights, "report": -2.0})
    events = raw_events((5, "u", "view", "a", None), (6, "u", "report", "a", None))
    dataset = prepare(tmp_path, RawTables(events), declared, 10**12, threads=1).dataset
    assert dataset.interactions().against.weight.tolist() == [2.0]
    assert len(dataset.interactions().in_favour) == 1


rows = st.tuples(
    st.integers(0, 100),
    st.sampled_from("uvw"),
    st.sampled_from(["view", "transaction"]),
    st.sampled_from("abcd"),
    st.sampled_from([None, "1", "2"]),
)
property_rows = st.tuples(
    st.integers(0, 100),
    st.sampled_from("abcde"),
    st.sampled_from(["available", "size", "price"]),
    st.sampled_from("012"),
)


@pytest.mark.slow
@given(st.lists(rows, min_size=1, max_size=12), st.lists(property_rows, max_size=12), st.integers(0, 100), st.data())
@settings(max_examples=10)
def test_what_comes_at_or_after_the_cut_changes_nothing(tmp_path_factory, events, properties, cut, data) -> None:
    events = [*events, (0, "u", "view", "a", None)]
    later_events = data.draw(st.lists(rows.map(lambda row: (row[0] + cut + 1, *row[1:])), max_size=5))
    later_properties = data.draw(st.lists(property_rows.map(lambda row: (row[0] + cut + 1, *row[1:])), max_size=5))
    as_of = (cut + 1) * 1000

    def make(more_events: list, more_properties: list) -> Dataset:
        folder = tmp_path_factory.mktemp("dataset")
        shop = raw_events(*events, *more_events), raw_properties(*properties, *more_properties)
        return prepared(folder, *shop, as_of=as_of, known=KnownKeys.none())

    before, after = make([], []), make(later_events, later_properties)
    for name in before.meta.n_rows:
        plain, extended = (_comparable(dataset.table(name)) for dataset in (before, after))
        assert plain == extended, name


def _comparable(table: pa.Table) -> list[dict]:
    return [
        {name: json.loads(value) if name == "properties" else value for name, value in row.items()}
        for row in table.to_pylist()
    ]


@pytest.mark.parametrize("id_type", ["integer", "string"])
def test_rows_of_ids_that_are_none_cost_themselves_and_are_counted(tmp_path: Path, id_type: str) -> None:
    good, bad = ("7", "01") if id_type == "integer" else ("pear", "p" * 129)
    events = raw_events(
        (1000, good, "view", good, None), (2000, bad, "view", good, None), (3000, good, "view", bad, None)
    )
    properties = raw_properties(
        (1000, good, "categoryid", good), (1000, bad, "categoryid", good), (2000, good, "categoryid", bad)
    )
    tree = pa.table({"categoryid": [good, bad], "parentid": [bad, good]})
    raw = RawTables(events, properties, None, tree)
    declared = replace(DECLARED, id_types=dict.fromkeys(("user", "item", "category"), id_type))
    dataset, users = prepare(tmp_path, raw, declared, 10**12, threads=1)
    assert len(dataset.interactions()) == 1
    assert dataset.meta.n_left_out == {"of an id that is none: item": 1, "of an id that is none: user": 1}
    assert users["user_id"].to_pylist() == [good]
    (item,) = dataset.table("items").to_pylist()
    (category,) = dataset.table("categories").to_pylist()
    assert (item["item_id"], item["category_key"]) == (good, category["category_key"])
    assert (category["category_id"], category["parent_category_key"]) == (good, None)


def test_what_is_no_word_for_yes_does_not_make_an_item_available(tmp_path: Path) -> None:
    yes = ["1", "1.0", "TRUE", "in stock", "InStock", "in_stock", "https://schema.org/InStock", "n1.000", "3"]
    no = ["0", "0.0", "-1", " 0", "n0.000", "off", "sold out", "none", "perhaps", "OutOfStock"]
    nothing = ["", " ", None]
    words = [*yes, *no, *nothing]
    events = raw_events(*((1000, "u", "view", str(i), None) for i in range(len(words))))
    properties = raw_properties(*((1000, str(i), "available", word) for i, word in enumerate(words)))
    items = prepared(tmp_path, events, properties).table("items").to_pylist()
    available = {words[int(row["item_id"])]: row["available"] for row in items}
    assert available == dict.fromkeys(yes, True) | dict.fromkeys(no, False) | dict.fromkeys(nothing, True)
    assert {word: flag(word) or False for word in (*yes, *no)} == {word: available[word] for word in (*yes, *no)}


def test_what_a_later_state_of_the_catalogue_emptied_is_empty(tmp_path: Path) -> None:
    events = raw_events((1000, "u", "view", "a", None), (9000, "u", "view", "b", None))
    full = {"categoryid": "7", "title": "A thing", "price": "5", "available": "0", "colour": "red"}
    properties = raw_properties(
        *((1000, "a", name, value) for name, value in full.items()), *((9000, "a", name, None) for name in full)
    )
    item = prepared(tmp_path / "now", events, properties).table("items").to_pylist()[0]
    assert (item["item_id"], item["category_key"], item["title"], item["price"]) == ("a", None, None, None)
    assert item["available"], "nothing is said of it"
    assert json.loads(item["properties"]) == {}
    before = prepared(tmp_path / "before", events, properties, as_of=8_000_000).table("items").to_pylist()[0]
    assert (before["title"], before["price"], before["available"]) == ("A thing", 5.0, False)
    assert before["category_key"] is not None


def test_of_two_states_of_the_category_tree_the_later_counts(tmp_path: Path) -> None:
    events = raw_events((1000, "u", "view", "a", None))
    parents = {"categoryid": ["b", "c", "b", "c"], "parentid": ["a", "a", None, "b"]}
    tree = pa.table({name: pa.array(values, pa.string()) for name, values in parents.items()})
    rows = prepared(tmp_path, events, tree=tree).table("categories").to_pylist()
    by_key = {row["category_key"]: row["category_id"] for row in rows}
    assert {row["category_id"]: by_key.get(row["parent_category_key"]) for row in rows} == {
        "a": None,
        "b": None,
        "c": "b",
    }


ODD_TEXTS = [
    "",
    " ",
    '"',
    "\\",
    '\\"',
    "a\nb\tc\r",
    "\x01\x1f\x7f",
    "\u2028é ü 漢 🙂",
    "null",
    "{}",
    "it's",
    "a" * 5000,
]


def test_odd_names_and_values_of_properties_stay_what_they_are(tmp_path: Path) -> None:
    """Names and values are any text, for items and for people."""
    values = [*((name, f"value {place}") for place, name in enumerate(ODD_TEXTS)), *((f"x{t}", t) for t in ODD_TEXTS)]
    rows = [(time, "a", name, value) for name, value in values for time, value in ((500, "former"), (500, value))]
    rows += [(600, "a", '"gone"', "x"), (700, "a", '"gone"', None), (700, "a", "unsaid", None)]
    properties = raw_properties(*rows)
    people = properties.rename_columns(["timestamp", "visitorid", "property", "value"])
    people = people.set_column(1, "visitorid", pa.array(["u"] * len(people)))
    events = raw_events((1000, "u", "view", "a", None), (1000, "v", "view", "b", None))
    made = all_prepared(tmp_path, events, properties, people=people)
    for table, owner in ((made.dataset.table("items"), "a"), (made.users, "u")):
        texts = table["properties"].to_pylist()
        assert [json.loads(text) for text in texts] == [dict(values), {}], owner
        assert list(json.loads(texts[0])) == sorted(dict(values), key=str.encode), "in the order of names"
