"""A data set once more, with other keys or without some users: what others did while it was being prepared."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys import columns as col
from recsys.data.dataset import SCHEMAS, Dataset, write_dataset
from recsys.keys import positions

Moves = Mapping[str, Mapping[int, int]]  # "items", "users", "categories" → key → the key that it becomes

_ENTITY_BY_COLUMN = {
    col.USER_KEY: "users",
    col.ITEM_KEY: "items",
    col.CATEGORY_KEY: "categories",
    col.PARENT_CATEGORY_KEY: "categories",
}


def rewrite(dataset: Dataset, folder: Path, moves: Moves, gone: Set[int]) -> Dataset:
    """Write `dataset` with moved keys, and without the users with the keys `gone` (as they are in it), into a folder:
    its own, or an empty one."""
    tables = {name: dataset.table(name) for name in SCHEMAS}
    if gone:
        keys = pa.array(sorted(gone), pa.int32())
        for name in ("users", "events"):
            is_gone = pc.is_in(tables[name][col.USER_KEY], value_set=keys)
            tables[name] = tables[name].filter(pc.invert(is_gone))
    return write_dataset(folder, dataset.meta, {name: moved(table, moves) for name, table in tables.items()})


def moved(table: pa.Table, moves: Moves) -> pa.Table:
    """The table with its keys as they have become."""
    for column, entity in _ENTITY_BY_COLUMN.items():
        if moves.get(entity) and column in table.column_names:
            place = table.column_names.index(column)
            table = table.set_column(place, table.schema.field(column), _moved(table[column], moves[entity]))
    return table


def _moved(column: pa.ChunkedArray, moves: Mapping[int, int]) -> pa.Array:
    former = np.array(sorted(moves), dtype=np.int32)
    given = np.array([moves[key] for key in former.tolist()], dtype=np.int32)
    keys = column.combine_chunks()
    values = keys.fill_null(-1).to_numpy(zero_copy_only=False)
    place = positions(former, values)
    result = np.where(place >= 0, given[place], values)
    return pa.array(result, pa.int32(), mask=np.asarray(keys.is_null()))
