"""What `make demo SOURCE=… INPUT=…` loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_service.demo.data import Input, remarks
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


def test_only_a_generated_shop_makes_room_unasked(state: Path) -> None:
    shop, theirs = Input.of({}, state), Input.of({"SOURCE": "movielens", "INPUT": str(state)}, state)
    assert "--replace" not in theirs.command_to_load(), "nothing is loaded yet"
    shop.loaded()
    assert "--replace" not in shop.command_to_load()
    assert "--replace" in theirs.command_to_load()
    theirs.loaded()
    assert "--replace" not in shop.command_to_load(), "the user's data are not thrown away unasked"
    assert "--replace" in Input.of({"REPLACE": "1"}, state).command_to_load()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SOURCE": "movielens"}, "INPUT="),
        ({"SOURCE": "movielens", "INPUT": "/no/such/folder"}, "/no/such/folder"),
        ({"USERS": "many"}, "USERS=many"),
    ],
)
def test_what_does_not_fit_together(state: Path, variables: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Input.of(variables, state)


def test_a_missing_file_and_bad_rows_are_told() -> None:
    result = {"status": "loaded", "n_rejected": 1200, "quarantine": ["/q/events.csv"], "notes": ["no tree file"]}
    log = "2026 INFO something {\n odd }\n" + json.dumps(result, indent=1) + "\n"
    assert remarks(log) == ["no tree file", "1,200 bad rows were left out; they are in /q/events.csv"]
    assert remarks("\n" + json.dumps(result | {"n_rejected": 0, "notes": []}, indent=1)) == []


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
