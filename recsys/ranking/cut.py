"""The inputs of the two stages as of a cutoff: history, catalogue, fitted generators, features, masked items.

How a generator is fitted is an argument: the nightly steps load it from its artifact, the evaluation fits it in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from recsys.data.dataset import Dataset, DatasetMeta
from recsys.evaluation.protocol import seen_items
from recsys.features.frame import CATEGORICAL, Features
from recsys.ranking.affinity import OwnItems
from recsys.ranking.two_stage import Stage
from recsys.types import CandidateGenerator, Catalogue, Interactions, Keys, Task

Fitted = Callable[[str, Interactions, Catalogue], CandidateGenerator]  # name, history, catalogue → fitted generator
Mask = Callable[[Keys], Any | None]  # user keys → the argument `seen` of `candidates`


class Cut:
    """All inputs before one instant; features are computed lazily."""

    def __init__(
        self,
        data: Dataset,
        interactions: Interactions,
        at: int,
        names: Sequence[str],
        fitted: Fitted,
        *,
        learned_at: int | None = None,
    ) -> None:
        """`interactions` of the data set, generators `names` as returned by `fitted`; `at` in microseconds.

        `learned_at`: an instant not after `at`. What is learned, generators and features of items, is of then, and only
        what is known of each user is as of `at`: the answers of models that are older than their users' last events.
        """
        self.at, self._data, self._learned_at = at, data, at if learned_at is None else learned_at
        self.history, self.catalogue = interactions.before(at), data.catalogue(at)
        learned = interactions.before(self._learned_at)
        self.fitted = {name: fitted(name, learned, self.catalogue) for name in names}
        is_older = self._learned_at < at
        self.generators = {
            name: generator.with_histories(self.history) if is_older else generator
            for name, generator in self.fitted.items()
        }

    @cached_property
    def features(self) -> Features:
        return Features(self._data, self.at, items_at=self._learned_at)

    @cached_property
    def own_items(self) -> OwnItems:
        return OwnItems.of(self.history)

    def mask(self, task: Task) -> Mask:
        """The items to mask per user, for a task."""
        return mask_of(self.history, self.catalogue, self._data.meta, task)

    def stage(self, task: Task, names: Sequence[str] | None = None) -> Stage:
        """The candidate stage of a task, with the generators `names`, or all."""
        generators = [self.generators[name] for name in names or self.generators]
        return Stage(generators, self.features, self.mask(task), leave_out=CATEGORICAL, own=self.own_items)


def mask_of(history: Interactions, catalogue: Catalogue, meta: DatasetMeta, task: Task) -> Mask:
    """Masks what users bought in `history`; nothing for a task that may show it again."""
    if task is Task.ALL:
        return lambda user_keys: None
    bought = history.of_types(meta.bought_event_types)
    width = max(int(history.item_key.max(initial=0)), int(catalogue.item_key.max(initial=0))) + 1
    return lambda user_keys: seen_items(bought, user_keys, width)
