"""Integer keys of external ids: given once, in order of first appearance, never changed and never given again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ibis
import pyarrow as pa
from ibis import Table

from recsys.ids import BLANKS, INTEGER_ID_PATTERN, MAX_ID_LENGTH, IdType

FIRST_KEY = 1  # 0 owns the default list of all items


def no_keys() -> pa.Table:
    return pa.table({"id": pa.array([], pa.string()), "key": pa.array([], pa.int32())})


@dataclass(frozen=True)
class KnownKeys:
    """Keys given so far: tables with `id` (text) and `key` (int32); empty at the first preparation."""

    items: pa.Table
    users: pa.Table
    categories: pa.Table

    @classmethod
    def none(cls) -> KnownKeys:
        return cls(no_keys(), no_keys(), no_keys())


def is_id(value: ibis.Value, id_type: IdType) -> ibis.Value:
    """Whether a text is an id, as `recsys.ids` has it."""
    if id_type == "integer":
        return value.re_search(INTEGER_ID_PATTERN)
    return (value.length() <= MAX_ID_LENGTH) & value.re_search(f"(?s)^[^{BLANKS}](.*[^{BLANKS}])?$")


def give_keys(con: Any, name: str, seen: Table, known: pa.Table, order: list[str]) -> Table:
    """`seen` (`id` distinct, and more) with its `key`: the known one, else the next free in the order of columns.

    `known`: all keys given so far, also of ids that are not in `seen`. The result is the table `<name>_keys`
    of `con`.
    """
    con.con.register(f"known_{name}", known)
    former = con.table(f"known_{name}")
    top = int(con.to_pyarrow(former.key.max()).as_py() or FIRST_KEY - 1)
    joined = seen.left_join(former, "id").drop("id_right")
    old = joined.filter(joined.key.notnull())
    new = joined.filter(joined.key.isnull())
    place = ibis.row_number().over(order_by=[new[column] for column in order])
    new = new.mutate(key=(place + top + 1).cast("int32"))
    both = old.mutate(key=old.key.cast("int32")).union(new)
    return con.create_table(f"{name}_keys", both, temp=True)
