"""The data sets of a tuning, each without its test part: that is cut off before anything else sees the set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.data import sequences
from recsys.data.dataset import Dataset
from recsys.data.sequences import END_AT, SequenceTable
from recsys.errors import TooFewLabelsError
from recsys.evaluation.metrics import Labels
from recsys.evaluation.protocol import Window, labels_of, seen_items, windows
from recsys.ranking.cut import Mask, mask_of
from recsys.steps.benchmarks.next_item import PLACE_DAYS
from recsys.steps.benchmarks.sessions import PER_DAY, Clicks, Split
from recsys.types import Catalogue, Interactions, Task

N_TEST_CUTS = 4  # as `recsys evaluate` and B4 have them; all before them may be tuned on
N_WINDOWS = 3  # of a shop, before the test
MOST_USERS = 10_000  # measured of a part, drawn at random
SESSION_DAYS = 7  # the last ones of the training sessions validate


@dataclass(frozen=True)
class Part:
    """One split: everything is learned from `history`, and ended for the users of `labels`."""

    history: Interactions
    catalogue: Catalogue
    labels: Labels
    mask: Mask  # items that are not proposed
    inputs: Interactions | None = None  # what is known of the users, where that is not their part of `history`


class TuningSet(Protocol):
    """A data set to validate on."""

    @property
    def name(self) -> str: ...

    def parts(self, task: Task) -> Sequence[Part]:
        """The splits, made once."""
        ...


@dataclass
class WindowedSet:
    """A prepared data set with label windows, all of them before `until`: what comes after is never looked at."""

    name: str
    data: Dataset
    until: int  # microseconds
    days: float  # of a window
    n_windows: int
    seed: int
    _parts: dict[Task, list[Part]] = field(default_factory=dict)

    @cached_property
    def interactions(self) -> Interactions:
        return self.data.interactions(self.until)

    def windows(self, n: int) -> list[Window]:
        """The last `n` windows with something to learn from before them, oldest first; TooFewLabelsError."""
        first_at = int(self.interactions.occurred_at[0])
        found = [one for one in windows(self.until, n=n, days=self.days) if one.cut_at > first_at]
        if not found:
            raise TooFewLabelsError(f"{self.name} has no label window of {self.days:g} days before its test part")
        return found

    def parts(self, task: Task) -> Sequence[Part]:
        if task not in self._parts:
            self._parts[task] = [self._part(window, task) for window in self.windows(self.n_windows)]
        return self._parts[task]

    def _part(self, window: Window, task: Task) -> Part:
        events, meta = self.interactions, self.data.meta
        history, catalogue = events.before(window.cut_at), self.data.catalogue(window.cut_at)
        labels = some_users(labels_of(events, window, meta, task), MOST_USERS, self.seed)
        return Part(history, catalogue, labels, mask_of(history, catalogue, meta, task))


def shop(name: str, data: Dataset, days: float, seed: int) -> WindowedSet:
    """A shop up to the first of the four cuts that measure it, or, where it is too short, up to its newest window.

    Raises TooFewLabelsError where it is too short for that, too: a window and as much again before it are needed.
    """
    first_at = int(data.interactions().occurred_at[0])
    for n_cuts in (N_TEST_CUTS, 1):
        test = windows(data.meta.as_of, n=n_cuts, days=days)[0].cut_at
        fits = [one for one in windows(test, n=N_WINDOWS, days=days) if 2 * one.cut_at - one.end_at >= first_at]
        if fits:
            return WindowedSet(name, data, test, days, len(fits), seed)
    raise TooFewLabelsError(
        f"{name} spans too little time: a label window of {days:g} days, one to validate on, one before"
    )


def last_items(name: str, table: SequenceTable, folder: Path, seed: int) -> WindowedSet:
    """Sequences without everybody's last item, which tests; the one before it validates. `folder` is made."""
    kept = table.place > 0
    shorter = SequenceTable(table.user[kept], table.item[kept], table.user_ids, table.item_ids)
    if not kept.any() or int(shorter.place.max()) < 1:
        raise TooFewLabelsError(
            f"{name} has no sequence of three items: one to test, one to validate, one to learn from"
        )
    folder.mkdir(parents=True)
    return WindowedSet(name, sequences.dataset(shorter, folder), END_AT, PLACE_DAYS, 1, seed)


@dataclass
class SessionSet:
    """Training sessions; those of the last days validate by their last click, the test file is not read."""

    name: str
    learned: Sequence[Clicks]
    validating: Sequence[Clicks]
    seed: int
    _parts: dict[Task, list[Part]] = field(default_factory=dict)

    def parts(self, task: Task) -> Sequence[Part]:
        if task not in self._parts:
            self._parts[task] = [self._part(task)]
        return self._parts[task]

    def _part(self, task: Task) -> Part:
        """As a shop shows it, in discovery: the last click is new, and the clicks before it are masked."""
        ended = [one for one in self.validating if len(one) > 1 and (task is Task.ALL or one[-1] not in one[:-1])]
        if not ended:
            raise TooFewLabelsError(f"{self.name} has no session that ends with a click on another item")
        split, inputs = _split(self.learned), _split([one[:-1] for one in ended]).events
        users = np.arange(len(ended))
        labels = Labels.from_pairs(users, np.array([one[-1] for one in ended]))
        mask = _mask(inputs, int(max(split.catalogue.item_key.max(), inputs.item_key.max())) + 1, task)
        return Part(split.events, split.catalogue, some_users(labels, MOST_USERS, self.seed), mask, inputs)


def sessions(name: str, training: Sequence[Clicks], seed: int) -> SessionSet:
    """Of training sessions, oldest first, at RetailRocket's rate; at most a fifth of them validates."""
    n = max(min(SESSION_DAYS * PER_DAY, len(training) // 5), 1)
    return SessionSet(name, training[:-n], training[-n:], seed)


def _split(training: Sequence[Clicks]) -> Split:
    return Split(training, [], np.zeros(0, dtype=np.int32), None)


def _mask(inputs: Interactions, width: int, task: Task) -> Mask:
    if task is Task.ALL:
        return lambda user_keys: None
    return lambda user_keys: seen_items(inputs, user_keys, width)


def some_users(labels: Labels, n: int, seed: int) -> Labels:
    """The labels of at most `n` users, drawn at random."""
    if len(labels) <= n:
        return labels
    chosen: NDArray[np.integer] = np.random.default_rng(seed).permutation(labels.user_key)[:n]
    return labels.of_users(chosen)
