"""Keys are given once: whatever comes later, no id changes its key and no key is given twice."""

from __future__ import annotations

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import ids as rule
from recsys.data.keys import FIRST_KEY, KnownKeys, give_keys, is_id

ids = st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 5), max_size=8)


def give(seen: dict[str, int], known: dict[str, int]) -> dict[str, int]:
    con = ibis.duckdb.connect(threads=1)
    table = pa.table({"id": pa.array(seen, pa.string()), "first": pa.array(seen.values(), pa.int64())})
    con.con.register("seen", table)
    former = pa.table({"id": pa.array(known, pa.string()), "key": pa.array(known.values(), pa.int32())})
    rows = con.to_pyarrow(give_keys(con, "item", con.table("seen"), former, ["first", "id"])).to_pylist()
    con.disconnect()
    return {row["id"]: row["key"] for row in rows}


def test_new_ids_get_the_next_keys_in_order_of_first_appearance() -> None:
    assert give({"b": 1, "a": 2, "c": 1}, {}) == {"b": FIRST_KEY, "c": FIRST_KEY + 1, "a": FIRST_KEY + 2}
    assert give({"b": 1, "a": 2}, {"z": 7, "a": 3}) == {"a": 3, "b": 8}
    assert len(KnownKeys.none().items) == 0


@given(st.lists(ids, min_size=1, max_size=4))
@settings(max_examples=10)
def test_no_key_changes_and_none_is_given_twice(days: list[dict[str, int]]) -> None:
    known: dict[str, int] = {}
    for seen in days:
        given_now = give(seen, known)
        assert set(given_now) == set(seen)
        assert all(given_now[id_] == known[id_] for id_ in seen if id_ in known)
        known |= given_now
        assert len(set(known.values())) == len(known)
        assert sorted(known.values()) == list(range(FIRST_KEY, FIRST_KEY + len(known)))


@pytest.mark.parametrize("id_type", ["integer", "string"])
def test_the_rule_of_ids_is_the_same_in_a_table(id_type: str) -> None:
    blanks = [text for blank in rule.BLANKS for text in (blank, f"{blank}a", f"a{blank}", f"a{blank}b")]
    texts = ["7", "01", "0", "-0", "-7", "+7", "7.0", "", "1" * 18, "1" * 19, "x" * 128, "é" * 129, "7\n", *blanks]
    con = ibis.duckdb.connect()
    con.con.register("texts", pa.table({"id": texts}))
    table = con.table("texts")
    found = {row["id"]: row["good"] for row in con.to_pyarrow(table.mutate(good=is_id(table.id, id_type))).to_pylist()}
    assert found == {text: rule.is_id(text, id_type) for text in texts}
