"""Evaluate popularity, each generator alone and the two stages on past label windows: protocol B4.

The cutoffs are one label window apart. The generators fitted at a cutoff are evaluated there, and train the rankers of
later ones. One cutoff's models are in memory at a time.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.candidates import registry
from recsys.data.dataset import Dataset
from recsys.errors import InputError
from recsys.evaluation import report, segments
from recsys.evaluation.metrics import Labels, n_users_by_item
from recsys.evaluation.pools import pool_report, recall_of_union
from recsys.evaluation.protocol import Window, labels_of, windows
from recsys.evaluation.report import Ground, Measured, Row
from recsys.ranking.cut import Cut
from recsys.ranking.ranker import RankerParams
from recsys.ranking.two_stage import CANDIDATES_PER_GENERATOR, Stage, WindowExamples, rank, train_on, window_examples
from recsys.steps.context import Context, step
from recsys.steps.stages import OWN_ITEMS, usable_generators
from recsys.types import MICROSECONDS_PER_DAY, CandidateGenerator, Catalogue, Interactions, Task

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
    lag_days: float = 0.0  # how much older models and features of items are than what is known of each user
    tasks: Sequence[Task] = tuple(Task)
    seed: int = 42

    @property
    def lag_us(self) -> int:
        """The lag in microseconds."""
        return round(self.lag_days * MICROSECONDS_PER_DAY)


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
    plan = replace(plan_of(ctx, data), cuts=cuts, days=days)
    started = time.monotonic()
    with ctx.tracker.run("evaluate", f"B4 {data.meta.as_of_at:%Y-%m-%d}", params=asdict(plan)) as log:
        outcome = measure(data, plan)
        rows = report.rows_of(outcome.measured, seed=plan.seed)
        cost = {"seconds": time.monotonic() - started, "peak_memory_mib": peak_memory_mib()}
        above = report.beaten_everywhere(rows, TWO_STAGE)
        report.show(rows)
        means = [row for row in rows if row["cut"] == report.MEAN]
        log.tag("dataset", ref)
        log.table("rows", rows)
        log.metrics({_name(row): row[report.HEADLINE] for row in means} | cost)
    if out is not None:
        facts = {"dataset": ref, **cost, "above_every_single_stage": above, "rankers": outcome.rankers}
        report.write(rows, Path(out), facts)
    logger.info("%.0f s, peak memory %.0f MiB, two-stage above every row in each cut: %s", *cost.values(), above)
    headline = {_name(row): round(row[report.HEADLINE], 4) for row in means if row["segment"] == report.ALL}
    return {"dataset": ref, **headline}


def plan_of(ctx: Context, data: Dataset) -> Plan:
    """What the settings say, which a night does."""
    return Plan(
        generators=usable_generators(ctx, data.interactions(), Task.DISCOVERY),
        generator_params=ctx.settings.generator_params,
        ranker=RankerParams(**({"seed": ctx.settings.seed} | ctx.settings.ranker_params)),
        training_windows=ctx.settings.n_label_windows,
        seed=ctx.settings.seed,
    )


@dataclass
class Outcome:
    """What was measured: each system at each cut, and the report of each ranker's training, in order of time."""

    measured: list[Measured] = field(default_factory=list)
    rankers: list[dict[str, Any]] = field(default_factory=list)


def measure(data: Dataset, plan: Plan) -> Outcome:
    """Measure all systems of the plan at its cuts."""
    interactions = data.interactions()
    trained_on = _windows(interactions, plan)
    examples: dict[tuple[Window, Task], WindowExamples] = {}
    outcome = Outcome()
    earlier: dict[str, CandidateGenerator] = {}
    every = sorted({*trained_on, *(one for group in trained_on.values() for one in group)}, key=lambda w: w.cut_at)
    for number, window in enumerate(every):
        started = time.monotonic()
        at_cut = _AtCut(data, interactions, window, plan, earlier)
        earlier = at_cut.cut.fitted
        what = "measured" if window in trained_on else "trained on"
        seconds = time.monotonic() - started
        logger.info(
            "window %d of %d, from %s, %s: generators and features in %.0f s",
            number + 1, len(every), report.day(window.cut_at), what, seconds,
        )  # fmt: skip
        later = [group for measured, group in trained_on.items() if measured.cut_at > window.cut_at]
        for task in plan.tasks:
            labels = labels_of(interactions, window, data.meta, task)
            if window in trained_on:
                parts = [examples[one, task] for one in trained_on[window]]
                found, training = at_cut.measure(task, labels, parts)
                outcome.measured += found
                outcome.rankers.append(training)
                means = {one.source: round(float(one.values[report.HEADLINE].mean()), 4) for one in found}
                logger.info("%s, %s, %s: %s", report.day(window.cut_at), task, report.HEADLINE, means)
            if any(window in group for group in later):
                stage = at_cut.stage(task)
                rows = plan.ranker.max_rows // plan.training_windows
                examples[window, task] = window_examples(stage, labels, plan.ranker, max_rows=rows)
        examples = {key: one for key, one in examples.items() if any(key[0] in group for group in later)}
    return outcome


def _windows(interactions: Interactions, plan: Plan) -> dict[Window, list[Window]]:
    """Each window that is measured, with those that its ranker is trained on, which end before it begins."""
    first_at = int(interactions.occurred_at[0]) + plan.lag_us
    found = {
        measured: [
            window
            for window in windows(measured.cut_at, n=plan.training_windows, days=plan.days)
            if window.cut_at > first_at
        ]
        for measured in windows(interactions.cut_at, n=plan.cuts, days=plan.days)
    }
    if not all(found.values()):
        raise InputError(
            f"the events span too little time for {plan.cuts} cuts of {plan.days:g} days and a training window"
            " before them; ask for fewer (--cuts) or shorter ones (--days)"
        )
    return found


class Fits:
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
        fits = Fits(plan, earlier)
        names = dict.fromkeys([*plan.generators, *([OWN_ITEMS] if Task.ALL in plan.tasks else [])])
        learned_at = window.cut_at - plan.lag_us
        self.cut = Cut(data, interactions, window.cut_at, list(names), fits, learned_at=learned_at)
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
        results, lists = [], {}
        for generator in stage.generators:
            started = time.monotonic()
            found = generator.candidates(users, CANDIDATES_PER_GENERATOR, seen=stage.seen(users)).item_key
            seconds = time.monotonic() - started + self.seconds[generator.name]
            lists[generator.name] = found
            results.append(Measured(ground, generator.name, found[:, :LIST_LENGTH], seconds))
        started = time.monotonic()
        ranker = train_on(examples, self.plan.ranker)
        ranked = rank(ranker, stage, users, LIST_LENGTH).item_key
        seconds = time.monotonic() - started + sum(self.seconds.values())
        results.append(Measured(ground, TWO_STAGE, ranked, seconds, recall_of_union(lists, labels)))
        training = {"task": str(task), "cut": report.day(self.window.cut_at), **ranker.report}
        return results, training | {"pool": pool_report(lists, labels)}

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


def _name(row: Row) -> str:
    return f"{row['task']}.{row['system']}.{row['segment']}".replace(" ", "_")


def peak_memory_mib() -> float:
    """Peak resident memory of this process, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20
