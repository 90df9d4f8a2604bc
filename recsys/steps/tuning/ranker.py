"""What one configuration of the ranker reaches on the validation window of a data set.

Generators, features and pools are made once for a data set: only the training of CatBoost is repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from recsys.candidates import registry
from recsys.candidates.registry import NETWORKS
from recsys.errors import InputError
from recsys.evaluation import report
from recsys.evaluation.comparison import PerUser
from recsys.evaluation.metrics import Labels, accuracy
from recsys.evaluation.protocol import Window, labels_of
from recsys.ranking.cut import Cut
from recsys.ranking.frame import Frame
from recsys.ranking.pool import Pool
from recsys.ranking.ranker import RankerParams
from recsys.ranking.two_stage import USERS_PER_CHUNK, Stage, WindowExamples, rank, train_on, window_examples
from recsys.settings import Settings
from recsys.steps.recipe import ranker_params
from recsys.steps.stages import usable
from recsys.steps.tuning.search import Figures
from recsys.steps.tuning.sets import WindowedSet, some_users
from recsys.steps.tuning.space import RANKER, SPACES
from recsys.types import CandidateGenerator, Catalogue, Interactions, Keys, Task

logger = logging.getLogger(__name__)

LIST_LENGTH = 10
MOST_RANKED = 1_500  # users of the validation window, whose pools are kept in memory
MOST_ROWS = 200_000  # training rows of all windows
MOST_NEGATIVES = int(SPACES[RANKER]["max_negatives"].high)  # type: ignore[union-attr]
FASTER: dict[str, Any] = {"n_models": 1, "max_rows": MOST_ROWS}  # the average of several models costs as much again


@dataclass(frozen=True)
class KeptStage(Stage):
    """A stage whose pools and features were made before, for some users."""

    kept: Sequence[tuple[slice, Pool, Frame]] = ()

    @classmethod
    def of(cls, stage: Stage, user_keys: Keys) -> KeptStage:
        made = [(part, pool, stage.frame(pool)) for part, pool in stage.pools(user_keys)]
        inherited = {one.name: getattr(stage, one.name) for one in fields(Stage)}
        return cls(**inherited, kept=made)

    def pools(self, user_keys: Keys, chunk: int = USERS_PER_CHUNK) -> Iterator[tuple[slice, Pool]]:
        """Those that were made; `user_keys` are the users that they were made for."""
        for part, pool, _ in self.kept:
            yield part, pool

    def frame(self, pool: Pool) -> Frame:
        return next(frame for _, known, frame in self.kept if known is pool)


@dataclass(frozen=True)
class Prepared:
    """All of a data set but the ranker."""

    examples: Sequence[WindowExamples]  # of the windows before, oldest first, with the most negatives that are searched
    stage: KeptStage
    labels: Labels  # of the last window

    def measure(self, params: RankerParams) -> Figures:
        """Train on the windows before the last, and rank the candidates in the last."""
        windows = [_thinned(one, params) for one in self.examples]
        ranker = train_on(windows, params)
        lists = rank(ranker, self.stage, self.labels.user_key, LIST_LENGTH).item_key
        return Figures(PerUser(self.labels.user_key, accuracy(lists, self.labels)[report.HEADLINE]))


def _thinned(window: WindowExamples, params: RankerParams) -> WindowExamples:
    if window.training is None:
        return window
    return replace(window, training=window.training.thinned(params.max_negatives, params.seed))


def params_of(loaded: Settings, params: Mapping[str, Any]) -> RankerParams:
    """The settings' parameters with those of a trial, and fewer models and rows, so that a trial takes a minute."""
    return ranker_params(loaded, FASTER | dict(params))


def prepare(data: WindowedSet, loaded: Settings) -> Prepared:
    """Fit the settings' generators, but for the networks, before each window; candidates and features of the last.

    Raises TooFewLabelsError where no window is left to train on.
    """
    windows = data.windows(loaded.n_label_windows + 1)
    if len(windows) < 2:
        raise InputError(f"{data.name} has one label window alone before its test part; a ranker needs two")
    params = replace(params_of(loaded, {}), max_negatives=MOST_NEGATIVES)
    task = Task.DISCOVERY
    examples: list[WindowExamples] = []
    for window in windows[:-1]:
        labels = labels_of(data.interactions, window, data.data.meta, task)
        stage = _stage(data, window, loaded)
        examples.append(window_examples(stage, labels, params, max_rows=MOST_ROWS // (len(windows) - 1)))
    labels = some_users(labels_of(data.interactions, windows[-1], data.data.meta, task), MOST_RANKED, data.seed)
    return Prepared(examples, KeptStage.of(_stage(data, windows[-1], loaded), labels.user_key), labels)


def _stage(data: WindowedSet, window: Window, loaded: Settings) -> Stage:
    def fitted(name: str, history: Interactions, catalogue: Catalogue) -> CandidateGenerator:
        return registry.make(name, loaded.generator_params.get(name, {})).fit(history, catalogue)

    logger.info("%s: generators and features of a window", data.name)
    names = usable(
        [name for name in loaded.generators if name not in NETWORKS],
        loaded.generator_params,
        len(np.unique(data.interactions.item_key)),
    )
    return Cut(data.data, data.interactions, window.cut_at, names, fitted).stage(Task.DISCOVERY)
