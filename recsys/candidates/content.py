"""Items similar to a user's own by their descriptions: category, properties, price, title. It also finds items without
any interactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.candidates.base import current_weight, rows_of, user_item_matrix
from recsys.candidates.neighbourhood import Neighbourhood, strongest
from recsys.features.attributes import attributes, titles
from recsys.keys import KeyIndex
from recsys.parameters import Count, Positive, Share
from recsys.types import Catalogue, Interactions

ENTRIES_PER_BLOCK = 20_000_000  # of a block of nearness: 240 MB
MAX_PRODUCTS = 300_000_000  # of attributes that two items share


@dataclass
class Content(Neighbourhood):
    """Nearness of two items = (1 - title_share) · Σ shared / (Σ one's + Σ other's - Σ shared) + title_share · cosine,

    the sums over the weights of attributes (`recsys.features.attributes`), so that with m and n equally rare attributes
    of which k are shared the first part is k / (m + n - k) (Jaccard); the cosine is that of TF-IDF of titles. The most
    frequent attributes and words are left out beyond `MAX_PRODUCTS`, which bounds the time of a large catalogue.

    A user's own items count √(weight · 2^(-age / history_half_life_days)).
    """

    title_share: Share = 0.7
    history_half_life_days: Positive = 60.0
    history_half_life_sessions: Positive = 2.0
    n_neighbours: Count = 50
    name: ClassVar[str] = "content"

    def known_items(self, history: Interactions, catalogue: Catalogue) -> KeyIndex:
        """All items of the catalogue, with or without events."""
        return KeyIndex(catalogue.item_key)

    def nearness(self, history: Interactions, users: KeyIndex, items: KeyIndex, catalogue: Catalogue) -> sp.csr_matrix:
        """Of each item the `n_neighbours` nearest available ones; made in blocks, as all would not fit into memory."""
        descriptions = catalogue.describe() if catalogue.describe is not None else None
        shared, words = (rarest(of(catalogue, descriptions), MAX_PRODUCTS) for of in (attributes, titles))
        weights = np.asarray(shared.sum(axis=1)).ravel()
        roots = shared.sqrt()
        to_attributes, to_words = (_of_available(part, catalogue.available) for part in (roots, words))
        blocks = [sp.csr_matrix((0, len(catalogue)), dtype=np.float32)]
        for rows in _blocks(shared, words):
            both = (roots[rows] @ to_attributes).tocsr()
            both.data /= weights[rows][rows_of(both)] + weights[both.indices] - both.data
            near = (1 - self.title_share) * both + self.title_share * (words[rows] @ to_words)
            blocks.append(strongest(_without_diagonal(near.tocsr(), rows.start), self.n_neighbours))
        return sp.vstack(blocks, format="csr", dtype=np.float32)

    def user_history(self, history: Interactions, users: KeyIndex, items: KeyIndex) -> sp.csr_matrix:
        weight = current_weight(history, self.history_half_life_days, self.history_half_life_sessions)
        return np.sqrt(user_item_matrix(history, weight, users, items))


def rarest(matrix: sp.csr_matrix, max_products: int) -> sp.csr_matrix:
    """The columns with the fewest entries, as many as give at most `max_products` pairs of rows."""
    n_with = np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.int64)
    order = np.argsort(n_with, kind="stable")
    kept = np.zeros(matrix.shape[1], dtype=np.float32)
    kept[order[np.cumsum(n_with[order] ** 2) <= max_products]] = 1.0
    if kept.all():
        return matrix
    chosen = (matrix @ sp.diags(kept)).tocsr().astype(np.float32)
    chosen.eliminate_zeros()
    return chosen


def _of_available(matrix: sp.csr_matrix, available: NDArray[np.bool_]) -> sp.csr_matrix:
    """Transposed, with the columns of items that are not on offer empty."""
    return (sp.diags(available.astype(np.float32)) @ matrix).T.tocsr()


def _blocks(*parts: sp.csr_matrix) -> list[slice]:
    """Rows whose products with all rows have at most `ENTRIES_PER_BLOCK` entries together, or single rows."""
    n_rows = parts[0].shape[0]
    at_most = np.zeros(n_rows)
    for part in parts:
        n_with = np.bincount(part.indices, minlength=part.shape[1])
        at_most += np.minimum(np.bincount(rows_of(part), n_with[part.indices], minlength=n_rows), n_rows)
    block = np.cumsum(at_most) // ENTRIES_PER_BLOCK
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    return [slice(int(a), int(b)) for a, b in zip(starts, [*starts[1:], n_rows], strict=True)]


def _without_diagonal(near: sp.csr_matrix, first_row: int) -> sp.csr_matrix:
    """Without each item's nearness to itself; row i is of item `first_row` + i."""
    near.data[near.indices == rows_of(near) + first_row] = 0.0
    return near
