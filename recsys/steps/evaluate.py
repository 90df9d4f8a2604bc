"""Evaluate popularity, each generator alone and the two stages on past label windows: protocol B4.

The cutoffs are one label window apart, as are the ranker's training windows: the generators fitted at a cutoff are
evaluated there and train the rankers of the later ones. One cutoff's models are in memory at a time.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recsys.candidates import registry
from recsys.data.dataset import Dataset
from recsys.errors import InputError
from recsys.evaluation import report, segments
from recsys.evaluation.metrics import Labels, n_users_by_item, pool_recall
from recsys.evaluation.protocol import Window, labels_of, windows
from recsys.evaluation.report import Ground, Measured, Row
from recsys.ranking.cut import Cut
from recsys.ranking.ranker import RankerParams
from recsys.ranking.two_stage import Stage, WindowExamples, rank, train_on, window_examples
from recsys.steps.context import Context, step
from recsys.steps.stages import OWN_ITEMS, usable_generators
from recsys.types import NO_ITEM, CandidateGenerator, Catalogue, Interactions, Task

logger = logging.getLogger(__name__)

TWO_STAGE = "two-stage"
LIST_LENGTH = 10


@dataclass(frozen=True)
class Plan:
    """Configuration of an evaluation."""

    generators: Sequence[str]
    generator_params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ranker: RankerParams = field(default_factory=RankerParams)
    cuts: int = 4
    days: float = 14
    training_windows: int = 4
    tasks: Sequence[Task] = tuple(Task)
    seed: int = 42


@step
def run(
    dataset: str | None = None,
    cuts: int = 4,
    days: float = 14,
    out: Path | str | None = None,
    *,
    ctx: Context | None = None,
) -> dict[str, Any]:
    """Print the tables, log them to MLflow, and write `report.json` and `report.csv` into `out` if given.

    `dataset`: a reference, the newest when None. Raises InputError when the data span too little time for the cuts.
    """
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    plan = Plan(
        generators=usable_generators(ctx, data.interactions(), Task.DISCOVERY),
        generator_params=ctx.settings.generator_params,
        ranker=RankerParams(**({"seed": ctx.settings.seed} | ctx.settings.ranker_params)),
        cuts=cuts,
        days=days,
        training_windows=ctx.settings.n_label_windows,
        seed=ctx.settings.seed,
    )
    started = time.monotonic()
    with ctx.tracker.run("evaluate", f"B4 {data.meta.as_of_at:%Y-%m-%d}", params=asdict(plan)) as log:
        rows, rankers = measure(data, plan)
        cost = {"seconds": time.monotonic() - started, "peak_memory_mib": peak_memory_mib()}
        above = report.beaten_everywhere(rows, TWO_STAGE)
        report.show(rows)
        means = [row for row in rows if row["cut"] == report.MEAN]
        log.tag("dataset", ref)
        log.table("rows", rows)
        log.metrics({_name(row): row[report.HEADLINE] for row in means} | cost)
    if out is not None:
        facts = {"dataset": ref, **cost, "above_every_single_stage": above, "rankers": rankers}
        report.write(rows, Path(out), facts)
    logger.info("%.0f s, peak memory %.0f MiB, two-stage above every row in each cut: %s", *cost.values(), above)
    headline = {_name(row): round(row[report.HEADLINE], 4) for row in means if row["segment"] == report.ALL}
    return {"dataset": ref, **headline}


def measure(data: Dataset, plan: Plan) -> tuple[list[Row], list[dict[str, Any]]]:
    """The rows of the report, and each ranker's training report (one per task and cut)."""
    interactions = data.interactions()
    measured_windows = windows(interactions.cut_at, n=plan.cuts, days=plan.days)
    first_at = int(interactions.occurred_at[0])
    whole = windows(interactions.cut_at, n=plan.cuts + plan.training_windows, days=plan.days)
    usable = [window for window in whole if window.cut_at > first_at]
    if len(usable) <= plan.cuts:
        raise InputError(
            f"the events span too little time for {plan.cuts} cuts of {plan.days:g} days and a training window"
            " before them; ask for fewer (--cuts) or shorter ones (--days)"
        )
    examples: dict[Task, list[WindowExamples]] = {task: [] for task in plan.tasks}
    results: list[Measured] = []
    rankers: list[dict[str, Any]] = []
    earlier: dict[str, CandidateGenerator] = {}
    for number, window in enumerate(usable):
        started = time.monotonic()
        at_cut = _AtCut(data, interactions, window, plan, earlier)
        earlier = at_cut.cut.generators
        what = "measured" if window in measured_windows else "trained on"
        seconds = time.monotonic() - started
        logger.info(
            "window %d of %d, from %s, %s: generators and features in %.0f s",
            number + 1, len(usable), report.day(window.cut_at), what, seconds,
        )  # fmt: skip
        for task in plan.tasks:
            labels = labels_of(interactions, window, data.meta, task)
            if window in measured_windows:
                found, training = at_cut.measure(task, labels, examples[task])
                results += found
                rankers.append(training)
                means = {one.source: round(float(one.values[report.HEADLINE].mean()), 4) for one in found}
                logger.info("%s, %s, %s: %s", report.day(window.cut_at), task, report.HEADLINE, means)
            if window is not usable[-1]:
                stage = at_cut.stage(task)
                rows = plan.ranker.max_rows // plan.training_windows
                examples[task].append(window_examples(stage, labels, plan.ranker, max_rows=rows))
                del examples[task][: -plan.training_windows]
    return report.rows_of(results, seed=plan.seed), rankers


