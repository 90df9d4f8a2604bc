"""What accuracy does not say of lists: how alike their items are, how exposure is spread, what nobody would expect.

Lists are (n_users, k) item keys, best first, padded at the end with -1, as in `metrics`.

Distances of items come from who has them, which every data set knows, and from categories, where there are any. Titles
and vectors of generators are not used: a data set may have none, and the vectors of one system would judge the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recsys.evaluation.metrics import Labels, Values, hits
from recsys.keys import pairs_of, parts_of
from recsys.types import Interactions, Keys

MAX_LISTS = 2_000  # whose diversity by owners is measured: a random part of them, where there are more
MAX_OWNERS = 20_000  # by whom the likeness of items is measured, likewise
_PAIRS_AT_ONCE = 20_000


def owners_of(history: Interactions, n_item_keys: int) -> csr_array:
    """Who has each item in `history`: ones, (n_item_keys, n_users); at most MAX_OWNERS users, drawn at random."""
    users, items = parts_of(np.unique(history.pairs))
    known, column = np.unique(users, return_inverse=True)
    drawn = np.sort(np.random.default_rng(0).permutation(len(known))[:MAX_OWNERS])
    place = np.full(len(known), -1)
    place[drawn] = np.arange(len(drawn))
    keep = place[column] >= 0
    ones = np.ones(int(keep.sum()), dtype=np.float32)
    return csr_array((ones, (items[keep], place[column][keep])), shape=(n_item_keys, len(drawn)))


def diversity(lists: Keys, owners: csr_array, k: int = 10) -> Values:
    """Mean distance of the pairs among the first `k` items of each list, in [0, 1]; (n_users,).

    The distance of two items is 1 - |A ∩ B| / √(|A| |B|), A and B the users who have them (`owners_of`): 0 where the
    same users do, 1 where nobody has both. NaN for lists of fewer than two items and for those beyond MAX_LISTS.
    Smyth & McClave 2001; as intra-list similarity, Ziegler et al. 2005.
    """
    top = lists[:, :k]
    if len(top) > MAX_LISTS:
        chosen = np.random.default_rng(0).permutation(len(top))[:MAX_LISTS]
        top = np.where(np.isin(np.arange(len(top)), chosen)[:, None], top, -1)
    left, right, known = _pairs(top)
    distinct, place = np.unique(pairs_of(np.minimum(left, right), np.maximum(left, right)), return_inverse=True)
    return _mean_of_pairs((1 - _cosine(owners, *parts_of(distinct)))[place], known)


def category_diversity(lists: Keys, category: NDArray[np.integer], k: int = 10) -> Values:
    """Share of the pairs among the first `k` items that are of different categories; (n_users,).

    `category`: by item key, -1 where unknown; such pairs are left out. NaN where no pair is left. Smyth & McClave 2001.
    """
    top = lists[:, :k]
    left, right, known = _pairs(np.where((top >= 0) & (category[np.maximum(top, 0)] >= 0), top, -1))
    return _mean_of_pairs((category[left] != category[right]).astype(np.float64), known)


def serendipity(lists: Keys, expected: Keys, labels: Labels, k: int = 10) -> Values:
    """Share of the first `k` places with an item that is relevant and not expected; (n_users,), at most precision@k.

    `expected` (n_users, any): what a simple system, here popularity, proposes to the same users in as many places.
    Ge, Delgado-Battenfeld & Jannach 2010.
    """
    top = lists[:, :k]
    row = np.arange(len(top))[:, None]
    surprising = ~np.isin(pairs_of(row, top), pairs_of(row, expected[:, :k]))
    share: Values = (hits(top, labels) & surprising).sum(axis=1) / k
    return share


def gini(lists: Keys, n_items: int, k: int = 10) -> float:
    """Gini coefficient of how often each of the `n_items` of the catalogue is in the first `k` places.

    0 when all are shown alike, (n - 1) / n when one item takes every place; 0 without any place. With counts
    x_1 ≤ … ≤ x_n: Σ (2i - n - 1) x_i / (n Σ x_i). Of exposure: Fleder & Hosanagar 2009.
    """
    top = lists[:, :k]
    counts = np.sort(np.unique(top[top >= 0], return_counts=True)[1])
    n = max(n_items, len(counts))
    if not len(counts):
        return 0.0
    rank = np.arange(n - len(counts) + 1, n + 1)  # the others come before and count 0
    return float(((2 * rank - n - 1) * counts).sum() / (n * counts.sum()))


def personalisation(lists: Keys, k: int = 10) -> float:
    """1 - the mean cosine of the first `k` places of two users: 0 where all get the same items, 1 where no two share
    one. Users without a list are left out; NaN where fewer than two remain. Zhou et al. 2010 (inter-user diversity).
    """
    top = lists[(lists[:, :k] >= 0).any(axis=1), :k]
    n = len(top)
    if n < 2:
        return float("nan")
    share = np.where(top >= 0, 1 / np.sqrt((top >= 0).sum(axis=1, keepdims=True)), 0.0)
    total = np.bincount(np.maximum(top, 0).ravel(), share.ravel())
    return max(0.0, float(1 - ((total**2).sum() - n) / (n * (n - 1))))


def _pairs(top: Keys) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """The items of each pair of filled places, (n,) and (n,), and where these are in (n_users, n_pairs)."""
    first, second = np.triu_indices(top.shape[1], 1)
    left, right = top[:, first], top[:, second]
    known = (left >= 0) & (right >= 0)
    return left[known], right[known], known


def _mean_of_pairs(values: Values, known: NDArray[np.bool_]) -> Values:
    row = np.nonzero(known)[0]
    n = np.bincount(row, minlength=len(known))
    total = np.bincount(row, values, minlength=len(known))
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _cosine(owners: csr_array, left: Keys, right: Keys) -> Values:
    """Cosine of the rows of pairs of items, (n_pairs,); 0 where nobody has one of them."""
    common = np.zeros(len(left))
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        common[part] = owners[left[part]].multiply(owners[right[part]]).sum(axis=1)
    n = np.diff(owners.indptr).astype(np.float64)
    return common / np.maximum(np.sqrt(n[left] * n[right]), 1)
