"""The ranker's feature matrix: the pool's columns of a candidate, and the features as of the cutoff.

Training and serving share the function, so both have the same columns in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys import columns as col
from recsys.ranking.pool import Pool
from recsys.types import Scores


class PairFeatures(Protocol):
    """Features as of a cutoff; `recsys.features.frame.Features` is the implementation."""

    def join(self, pairs: pa.Table) -> pa.Table:
        """`pairs` (user_key, item_key), and one numeric column for each feature, rows in the same order."""
        ...


@dataclass(frozen=True)
class Frame:
    """A feature matrix with the names of its columns."""

    names: tuple[str, ...]
    matrix: NDArray[np.float32]  # (n_rows, n_features), NaN where unknown

    def take(self, rows: NDArray[Any]) -> Frame:
        """The rows selected by a mask or positions."""
        return Frame(self.names, self.matrix[rows])


def feature_frame(
    pool: Pool, features: PairFeatures, leave_out: Sequence[str] = (), more: Mapping[str, Scores] | None = None
) -> Frame:
    """All features of the pool's rows (n_rows). `leave_out`: categorical columns of `features`; `more`: columns beside
    those of the pool and of `features`."""
    pairs = pa.table({col.USER_KEY: pool.user_key[pool.row_of_user], col.ITEM_KEY: pool.item_key})
    joined = features.join(pairs)
    ignored = {col.USER_KEY, col.ITEM_KEY, *leave_out}
    columns: dict[str, NDArray[Any]] = dict(pool.columns) | _agreement(pool) | dict(more or {})
    columns |= {name: joined[name].to_numpy() for name in joined.column_names if name not in ignored}
    matrix = np.empty((len(pool), len(columns)), dtype=np.float32, order="F")  # filled and read by columns: far faster
    for place, values in enumerate(columns.values()):
        matrix[:, place] = values
    return Frame(tuple(columns), matrix)


def _agreement(pool: Pool) -> dict[str, Scores]:
    """Agreement of the generators on a candidate: the number that found it, its best rank, its mean share."""
    found = np.stack([values for name, values in pool.columns.items() if name.endswith("_found")])
    ranks = np.stack([values for name, values in pool.columns.items() if name.endswith("_rank")])
    shares = np.stack([values for name, values in pool.columns.items() if name.endswith("_share")])
    known = ~np.isnan(shares)
    return {
        "pool_n_found": found.sum(axis=0),
        "pool_best_rank": np.nan_to_num(ranks, nan=np.inf).min(axis=0),
        "pool_mean_share": np.where(known, shares, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1),
        "pool_fusion": (1 / (60 + np.nan_to_num(ranks, nan=1e6))).sum(axis=0),  # reciprocal rank fusion
    }