class _Fits:
    """Fits generators, with a warm start from the earlier cut where possible, and measures the seconds of each."""

    def __init__(self, plan: Plan, earlier: Mapping[str, CandidateGenerator]) -> None:
        self._plan, self._earlier = plan, earlier
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, history: Interactions, catalogue: Catalogue) -> CandidateGenerator:
        started = time.monotonic()
        generator = registry.make(name, self._plan.generator_params.get(name, {}))
        warm_start = {"start_from": self._earlier[name]} if name in self._earlier and registry.continues(name) else {}
        fitted = generator.fit(history, catalogue, **warm_start)
        self.seconds[name] = time.monotonic() - started
        return fitted


class _AtCut:
    """The evaluation at one cut."""

    def __init__(
        self,
        data: Dataset,
        interactions: Interactions,
        window: Window,
        plan: Plan,
        earlier: Mapping[str, CandidateGenerator],
    ) -> None:
        self.window, self.plan = window, plan
        fits = _Fits(plan, earlier)
        names = dict.fromkeys([*plan.generators, *([OWN_ITEMS] if Task.ALL in plan.tasks else [])])
        self.cut = Cut(data, interactions, window.cut_at, list(names), fits)
        started = time.monotonic()
        _ = self.cut.features
        self.seconds = fits.seconds | {TWO_STAGE: time.monotonic() - started}

    def stage(self, task: Task) -> Stage:
        """The candidate stage of a task: a user's own items are proposed where they count, else masked."""
        return self.cut.stage(task, None if task is Task.ALL else self.plan.generators)

    def measure(
        self, task: Task, labels: Labels, examples: Sequence[WindowExamples]
    ) -> tuple[list[Measured], dict[str, Any]]:
        """Evaluate every generator alone, and the two stages trained on the windows before."""
        stage, users = self.stage(task), labels.user_key
        ground = self._ground(task, labels)
        results = []
        for generator in stage.generators:
            started = time.monotonic()
            lists = generator.candidates(users, LIST_LENGTH, seen=stage.seen(users)).item_key
            seconds = time.monotonic() - started + self.seconds[generator.name]
            results.append(Measured(ground, generator.name, lists, seconds))
        started = time.monotonic()
        ranker = train_on(examples, self.plan.ranker)
        lists = rank(ranker, stage, users, LIST_LENGTH).item_key
        seconds = time.monotonic() - started + sum(self.seconds.values())
        results.append(Measured(ground, TWO_STAGE, lists, seconds, self._pool_recall(stage, labels)))
        training = {"task": str(task), "cut": report.day(self.window.cut_at), **ranker.report}
        return results, training

    def _ground(self, task: Task, labels: Labels) -> Ground:
        history, catalogue = self.cut.history, self.cut.catalogue
        return Ground(
            task=str(task),
            cut_at=self.window.cut_at,
            labels=labels,
            segments=segments.activity(history, labels.user_key),
            n_users_by_item=n_users_by_item(history, int(catalogue.item_key.max()) + 1),
            n_users=len(np.unique(history.user_key)),
            n_items=len(catalogue),
        )

    def _pool_recall(self, stage: Stage, labels: Labels) -> np.ndarray[Any, Any]:
        found = np.zeros(len(labels))
        for part, pool in stage.pools(labels.user_key):
            found[part] = pool_recall(pool.padded(pool.item_key, NO_ITEM), labels.of_users(labels.user_key[part]))
        return found


def _name(row: Row) -> str:
    return f"{row['task']}.{row['system']}.{row['segment']}".replace(" ", "_")


def peak_memory_mib() -> float:
    """Peak resident memory of this process, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20
