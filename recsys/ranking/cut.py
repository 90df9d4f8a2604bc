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
from recsys.ranking.two_stage import Stage
from recsys.types import CandidateGenerator, Catalogue, Interactions, Keys, Task

Fitted = Callable[[str, Interactions, Catalogue], CandidateGenerator]  # name, history, catalogue → fitted generator
Mask = Callable[[Keys], Any | None]  # user keys → the argument `seen` of `candidates`


class Cut:
    """All inputs before one instant; features are computed lazily."""

    def __init__(
        self, data: Dataset, interactions: Interactions, at: int, names: Sequence[str], fitted: Fitted
    ) -> None:
        """`interactions` of the data set, generators `names` as returned by `fitted`; `at` in microseconds."""
        self.at, self._data = at, data
        self.history, self.catalogue = interactions.before(at), data.catalogue(at)
        self.generators = {name: fitted(name, self.history, self.catalogue) for name in names}

    @cached_property
    def features(self) -> Features:
        return Features(self._data, self.at)

    def mask(self, task: Task) -> Mask:
        """The items to mask per user, for a task."""
        return mask_of(self.history, self.catalogue, self._data.meta, task)

    def stage(self, task: Task, names: Sequence[str] | None = None) -> Stage:
        """The candidate stage of a task, with the generators `names`, or all."""
        generators = [self.generators[name] for name in names or self.generators]
        return Stage(generators, self.features, self.mask(task), leave_out=CATEGORICAL)


def mask_of(history: Interactions, catalogue: Catalogue, meta: DatasetMeta, task: Task) -> Mask:
    """Masks what users bought in `history`; nothing for a task that may show it again."""
    if task is Task.ALL:
        return lambda user_keys: None
    bought = history.of_types(meta.bought_event_types)
    width = max(int(history.item_key.max(initial=0)), int(catalogue.item_key.max(initial=0))) + 1
    return lambda user_keys: seen_items(bought, user_keys, width)
