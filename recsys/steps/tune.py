"""Search better hyper-parameters of a candidate generator or of the ranker, on validation parts of several data sets.

The test parts of the benchmarks and the label windows that `recsys evaluate` measures are cut off first; nothing here
sees them. What is found is chosen on the users that it is shown for, so its gain is a little too high: the benchmarks
and `recsys evaluate` say what it is worth.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from recsys import settings as settings_module
from recsys.errors import InputError
from recsys.evaluation import plots
from recsys.evaluation.bootstrap import interval
from recsys.settings import Settings
from recsys.steps import recipe
from recsys.steps.benchmarks.result import Result, commit, show
from recsys.steps.tuning import generators, ranker
from recsys.steps.tuning.ranker import Prepared
from recsys.steps.tuning.search import Budget, Figures, Measure, Search, Tried, gain, search
from recsys.steps.tuning.sets import TuningSet, WindowedSet
from recsys.steps.tuning.sources import sets_of
from recsys.steps.tuning.space import RANKER, defaults_of, space_of
from recsys.tracking import Run, Tracker

logger = logging.getLogger(__name__)

SHOWN = 10  # configurations in the table


@dataclass(frozen=True)
class Tuned:
    """What was found, and the line of settings to paste; None where nothing is above the defaults."""

    result: Result
    search: Search
    line: str | None


def run(
    name: str,
    *,
    data: Mapping[str, str] | None = None,
    dataset: str | None = None,
    minutes: float = 60,
    trials: int = 100,
    console: Console | None = None,
) -> Tuned:
    """Search, log to MLflow and print; `data`: files by name, `dataset`: one's own, the newest when None.
    `minutes` are those of the search, once the data sets are read.

    Raises InputError for an unknown name, without any data, and where the budget does not suffice for the defaults.
    """
    space, defaults, loaded = space_of(name), defaults_of(name), settings_module.load()
    recipe.check(loaded)
    tracker = Tracker(loaded.mlflow_tracking_uri, f"{loaded.artifact_root}/mlflow")
    with tempfile.TemporaryDirectory(prefix="recsys-tune-") as folder:
        sets = sets_of(loaded, data or {}, dataset, Path(folder))
        params = {"name": name, "minutes": minutes, "trials": trials, "sets": ", ".join(one.name for one in sets)}
        with tracker.run("tune", name, params=params | {"seed": loaded.seed}, tags={"commit": commit()}) as log:
            found = search(
                [one.name for one in sets],
                measure_of(name, sets, loaded),
                space,
                defaults,
                Budget(minutes, trials, time.monotonic()),
                seed=loaded.seed,
                on_tried=_Progress(log),
            )
            tuned = Tuned(result_of(name, found, loaded.seed), found, line_of(name, found, loaded))
            _log(log, tuned)
    show(tuned.result, console)
    _say(tuned, name, console or Console())
    return tuned


def measure_of(name: str, sets: Sequence[TuningSet], loaded: Settings) -> Measure:
    """The function that measures a configuration on the set of a name."""
    by_name = {one.name: one for one in sets}
    prepared: dict[str, Prepared] = {}

    def of_ranker(of_set: str, params: Mapping[str, Any]) -> Figures:
        one = by_name[of_set]
        if not isinstance(one, WindowedSet):
            raise InputError("sessions have no label windows, which the ranker learns from")
        if of_set not in prepared:
            prepared[of_set] = ranker.prepare(one, loaded)
        return prepared[of_set].measure(ranker.params_of(loaded, params))

    def of_generator(of_set: str, params: Mapping[str, Any]) -> Figures:
        return generators.measure(by_name[of_set], name, {**loaded.generator_params.get(name, {}), **params})

    return of_ranker if name == RANKER else of_generator


@dataclass
class _Progress:
    """Logs each configuration, and to MLflow as a step."""

    log: Run

    def __call__(self, number: int, tried: Tried, gained: float) -> None:
        means = {name: round(figures.mean, 4) for name, figures in tried.by_set.items()}
        what = "defaults" if number == 0 else f"trial {number}: {gained:+.1%}"
        logger.info("%s, NDCG@10 %s, %.0f s, %s", what, means, tried.seconds, dict(tried.params))
        self.log.metrics({"gain": gained, **{f"ndcg.{name}": mean for name, mean in means.items()}}, step=number)


def result_of(name: str, found: Search, seed: int) -> Result:
    """Tables: the best beside the defaults on each set, then the best configurations by mean rank."""
    result = Result(
        f"Tuning of {name}", f"{len(found.tried)} configurations on {len(found.defaults.by_set)} data sets."
    )
    best = found.best
    result.tables = {
        "The best configuration and the defaults, NDCG@10 on validation": [
            _beside(of_set, figures, best.by_set[of_set], seed) for of_set, figures in found.defaults.by_set.items()
        ],
        "Configurations by mean rank": trials_of(found)[:SHOWN],
    }
    if found.left_out:
        left_out = [{"data set": one, "why": why} for one, why in found.left_out.items()]
        result.tables["Data sets that are left out"] = left_out
    gains = found.gains.tolist()
    curves = {"trial": gains, "best so far": np.maximum.accumulate(gains).tolist()}
    result.figures["gain"] = plots.learning_curve(
        curves, y_label="mean relative difference to the defaults", x_label="configuration", title="Search"
    )
    result.metrics = {"best.gain": gain(best, found.defaults), "n_tried": len(found.tried), "n_failed": found.n_failed}
    return result


def _beside(of_set: str, before: Figures, after: Figures, seed: int) -> dict[str, Any]:
    difference = after.ndcg.values - before.ndcg.values
    low, high = interval(difference, seed=seed)
    row: dict[str, Any] = {"data set": of_set, "users": len(difference), "defaults": before.mean, "best": after.mean}
    row |= {"difference": float(difference.mean()), "95 % from": low, "to": high}
    return row | {"recall@100 defaults": before.recall, "recall@100 best": after.recall}


def trials_of(found: Search) -> list[dict[str, Any]]:
    """A row for each configuration, the best mean rank first."""
    rows = []
    for number, (one, rank, gained) in enumerate(zip(found.tried, found.ranks, found.gains, strict=True)):
        means = {of_set: figures.mean for of_set, figures in one.by_set.items()}
        row = {"trial": number or "defaults", "mean rank": float(rank), "gain": float(gained), **means}
        rows.append(row | {"seconds": round(one.seconds, 1), "parameters": json.dumps(dict(one.params))})
    return sorted(rows, key=lambda row: (row["mean rank"], -row["gain"]))


def line_of(name: str, found: Search, loaded: Settings) -> str | None:
    """The variable that makes what was measured: of the parameters that are searched the best values, where they are
    not the defaults, of others those that are set. None where the defaults are best."""
    best, defaults = found.best.params, found.defaults.params
    if found.best is found.defaults:
        return None
    in_force = loaded.ranker_params if name == RANKER else loaded.generator_params.get(name, {})
    own = {key: value for key, value in in_force.items() if key not in best}
    own |= {key: value for key, value in best.items() if value != defaults[key]}
    if name == RANKER:
        return f"RECSYS_RANKER_PARAMS={json.dumps(own)}"
    return f"RECSYS_GENERATOR_PARAMS={json.dumps({**loaded.generator_params, name: own})}"


def _log(log: Run, tuned: Tuned) -> None:
    """The trials, the comparison, the plot and the line."""
    log.table("trials", trials_of(tuned.search))
    log.table("best_and_defaults", next(iter(tuned.result.tables.values())))
    log.metrics(tuned.result.metrics)
    for heading, figure in tuned.result.figures.items():
        log.figure(heading, figure)
    log.text("settings.txt", tuned.line or "the defaults")
    log.tag("why_ended", tuned.search.why_ended)


def _say(tuned: Tuned, name: str, console: Console) -> None:
    found = tuned.search
    ended = f"Ended because {found.why_ended}; {found.n_failed} configurations failed."
    console.print(ended, highlight=False)
    if tuned.line is None:
        console.print(f"No configuration of {name} has a better mean rank than the defaults.", highlight=False)
        return
    rows = next(iter(tuned.result.tables.values()))
    if not any(row["95 % from"] > 0 for row in rows):
        console.print(
            "No difference is shown: every interval reaches 0 or below. Keep the defaults, or search longer or on more"
            " data. The best line so far:",
            highlight=False,
        )
    else:
        console.print("Chosen on these users: the differences are a little too high. For .env:", highlight=False)
    console.file.write(f"{tuned.line}\n")  # in one line, however long
