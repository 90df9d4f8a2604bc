"""The search: Optuna proposes, every proposal is measured on several data sets, and the best by mean rank is chosen.

Data sets differ in how hard they are, so Optuna gets the mean over the sets of the relative difference to the defaults,
and the choice is by the mean of the ranks, which no single set can decide by a large difference of its own (Demšar,
"Statistical Comparisons of Classifiers over Multiple Data Sets", 2006).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

from recsys.errors import InputError, ModelError, NothingToDoError, RecsysError
from recsys.evaluation.bootstrap import Floats
from recsys.evaluation.comparison import PerUser
from recsys.steps.tuning.space import Space, suggested

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Figures:
    """What one configuration reaches on one data set."""

    ndcg: PerUser  # NDCG@10
    recall: float | None = None  # at 100, of a generator's candidates

    @property
    def mean(self) -> float:
        return float(self.ndcg.values.mean())


@dataclass(frozen=True)
class Tried:
    """A configuration that was measured on all sets."""

    params: Mapping[str, Any]
    by_set: Mapping[str, Figures]
    seconds: float


@dataclass
class Search:
    """All configurations that were measured, the defaults first."""

    tried: list[Tried] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # data set → why nothing was measured on it
    n_failed: int = 0
    why_ended: str = ""

    @property
    def defaults(self) -> Tried:
        return self.tried[0]

    @property
    def gains(self) -> Floats:
        """Mean over the sets of the relative difference to the defaults, (n_tried,)."""
        return np.array([gain(one, self.defaults) for one in self.tried])

    @property
    def ranks(self) -> Floats:
        """Mean over the sets of each configuration's rank, 1 for the best, (n_tried,)."""
        means = np.array([[figures.mean for figures in one.by_set.values()] for one in self.tried])
        ranks: Floats = rankdata(-means, axis=0).mean(axis=1)
        return ranks

    @property
    def best(self) -> Tried:
        """By mean rank; of equal ones that of the greater gain, then the earlier."""
        return self.tried[int(np.lexsort((-self.gains, self.ranks))[0])]


def gain(one: Tried, defaults: Tried) -> float:
    """Mean over the sets of the relative difference to the defaults; where these find nothing, 0 or 1."""
    found = []
    for name, figures in one.by_set.items():
        before = defaults.by_set[name].mean
        found.append(figures.mean / before - 1 if before > 0 else float(figures.mean > 0))
    return float(np.mean(found))


Measure = Callable[[str, Mapping[str, Any]], Figures]  # data set, hyper-parameters
OnTried = Callable[[int, Tried, float], None]  # its number, 0 for the defaults; its gain


@dataclass(frozen=True)
class Budget:
    """`minutes` from `started`, in seconds of `clock`, and the most configurations, the defaults included."""

    minutes: float
    trials: int
    started: float
    clock: Callable[[], float] = time.monotonic

    @property
    def left_s(self) -> float:
        return self.started + 60 * self.minutes - self.clock()


class _OutOfTimeError(Exception):
    pass


def search(
    sets: Sequence[str],
    measure: Measure,
    space: Space,
    defaults: Mapping[str, Any],
    budget: Budget,
    *,
    seed: int,
    on_tried: OnTried = lambda number, tried, gain: None,
) -> Search:
    """Measure the defaults, then what Optuna proposes, until the budget is spent.

    The time is looked at before each data set; no configuration begins when less is left than the fastest took. Raises
    NothingToDoError where nothing can be measured, InputError where the time does not suffice for the defaults.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(dict(defaults))
    found = Search()
    names = list(sets)
    while not found.why_ended:
        trial = study.ask()
        params = suggested(trial, space)
        begin = budget.clock()
        try:
            by_set = _measured(names, measure, params, budget, found)
        except _OutOfTimeError:
            found.why_ended = "the time is up"
        except (ModelError, InputError) as error:
            found.n_failed += 1
            logger.warning("%s: %s", params, error)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            names = list(by_set)
            found.tried.append(Tried(params, by_set, budget.clock() - begin))
            value = gain(found.tried[-1], found.defaults)
            study.tell(trial, value)
            on_tried(len(found.tried) - 1, found.tried[-1], value)
        found.why_ended = found.why_ended or _why_end(found, budget)
    if not found.tried:
        raise InputError(f"{budget.minutes:g} minutes are too few to measure the defaults; give more by --minutes")
    return found


def _measured(
    names: Sequence[str], measure: Measure, params: Mapping[str, Any], budget: Budget, found: Search
) -> dict[str, Figures]:
    """By set. A set on which the defaults cannot be measured is left out from then on."""
    by_set: dict[str, Figures] = {}
    for name in names:
        if budget.left_s <= 0:
            raise _OutOfTimeError
        try:
            by_set[name] = measure(name, params)
        except RecsysError as error:
            if found.tried:
                raise ModelError(f"on {name}: {error}") from error
            found.left_out[name] = str(error)
            logger.warning("%s is left out: %s", name, error)
    if not by_set:
        reasons = "; ".join(f"{name}: {why}" for name, why in found.left_out.items())
        raise NothingToDoError(f"the defaults can be measured on none of the data sets: {reasons}")
    return by_set


def _why_end(found: Search, budget: Budget) -> str:
    if len(found.tried) + found.n_failed >= budget.trials:
        return "all trials are done"
    if budget.left_s < min((one.seconds for one in found.tried), default=0.0) or budget.left_s <= 0:
        return "the time is up"
    return ""
