"""What DeepFM trains on: observed pairs, each with sampled negatives, as arrays for one `fit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features.context import CONTEXT_SIZES, context_rows, owners_of_fields
from recsys.features.deepfm_fields import (
    CONTEXT,
    N_ACTIVITY,
    N_AGE,
    N_DAYS,
    N_HOURS,
    N_TREND,
    TIME,
    Floats,
    Histories,
    ItemTrends,
    Rows,
    Vocabulary,
    time_rows,
)
from recsys.keys import Positions, pairs_of, parts_of
from recsys.types import Catalogue, Interactions, Keys

_AGAINST_SHARE = 0.5  # of a user's rows, where they spoke against something
EXCLUDED = 1e4  # as log q: takes a candidate out of the softmax


@dataclass(frozen=True)
class Vocabularies:
    """The rows that keys have in the embeddings of one model."""

    user: Vocabulary
    item: Vocabulary
    category: Vocabulary
    parent_category: Vocabulary
    context_names: tuple[str, ...] = ()  # parameters that own a field

    @classmethod
    def of(cls, events: Interactions, catalogue: Catalogue, min_user_events: int, min_item_events: int) -> Vocabularies:
        return cls(
            Vocabulary.of_frequent(events.user_key, min_user_events),
            Vocabulary.of_frequent(events.item_key, min_item_events),
            Vocabulary.of_frequent(catalogue.category_key, 1),
            Vocabulary.of_frequent(catalogue.parent_category_key, 1),
            owners_of_fields(events.parameters),
        )

    @property
    def user_sizes(self) -> list[int]:
        """Of the user's fields: user, activity, day of the week, part of the day, and the context's."""
        return [self.user.size, N_ACTIVITY, N_DAYS, N_HOURS, *CONTEXT_SIZES]

    @property
    def item_sizes(self) -> list[int]:
        """Of the item's fields: item, category, parent category, short and long trend, age."""
        return [self.item.size, self.category.size, self.parent_category.size, N_TREND, N_TREND, N_AGE]


class Samples:
    """Draws training rows from the events before a cut. All items of the catalogue can be negatives."""

    def __init__(
        self,
        events: Interactions,
        catalogue: Catalogue,
        vocabularies: Vocabularies,
        *,
        history_length: int,
        history_half_life_days: float,
        n_negatives: int,
        uniform_share: float,
        mask_share: float,
        against: Interactions | None = None,
    ) -> None:
        """Every event's item must be in the catalogue. `mask_share`: how often an id is hidden in training; `against`:
        events that speak against their items, which become negatives of their users."""
        self.events, self.vocabularies = events, vocabularies
        self.n_negatives, self.mask_share = n_negatives, mask_share
        self.item = catalogue.positions(events.item_key)  # (n_events,)
        self.static_rows = np.stack(  # (n_items, 3)
            [
                vocabularies.item.rows(catalogue.item_key),
                vocabularies.category.rows(catalogue.category_key),
                vocabularies.parent_category.rows(catalogue.parent_category_key),
            ],
            axis=1,
        )
        self.context = context_rows(events.parameters, len(events), vocabularies.context_names)
        self.histories = Histories(events, self.static_rows[self.item, 0], history_length, history_half_life_days)
        self.trends = ItemTrends(events, catalogue, self.item)
        popularity = np.bincount(self.item, events.weight, minlength=len(catalogue)) ** 0.75
        self._against_user, self._against_item = _against(against, catalogue)
        self._q = uniform_share / len(catalogue) + (1 - uniform_share) * popularity / popularity.sum()

    def draw(
        self, probability: NDArray[np.float64], n: int, rng: np.random.Generator, *, masked: bool = True
    ) -> tuple[dict[str, Any], Floats]:
        """`n` events, drawn in proportion to `probability` (n_events,), with negatives, in random order.

        Gives the network's inputs and log q (n, 1 + n_negatives), as `SampledSoftmax` takes it; item 0 of each row
        is the observed one.
        """
        event = rng.permutation(systematic(probability, n, rng))
        n = len(event)
        at = self.events.occurred_at[event]
        negative = rng.permutation(systematic(self._q, n * self.n_negatives, rng)).reshape(n, self.n_negatives)
        self._put_against(negative, event, rng)
        candidate = np.concatenate([self.item[event][:, None], negative], axis=1)
        log_q = np.log(self._q[candidate] * len(self._q)).astype(np.float32)
        log_q[:, 1:][negative == candidate[:, :1]] = EXCLUDED

        history, weight, activity = self.histories.of_events(event, at)
        user = np.concatenate(
            [
                self.vocabularies.user.rows(self.events.user_key[event])[:, None],
                activity[:, None],
                time_rows(at),
                self.context[event],
            ],
            axis=1,
        )
        item = np.concatenate([self.static_rows[candidate], self.trends.of_candidates(candidate, at)], axis=2)
        if masked:
            user[rng.random(n) < self.mask_share, 0] = 0
            user[rng.random(n) < 0.5, TIME] = 0  # lists made at night know neither time nor context
            item[rng.random(candidate.shape) < self.mask_share, 0] = 0
            if self.events.parameters is not None:
                user[rng.random(n) < 0.5, CONTEXT] = 0
        return {"user": user, "history": history, "history_weight": weight, "item": item}, log_q

    def _put_against(self, negative: Positions, event: Positions, rng: np.random.Generator) -> None:
        """Where a user spoke against items, one of them stands in every second row in the place of a sampled one."""
        if not len(self._against_user):
            return
        user = self.events.user_key[event]
        first = np.searchsorted(self._against_user, user, side="left")
        n = np.searchsorted(self._against_user, user, side="right") - first
        rows = np.flatnonzero((n > 0) & (rng.random(len(event)) < _AGAINST_SHARE))
        if len(rows) and negative.shape[1]:
            negative[rows, -1] = self._against_item[first[rows] + rng.integers(n[rows])]

    def items_at_cut(self) -> Rows:
        """The item side's rows of the whole catalogue, (n_items, 6)."""
        return np.concatenate([self.static_rows, self.trends.at_cut()], axis=1)


def _against(events: Interactions | None, catalogue: Catalogue) -> tuple[Keys, NDArray[np.int32]]:
    """Users (ascending) and positions of the items that they spoke against, each pair once."""
    if events is None or not len(events):
        return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
    item = catalogue.positions(events.item_key)
    return parts_of(np.unique(pairs_of(events.user_key, item)[item >= 0]))


def systematic(weight: NDArray[Any], n: int, rng: np.random.Generator) -> Positions:
    """`n` positions in proportion to `weight`, each ⌊n·p⌋ or ⌈n·p⌉ times, ascending (systematic sampling)."""
    cumulative = np.cumsum(weight, dtype=np.float64)
    ticks = (np.arange(n) + rng.random()) * (cumulative[-1] / n)
    return np.minimum(np.searchsorted(cumulative, ticks, side="right"), len(cumulative) - 1)
