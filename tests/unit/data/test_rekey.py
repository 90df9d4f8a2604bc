"""A data set with other keys is the same data set otherwise."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys.data.rekey import moved


def test_keys_move_in_every_column_that_names_them_and_nothing_else_does() -> None:
    random = np.random.default_rng(0)
    n = 1000
    table = pa.table(
        {
            "user_key": pa.array(random.integers(1, 50, n), pa.int32()),
            "item_key": pa.array(random.integers(1, 50, n), pa.int32()),
            "category_key": pa.array([None if i % 7 == 0 else i % 50 for i in range(n)], pa.int32()),
            "parent_category_key": pa.array([None] * n, pa.int32()),
            "event_id": pa.array(range(n), pa.int64()),
        }
    )
    # 40 becomes 41 and 41 becomes 40: a move is not moved again
    moves = {"users": {40: 41, 41: 40, 49: 70}, "items": {}, "categories": {8: 1000}}
    result = moved(table, moves)
    for name in table.column_names:
        entity = {"user_key": "users", "category_key": "categories"}.get(name)
        of = moves[entity] if entity else {}
        assert result[name].to_pylist() == [of.get(value, value) for value in table[name].to_pylist()]
    assert result.schema.types == table.schema.types
