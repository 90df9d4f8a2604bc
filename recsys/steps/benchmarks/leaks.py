"""Does anything that is computed before a cut know what comes after it? Found by changing what comes after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.data import sequences
from recsys.data.sequences import PLACE, SequenceTable
from recsys.ranking.cut import Cut, Fitted
from recsys.types import Keys

N_USERS = 500
N_CANDIDATES = 50


def what_leaks(table: SequenceTable, names: Sequence[str], fitted: Fitted, folder: Path, seed: int) -> list[str]:
    """The generators of `names` and the features that differ before everybody's last item when that is another one.

    `fitted` as in `Cut`; equal seeds have to give equal generators. `folder` takes two data sets.
    """
    cuts = []
    for name, one in (("as-it-is", table), ("changed", with_other_last_items(table, seed))):
        (folder / name).mkdir(parents=True)
        data = sequences.dataset(one, folder / name)
        cuts.append(Cut(data, data.interactions(), data.meta.as_of - PLACE, names, fitted))
    users = np.unique(cuts[0].history.user_key)
    users = np.sort(np.random.default_rng(seed).permutation(users)[:N_USERS])
    first, second = (_lists(cut, users) for cut in cuts)
    found = [name for name in names if not np.array_equal(first[name], second[name])]
    items = np.random.default_rng(seed).integers(0, len(table.item_ids), len(users)).astype(np.int32)
    pairs = pa.table({"user_key": users, "item_key": items})
    one, other = (cut.features.join(pairs) for cut in cuts)
    return found + [name for name in one.column_names if not _are_equal(one[name], other[name])]


def with_other_last_items(table: SequenceTable, seed: int) -> SequenceTable:
    """Every sequence with the last item of another user in the place of its own."""
    last = np.flatnonzero(table.place == 0)
    item = table.item.copy()
    item[last] = np.random.default_rng(seed).permutation(item[last])
    return SequenceTable(table.user, item, table.user_ids, table.item_ids)


def _lists(cut: Cut, users: Keys) -> dict[str, Any]:
    return {name: one.candidates(users, N_CANDIDATES).item_key for name, one in cut.generators.items()}


def _are_equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    return np.array_equal(one.to_numpy(), other.to_numpy(), equal_nan=one.type == pa.float32())
