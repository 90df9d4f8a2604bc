"""What is popular: recently, all time, and within each category."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys.candidates.base import (
    Best,
    load_model,
    ranked,
    recent_and_total,
    require_finite,
    save_model,
    seen_positions,
    usable_history,
)
from recsys.errors import InputError
from recsys.keys import KeyIndex, Positions, runs
from recsys.parameters import NotNegative, Positive
from recsys.types import MICROSECONDS_PER_DAY, NO_ITEM, Candidates, Catalogue, Interactions, Keys, Scores


@dataclass
class Popular:
    """Items by one score, the same for every user, known or not:

        score(i) = recent(i) / Σ recent + all_time_share · total(i) / Σ total

    where `recent` sums weight · 2^(-age / half_life_days) over the events of item i and `total` sums the bare
    weights, and of one user's events on an item in a day (UTC) the heaviest alone counts: reloading a page, or a bot,
    makes nothing popular. The first part follows the last days; the second, small, orders items that have not moved
    lately, so that small categories get full lists. An item without any event is never proposed.
    """

    half_life_days: Positive = 5.0
    all_time_share: NotNegative = 0.02
    name: ClassVar[str] = "popular"

    def fit(self, interactions: Interactions, catalogue: Catalogue) -> Self:
        history = heaviest_of_a_day(usable_history(interactions, catalogue))
        recent, total = recent_and_total(history, KeyIndex(catalogue.item_key), self.half_life_days)
        score = recent / max(recent.sum(), np.finfo(np.float64).tiny) + self.all_time_share * total / total.sum()
        require_finite(self.name, score=score)
        self._set(interactions.cut_at, catalogue.item_key, score.astype(np.float32), catalogue)
        return self

    def _set(self, cut_at: int, keys: Keys, score: Scores, catalogue: Catalogue) -> None:
        self.cut_at, self.items, self.score = cut_at, KeyIndex(keys), score
        self.available, self.category_key = catalogue.available, catalogue.category_key
        eligible = np.flatnonzero(self.available & (score > 0))
        self.order: Positions = eligible[np.argsort(-score[eligible], kind="stable")]

    def with_histories(self, interactions: Interactions) -> Self:
        """The model itself: what is popular does not depend on who asks."""
        return self

    def top(self, n: int) -> tuple[Keys, Scores]:
        """The `n` most popular available items, best first: keys and scores, each (≤ n,)."""
        best = self.order[:n]
        return self.items.keys[best], self.score[best]

    def top_by_category(self, n: int, parents: Mapping[int, int | None] | None = None) -> Candidates:
        """For each category that holds popular available items, its best `n`; owners are category keys.

        `parents`: category key → key of the category above; the items of a category then also count in all
        categories above it. A ring of parents ends after as many levels as there are categories.
        """
        places, owners_of = self._memberships(parents or {})
        by_owner = np.lexsort((places, owners_of))  # by category, best first within
        place, owner = places[by_owner], owners_of[by_owner]
        starts, rank = runs(owner)
        owners, row = owner[starts], np.cumsum(rank == 0) - 1
        keep = rank < n
        keys = np.full((len(owners), n), NO_ITEM, dtype=np.int32)
        scores = np.full((len(owners), n), np.nan, dtype=np.float32)
        keys[row[keep], rank[keep]] = self.items.keys[self.order[place[keep]]]
        scores[row[keep], rank[keep]] = self.score[self.order[place[keep]]]
        return Candidates(owners.astype(np.int32), keys, scores)

    def _memberships(self, parents: Mapping[int, int | None]) -> tuple[Positions, NDArray[np.int64]]:
        """Distinct pairs of a place in `order` and a category that holds the item, directly or below it."""
        category = self.category_key[self.order].astype(np.int64)
        above = np.full(max([int(category.max(initial=0)), *parents, *(p or 0 for p in parents.values())]) + 1, -1)
        for child, parent in parents.items():
            above[child] = -1 if parent is None else parent
        place = np.arange(len(category))
        found: list[NDArray[np.int64]] = []
        for _ in range(len(parents) + 1):
            place, category = place[category >= 0], category[category >= 0]
            if not len(place):
                break
            found.append(place * len(above) + category)
            category = above[category]
        pairs = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
        return pairs // len(above), pairs % len(above)

    def candidates(self, user_keys: Keys, n: int, *, seen: Any | None = None) -> Candidates:
        """The best `n` for each user less what the user has seen; unknown users get them too."""
        mask = seen_positions(seen, self.items, len(user_keys))
        longest = int(np.diff(mask.indptr).max(initial=0)) if mask is not None else 0
        pool = self.order[: n + longest]  # enough to fill every list
        place = np.full(len(self.items), -1, dtype=np.int64)
        place[pool] = np.arange(len(pool))

        def best(rows: Positions) -> Best:
            free = np.ones((len(rows), len(pool)), dtype=bool)
            if mask is not None:
                part = mask[rows].tocoo()
                at = place[part.col]
                free[part.row[at >= 0], at[at >= 0]] = False
            return _first_free(free, pool, self.score, n)

        return ranked(user_keys, n, np.ones(len(user_keys), dtype=bool), self.items, best)

    def scores(self, user_keys: Keys, item_keys: Keys) -> Scores:
        """Popularity of the items whoever asks; 0 for items of the catalogue without an event."""
        if item_keys.shape[:1] != user_keys.shape:
            raise InputError(f"scores wants (n,) and (n, k), received {user_keys.shape} and {item_keys.shape}")
        at = self.items.positions(item_keys)
        return np.where(at >= 0, self.score[np.maximum(at, 0)], np.nan).astype(np.float32)

    def save(self, folder: Path) -> None:
        arrays = {"item_keys": self.items.keys, "score": self.score}
        save_model(
            folder, self, self.cut_at, arrays | {"available": self.available, "category_keys": self.category_key}
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        params, cut_at, arrays = load_model(folder, cls.name)
        model = cls(**params)
        keys = arrays["item_keys"]
        unknown = np.full(len(keys), -1, dtype=np.int32)
        catalogue = Catalogue(
            keys, arrays["available"], arrays["category_keys"], unknown, np.zeros(len(keys), dtype=np.int64)
        )
        model._set(cut_at, keys, arrays["score"], catalogue)
        return model


def heaviest_of_a_day(history: Interactions) -> Interactions:
    """Of each user's events on an item in a day (UTC) the heaviest, of equal ones the last."""
    day = history.occurred_at // MICROSECONDS_PER_DAY
    pair = history.pairs
    heaviest_first = np.lexsort((history.weight, day, pair))[::-1]  # stable: the later of equal weights comes first
    starts, _ = runs(pair[heaviest_first], day[heaviest_first])
    return history if len(starts) == len(history) else history.take(np.sort(heaviest_first[starts]))


def _first_free(free: NDArray[np.bool_], pool: Positions, score: Scores, n: int) -> Best:
    """The first `n` of `pool` (m,) that are free in each row of `free` (rows, m)."""
    rank = np.cumsum(free, axis=1) - 1
    row, column = np.nonzero(free & (rank < n))
    positions = np.full((len(free), n), -1, dtype=np.int64)
    scores = np.full((len(free), n), np.nan, dtype=np.float32)
    positions[row, rank[row, column]] = pool[column]
    scores[row, rank[row, column]] = score[pool[column]]
    return positions, scores
