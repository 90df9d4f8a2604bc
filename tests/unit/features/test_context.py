"""What is told of a request, hashed into fields: bounded, stable, the same for the night, the day and requests."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from typing import Any

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from recsys.action import BY_PARAMETER
from recsys.events.event import parse
from recsys.features.context import (
    CONTEXT_FIELDS,
    CONTEXT_SIZES,
    N_SHARED,
    OUTCOMES,
    REQUEST_FEATURES,
    context_of,
    context_rows,
    owners_of_fields,
    value_word,
)
from recsys.features.deepfm_fields import CONTEXT, N_USER_FIELDS
from recsys.features.deepfm_spec import FeatureSpec
from recsys.serving.model_state import put_features
from recsys.types import Texts
from recsys.updater.examples import features_of

NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
names = st.sampled_from(
    ["device", "Device ", "page", "campaign", "arm", "referrer", "os", "hour", *OUTCOMES]
) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(names, scalars, max_size=2)
objects = st.dictionaries(names, values, max_size=8)
owners = st.lists(st.sampled_from(["page", "campaign", "arm", "referrer", "os"]), max_size=N_SHARED, unique=True)


def rows(given_: dict[str, Any], own: tuple[str, ...] = ()) -> list[int]:
    """One row for each field."""
    text = Texts(np.array([0], dtype=np.int32), [json.dumps(given_)])
    result: list[int] = context_rows(text, 1, own)[0].tolist()
    return result


def spec(own: list[str]) -> FeatureSpec:
    return FeatureSpec(0, {}, 20, 60.0, 1.0, 1.0, -1.0, 0.5, True, context_names=own)


@given(objects, owners)
def test_rows_are_bounded_and_each_name_is_told_or_refused(given_: dict[str, Any], own: list[str]) -> None:
    inputs, unused = context_of(given_, own)
    assert len({one.field for one in inputs}) == len(inputs) <= len(CONTEXT_FIELDS)
    assert all(1 <= one.row < CONTEXT_SIZES[one.field] for one in inputs)
    passed_over = {name for name in given_ if name.strip().casefold() in REQUEST_FEATURES}
    assert {one.name for one in inputs} | set(unused) == set(given_) - passed_over
    assert {one.name for one in inputs}.isdisjoint(unused)


@given(objects, st.randoms())
def test_neither_order_nor_case_nor_space_matters(given_: dict[str, Any], random: Any) -> None:
    pairs = [(name, value) for name, value in given_.items() if name.isascii()]
    ascii_only = dict(pairs)
    random.shuffle(pairs)
    assert context_of(dict(pairs)) == context_of(ascii_only)
    assert rows({"device": "Mobile "}) == rows({" DEVICE": "mobile"})


@given(objects)
def test_what_is_known_only_after_the_action_is_no_input(given_: dict[str, Any]) -> None:
    without = {name: value for name, value in given_.items() if name.strip().casefold() not in OUTCOMES}
    with_outcomes = without | {name.upper(): 5 for name in OUTCOMES}
    assert set(BY_PARAMETER) <= OUTCOMES
    assert rows(with_outcomes) == rows(without)
    assert set(context_of(with_outcomes)[1]) >= {name.upper() for name in OUTCOMES}


@given(objects, objects, owners)
def test_the_night_the_day_and_a_request_give_the_same_rows(
    parameters: dict[str, Any], features: dict[str, Any], own: list[str]
) -> None:
    """The night has both objects of the log's row as one text, as Postgres' || makes it of them."""
    sample = {"user_id": "1", "item_id": "2", "parameters": parameters, "features": features, "timestamp": NOW}
    accepted, rejected = parse([sample], NOW)
    if rejected:  # integers beyond 64 bits
        return
    ((_, event),) = accepted
    at_night = orjson.loads(event.parameters) | orjson.loads(event.features)
    by_day = np.zeros(N_USER_FIELDS, dtype=np.int32)
    put_features(by_day, features_of(spec(own), event))
    assert by_day[CONTEXT].tolist() == rows(at_night, tuple(own))


def test_other_processes_give_the_same_rows() -> None:
    """Known values: a change of the hash would make trained models read other rows."""
    given_ = {"device": "mobile", "campaign": "spring", "page": "home", "depth": 9, "price": 3}
    assert rows(given_, ("campaign",)) == EXPECTED
    code = (
        "import json, sys; from recsys.features.context import context_of;"
        "told, _ = context_of(json.loads(sys.argv[1]), ('campaign',));"
        "print(sorted((one.field, one.row) for one in told))"
    )
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, json.dumps(given_)]
        run = subprocess.run(command, env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."}, capture_output=True, check=True)
        assert json.loads(run.stdout.replace(b"(", b"[").replace(b")", b"]")) == [
            [field, row] for field, row in enumerate(EXPECTED) if row
        ]


EXPECTED = [2, 25, 223, 18, 0]


def test_numbers_are_words_by_sign_and_size() -> None:
    assert [value_word(value) for value in (0, -0.0, 1, 1.5, 9, 12.0, -9, 0.3, 2**70)] == [
        *("#0", "#0", "#+0", "#+0", "#+3", "#+3", "#-3", "#+-2", "#+70"),
    ]
    assert [value_word(value) for value in (True, False, " A ", "", [1], {}, None, float("nan"), float("inf"))] == [
        *("yes", "no", "a", None, None, None, None, None, None),
    ]


def test_the_most_frequent_names_own_fields_and_strangers_keep_out() -> None:
    texts = ['{"a": 1, "b": "x", "stars": 5}', '{"b": 2, "hour": 3, "device": "tv"}', '{"c": [], "B ": true}', "[]"]
    parameters = Texts(np.array([0, 1, 2, 2, -1, 3, 0], dtype=np.int32), texts)
    assert owners_of_fields(parameters) == ("b", "a")
    assert (
        owners_of_fields(Texts(parameters.code[4:6], texts)) == owners_of_fields(None) == ()
    )  # later events are not looked at
    many = Texts(np.zeros(1, dtype=np.int32), [json.dumps(dict.fromkeys("zyxwvu", "1"))])
    assert owners_of_fields(many) == ("u", "v", "w", "x")
    alone, crowded = rows({"v": "1"}, tuple("uvwx")), rows(dict.fromkeys("abcvyz", "1"), tuple("uvwx"))
    assert alone == crowded
    assert np.flatnonzero(alone).tolist() == [2]
    assert rows({"a": "1", "b": "1", "device": "1"}, ("b",))[:2] == rows({"b": "1", "device": "1"}, ("b",))[:2]
