"""All features of many (user, item) pairs as of one cut.

The tables of items, users, seen pairs and category affinities are computed once for a cut; after that a chunk
of pairs is a few gathers and binary searches on arrays, so that tens of millions of pairs can pass in chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys import columns as col
from recsys.action import interest_of
from recsys.data.dataset import Dataset
from recsys.features.item import item_features
from recsys.features.pair import is_count, pair_history
from recsys.features.title import TitleWords
from recsys.features.user import user_category_affinity, user_features
from recsys.keys import pairs_of, positions

CATEGORICAL = ("item_category", "item_parent_category", "user_favourite_category")  # int32, -1 where unknown
_LEVELS = {"pair_category": col.CATEGORY_KEY, "pair_parent": col.PARENT_CATEGORY_KEY}
_AFFINITY = {"n": 0.0, "share": 0.0, "last_days": np.nan}  # column → value where the user has none


@dataclass(frozen=True)
class Lookup:
    """Columns found by a sorted key. The last row is what a missing key gets."""

    key: NDArray[np.int64]  # (n,), ascending, distinct
    values: Mapping[str, NDArray[Any]]  # each (n + 1,)

    @classmethod
    def of(cls, table: pa.Table, key: NDArray[np.int64], missing: Mapping[str, float]) -> Lookup:
        order = np.argsort(key, kind="stable")
        values = {
            name: np.append(_array(table[name], name)[order], _array(pa.array([value]), name))
            for name, value in missing.items()
        }
        return cls(key[order], values)

    def take(self, key: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Every column for each key."""
        rows = positions(self.key, key)  # -1 is the last row
        return {name: column[rows] for name, column in self.values.items()}


class Features:
    """Everything known before a cut, ready to be joined to pairs."""

    def __init__(
        self, dataset: Dataset, at: int | None = None, *, items_at: int | None = None, threads: int | None = None
    ) -> None:
        """Compute the tables as of `at` (microseconds; the end of the data set when None), that of items as of
        `items_at`, where it is given."""
        self.at = dataset.meta.as_of if at is None else min(at, dataset.meta.as_of)
        items_at = self.at if items_at is None else min(items_at, self.at)
        con = dataset.connect(**({} if threads is None else {"threads": threads}))
        weights = dataset.meta.event_weights
        types = [name for name in dataset.meta.event_types if interest_of(name, weights) > 0]
        items = con.to_pyarrow(item_features(con, items_at))
        users = con.to_pyarrow(user_features(con, self.at, types))
        pairs = con.to_pyarrow(pair_history(con, self.at, types))
        self._item = Lookup.of(items, _integers(items[col.ITEM_KEY]), _unknown(items, "item_"))
        self._user = Lookup.of(users, _integers(users[col.USER_KEY]), _unknown(users, "user_"))
        self._pair = Lookup.of(pairs, _pairs(pairs[col.USER_KEY], pairs[col.ITEM_KEY]), _unknown(pairs, "pair_"))
        self._affinity = {}
        for prefix, level in _LEVELS.items():
            found = con.to_pyarrow(user_category_affinity(con, self.at, level))
            self._affinity[prefix] = Lookup.of(found, _pairs(found[col.USER_KEY], found["category"]), _AFFINITY)
        self._title = TitleWords(con, self.at)
        con.disconnect()

    @property
    def names(self) -> list[str]:
        """The columns that `join` adds, in order."""
        nobody = np.zeros(0, dtype=np.int64)
        return list(self._columns(nobody, nobody))

    def join(self, pairs: pa.Table) -> pa.Table:
        """`pairs` (columns user_key, item_key, …; any order, no nulls) with all features, the rows as they came.

        Features are float32, NaN where unknown; those in CATEGORICAL are int32, -1 where unknown. Pass some
        hundred thousand rows a call: about 0.4 kB a row.
        """
        added = self._columns(_integers(pairs[col.USER_KEY]), _integers(pairs[col.ITEM_KEY]))
        return pa.table({**{name: pairs[name] for name in pairs.column_names}, **added})

    def _columns(self, user_key: NDArray[np.int64], item_key: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        out = {**self._item.take(item_key), **self._user.take(user_key)}
        out |= self._pair.take(pairs_of(user_key, item_key))
        out |= self._title.join(user_key, item_key)
        for prefix, own in (("pair_category", "item_category"), ("pair_parent", "item_parent_category")):
            found = self._affinity[prefix].take(pairs_of(user_key, out[own]))
            out |= {f"{prefix}_{name}": column for name, column in found.items()}
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = out["item_price"] / out["user_mean_value"]
        out["pair_price_ratio"] = np.where(np.isfinite(ratio), ratio, np.float32(np.nan))
        return out


def join_features(dataset: Dataset, pairs: pa.Table, at: int | None = None) -> pa.Table:
    """`pairs` with all features as of `at`; for several chunks of one cut make `Features` once and use its `join`."""
    return Features(dataset, at).join(pairs)


def _unknown(table: pa.Table, prefix: str) -> dict[str, float]:
    names = [name for name in table.column_names if name.startswith(prefix) and not name.endswith("_key")]
    return {name: 0.0 if is_count(name) else -1.0 if name in CATEGORICAL else np.nan for name in names}


def _array(column: pa.Array | pa.ChunkedArray, name: str) -> NDArray[Any]:
    if name in CATEGORICAL:
        return column.cast(pa.int32()).fill_null(-1).to_numpy()
    return column.cast(pa.float32()).fill_null(np.nan).to_numpy()


def _integers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return column.cast(pa.int64()).to_numpy()


def _pairs(user_key: pa.ChunkedArray, other: pa.ChunkedArray) -> NDArray[np.int64]:
    return pairs_of(_integers(user_key), _integers(other))
