"""Data sets keep of parameters what a model can learn from, and nothing that names one user."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.parameters import of_several
from recsys.features.context import value_word

_VALUES = st.one_of(
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
)


def _kept(rows: list[tuple[int, Any]], n_users: int = 5) -> list[Any]:
    table = pa.table(
        {
            "user_key": pa.array([user for user, _ in rows], pa.int32()),
            "parameters": pa.array([None if given is None else json.dumps(given) for _, given in rows], pa.string()),
        }
    )
    texts = of_several(table, n_users)["parameters"].to_pylist()
    return [None if text is None else json.loads(text) for text in texts]


def test_what_one_user_tells_is_not_kept() -> None:
    rows = [
        (user, {"device": "mobile", "email": f"user-{user}@example.org", "phone": 49170000000 + user})
        for user in range(6)
    ]
    rows += [(0, {"order": "A-17", "Device": " Mobile "})] * 9  # by one user, however often
    rows += [(1, None), (2, {"campaign": "spring"})]
    assert _kept(rows) == [{"device": "mobile", "phone": 1 << 35}] * 6 + [{"device": "mobile"}] * 9 + [None, None]


def test_nothing_told_stays_nothing() -> None:
    assert _kept([(1, None), (2, None)]) == [None, None]
    assert _kept([(1, {}), (2, [1]), (3, {"a": None, "b": [1], "c": {}})], 1) == [None, None, None]
    assert _kept([(1, {"n": 10**400})], 1) == [{"n": 1 << 1328}]


@given(
    st.lists(st.dictionaries(st.sampled_from(["device", "page", "arm"]), _VALUES, max_size=3), min_size=1, max_size=8)
)
def test_what_several_tell_is_the_same_word_to_the_model(rows: list[dict[str, Any]]) -> None:
    kept = _kept([(user, one) for user in range(5) for one in rows])
    for before, after in zip(rows * 5, kept, strict=True):
        words = {name: value_word(value) for name, value in before.items() if value_word(value) is not None}
        assert {name: value_word(value) for name, value in (after or {}).items()} == words
