"""Diversification: reranks the best items by maximal marginal relevance.

Carbonell & Goldstein, "The use of MMR, diversity-based reranking", SIGIR 1998: after the selected items S comes

    argmax over i of  (1 - w) · relevance(i)  -  w · max over j in S of similarity(i, j)

with relevance(i) = 1 - place / n, because scores of different sources are not comparable, and similarity the mean of
"same category" (0 or 1) and of the cosine of the item factors (0 where negative), or only the first where one of the
two has no factors. With w = 1 this is the greedy selection of maximal distance.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.serving.catalogue import NO_CATEGORY
from recsys.serving.item_factors import ItemFactors

POOL: Final = 50  # number of the best items that are reranked


def similarity(
    item_keys: NDArray[np.int64], category_keys: NDArray[np.int32], factors: ItemFactors | None = None
) -> NDArray[np.float32]:
    """(n, n), from 0 to 1. Items without a category have no category in common."""
    same = (category_keys[:, None] == category_keys) & (category_keys != NO_CATEGORY)
    alike = same.astype(np.float32)
    if factors is None:
        return alike
    vectors, has = factors.of(item_keys)
    cosine = np.maximum(vectors @ vectors.T, 0.0)
    return np.where(has[:, None] & has, (alike + cosine) / 2, alike)


def reordered(alike: NDArray[np.float32], weight: float, n: int) -> list[int]:
    """Places of the `n` selected items, in their new order; ties go to the earlier. The first stays first.

    `alike`: (n_items, n_items), best item first. `weight`: from 0 (unchanged order) to 1.
    """
    n_items = len(alike)
    value = (1 - weight) * (1 - np.arange(n_items, dtype=np.float32) / max(n_items, 1))
    penalty = weight * alike
    nearest = np.zeros(n_items, dtype=np.float32)
    chosen: list[int] = []
    for _ in range(min(n, n_items)):
        at = int((value - nearest).argmax())
        chosen.append(at)
        value[at] = -np.inf
        np.maximum(nearest, penalty[at], out=nearest)
    return chosen
