"""What `make demo SOURCE=… INPUT=…` loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_service.demo.data import GENERATED, Input, LoadedSource, for_make, remarks
from recsys.errors import InputError


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path


def test_a_shop_is_generated_once_for_each_size(state: Path) -> None:
    small = Input.of({"USERS": "50", "ITEMS": "20"}, state)
    command = small.command_to_generate()
    assert command is not None
    assert command[-7:] == (str(state / "data" / "generated"), "--users", "50", "--items", "20", "--events", "80000")
    small.generated()
    assert Input.of({"USERS": "50", "ITEMS": "20"}, state).command_to_generate() is None
    assert Input.of({"USERS": "60", "ITEMS": "20"}, state).command_to_generate() is not None


def test_files_of_the_user(state: Path) -> None:
    variables = {"SOURCE": "table", "INPUT": str(state), "OPTIONS": "user=customer item=sku"}
    theirs = Input.of(variables, state)
    assert theirs.command_to_generate() is None
    assert theirs.command_to_load()[3:] == ("import", "table", str(state), "-o", "user=customer", "-o", "item=sku")


def test_nothing_is_replaced_unasked(state: Path) -> None:
    shop, theirs = Input.of({"USERS": "50"}, state), Input.of({"SOURCE": "movielens", "INPUT": str(state)}, state)
    generated, movies = LoadedSource(GENERATED, shop.path, (), True), LoadedSource("movielens", state, (), True)
    shop.generated()
    shop.loaded()
    assert shop.beside(None) is shop
    assert shop.beside(generated) is shop
    assert theirs.beside(movies) is theirs, "a new file of what is there is loaded beside it"
    larger = Input.of({"USERS": "60"}, state)
    for wanted, there in ((theirs, generated), (larger, generated), (shop, movies)):
        with pytest.raises(InputError, match="REPLACE=1"):
            wanted.beside(there)
        assert "--replace" not in wanted.command_to_load()
    anew = Input.of({"USERS": "60", "REPLACE": "1"}, state)
    assert anew.beside(movies) is anew
    assert "--replace" in anew.command_to_load()


def test_without_source_the_demo_goes_on_with_what_is_there(state: Path) -> None:
    unsaid = Input.of({}, state)
    assert unsaid.beside(LoadedSource("table", state, ("user=who",), True)) is None
    killed = unsaid.beside(LoadedSource("table", state, ("user=who",), False))
    assert killed is not None
    assert killed.command_to_load()[3:] == ("import", "table", str(state), "-o", "user=who")
    assert killed.command_to_generate() is None
    shop = Input.of({"USERS": "50"}, state)
    shop.generated()
    shop.loaded()
    again = Input.of({}, state)
    assert again.beside(LoadedSource(GENERATED, again.path, (), True)) is again
    assert again.command_to_generate() is None, "a shop of the size that is there"


def test_further_files_are_found_from_where_make_is_called(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("events/e.csv", "here/items.csv", "events/categories.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n")
    monkeypatch.chdir(tmp_path)
    variables = {"SOURCE": "table", "INPUT": "events/e.csv"}
    found = Input.of(variables | {"OPTIONS": "items=here/items.csv categories=categories.csv"}, state)
    assert found.options == (f"items={tmp_path}/here/items.csv", f"categories={tmp_path}/events/categories.csv")
    with pytest.raises(InputError, match=r"items=no\.csv: there is neither .*/events/no\.csv nor .*/no\.csv"):
        Input.of(variables | {"OPTIONS": "items=no.csv"}, state)


def test_errors_of_an_import_name_the_variable_of_make() -> None:
    assert for_make("give --replace to empty the database") == "give REPLACE=1 to empty the database"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SOURCE": "movielens"}, "INPUT="),
        ({"SOURCE": "movielens", "INPUT": "/no/such/folder"}, "/no/such/folder"),
        ({"USERS": "many"}, "USERS=many"),
        ({"SOURCE": "foo"}, "SOURCE=foo is unknown; known are .*movielens.*table"),
        ({"INPUT": "events.csv"}, "`recsys inspect events.csv` says which"),
    ],
)
def test_what_does_not_fit_together(state: Path, variables: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Input.of(variables, state)


def test_rows_a_missing_file_and_bad_rows_are_told() -> None:
    result = {"n_loaded": {"events": 60}, "totals": {"events": 3061, "users": 201}}
    result |= {"n_rejected": 1200, "quarantine": ["/q/events.csv"], "notes": ["no tree file"]}
    log = "2026 INFO something {\n odd }\n" + json.dumps(result, indent=1) + "\n"
    rows = "loaded now: 60 rows of events; 3,061 events of 201 users are there now"
    assert remarks(log) == [rows, "no tree file", "1,200 bad rows were left out; they are in /q/events.csv"]
    nothing = {"n_loaded": {"events": 0}, "totals": {}, "n_rejected": 0, "notes": []}
    assert remarks("\n" + json.dumps(result | nothing, indent=1)) == ["loaded now: nothing"]


@pytest.mark.parametrize("word", ["0", "no", "false", "No", ""])
def test_replace_may_be_said_to_be_no(tmp_path: Path, word: str) -> None:
    assert "--replace" not in Input.of({"REPLACE": word}, tmp_path).command_to_load()
    assert "--replace" in Input.of({"REPLACE": "yes"}, tmp_path).command_to_load()
    with pytest.raises(InputError, match="REPLACE=maybe is neither yes nor no"):
        Input.of({"REPLACE": "maybe"}, tmp_path)


def test_options_are_split_as_by_a_shell(tmp_path: Path) -> None:
    command = Input.of({"OPTIONS": "user='customer id' item=sku"}, tmp_path).command_to_load()
    assert command[-4:] == ("-o", "user=customer id", "-o", "item=sku")
    for text, message in (
        ("user='customer id", "No closing quotation"),
        ("user=customer id", "'id' is not of the form"),
    ):
        with pytest.raises(InputError, match=message):
            Input.of({"OPTIONS": text}, tmp_path)
