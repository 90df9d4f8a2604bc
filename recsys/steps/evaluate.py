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
from recsys.evaluation import calibration, plots, report, report_tables, segments
from recsys.evaluation.beyond import owners_of
from recsys.evaluation.calibration import Predicted
from recsys.evaluation.metrics import Labels, n_users_by_item
from recsys.evaluation.pools import pool_hits, pool_report
from recsys.evaluation.protocol import Window, labels_of, windows
from recsys.evaluation.report import Ground, Measured, Row
from recsys.evaluation.summary import summary
from recsys.ranking.cut import Cut
from recsys.ranking.ranker import RankerParams
from recsys.ranking.two_stage import CANDIDATES_PER_GENERATOR, Stage, WindowExamples, rank, train_on, window_examples
from recsys.steps.context import Context, step
from recsys.steps.fits import Fits, FitStore
from recsys.steps.probabilities import Meaning, Watched
from recsys.steps.recipe import ranker_params
from recsys.steps.stages import OWN_ITEMS, usable_generators
from recsys.tracking import Run
from recsys.types import MICROSECONDS_PER_DAY, CandidateGenerator, Interactions, Keys, Task

logger = logging.getLogger(__name__)

TWO_STAGE = report.TWO_STAGE
POPULAR = "popular"
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
    """Print tables and a summary, log them to MLflow, and write `report.json` and `report.csv` into `out` if given.

    `dataset`: a reference, the newest when None. Raises InputError when the data span too little time for the cuts.
    """
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    plan = replace(plan_of(ctx, data), cuts=cuts, days=days)
    started = time.monotonic()
    with ctx.tracker.run("evaluate", f"B4 {data.meta.as_of_at:%Y-%m-%d}", params=asdict(plan)) as log:
        outcome = measure(data, plan)
        rows = report.rows_of(outcome.measured, seed=plan.seed)
        calibrated = calibration.rows_of(outcome.predicted)
        cost = {"seconds": time.monotonic() - started, "peak_memory_mib": peak_memory_mib()}
        above = report.beaten_everywhere(rows, TWO_STAGE)
        sentences = summary(rows, calibrated)
        report_tables.show(rows, calibrated, sentences)
        log.tag("dataset", ref)
        _log(log, outcome, rows, calibrated, sentences)
        log.metrics(cost)
    if out is not None:
        facts = {"dataset": ref, **cost, "above_every_single_stage": above, "summary": sentences}
        report.write(rows, Path(out), facts | {"calibration": calibrated, "rankers": outcome.rankers})
    logger.info("%.0f s, peak memory %.0f MiB, two-stage above every row in each cut: %s", *cost.values(), above)
    means = [row for row in rows if row["cut"] == report.MEAN and row["segment"] == report.ALL]
    return {"dataset": ref, **{_name(row): round(row[report.HEADLINE], 4) for row in means}}


def _log(log: Run, outcome: Outcome, rows: Sequence[Row], calibrated: Sequence[Row], sentences: Sequence[str]) -> None:
    """Rows, metrics, plots and the summary to MLflow."""
    log.table("rows", rows)
    log.text("summary.md", "\n".join(f"- {line}" for line in sentences) + "\n")
    means = [row for row in rows if row["cut"] == report.MEAN]
    log.metrics({_name(row): row[report.HEADLINE] for row in means})
    log.metrics(
        {
            f"{_name(row)}.{name}": row[name]
            for row in means
            for name in (*report.BEYOND, *report.POOL)
            if row.get(name) is not None
        }
    )
    log.metrics({f"{_name(row)}.ece": row["ece"] for row in calibrated})
    if calibrated:
        log.table("calibration", calibrated)
        log.figure("calibration", plots.reliability_diagram(calibration.curves(outcome.predicted)))
    for task in dict.fromkeys(row["task"] for row in means):
        own = [row for row in means if (row["task"], row["segment"]) == (task, report.ALL)]
        for name, figure in report_tables.figures(own).items():
            log.figure(f"{name}_{task}", figure)


def plan_of(ctx: Context, data: Dataset) -> Plan:
    """What the settings say, which a night does."""
    return Plan(
        generators=usable_generators(ctx, data.interactions(), Task.DISCOVERY),
        generator_params=ctx.settings.generator_params,
        ranker=ranker_params(ctx.settings),
        training_windows=ctx.settings.n_label_windows,
        seed=ctx.settings.seed,
    )


@dataclass
class Outcome:
    """What was measured: each system at each cut, its probabilities, and the report of each ranker's training, in order
    of time."""

    measured: list[Measured] = field(default_factory=list)
    predicted: list[Predicted] = field(default_factory=list)
    rankers: list[dict[str, Any]] = field(default_factory=list)


def measure(data: Dataset, plan: Plan, store: FitStore | None = None) -> Outcome:
    """Measure all systems of the plan at its cuts; `store` holds what evaluations of the same data have in common."""
    interactions = data.interactions()
    trained_on = _windows(interactions, plan)
    examples: dict[tuple[Window, Task], WindowExamples] = {}
    outcome = Outcome()
    earlier: dict[str, CandidateGenerator] = {}
    every = sorted({*trained_on, *(one for group in trained_on.values() for one in group)}, key=lambda w: w.cut_at)
    for number, window in enumerate(every):
        started = time.monotonic()
        at_cut = _AtCut(data, interactions, window, plan, Fits(plan.generator_params, earlier, store))
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
                found = at_cut.measure(task, labels, parts)
                outcome.measured += found.measured
                outcome.predicted += found.predicted
                outcome.rankers += found.rankers
                means = {one.source: round(float(one.values[report.HEADLINE].mean()), 4) for one in found.measured}
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


class _AtCut:
    """The evaluation at one cut."""

    def __init__(
        self,
        data: Dataset,
        interactions: Interactions,
        window: Window,
        plan: Plan,
        fits: Fits,
    ) -> None:
        self.window, self.plan = window, plan
        names = dict.fromkeys([*plan.generators, *([OWN_ITEMS] if Task.ALL in plan.tasks else [])])
        learned_at = window.cut_at - plan.lag_us
        self.cut = Cut(data, interactions, window.cut_at, list(names), fits, learned_at=learned_at)
        started = time.monotonic()
        _ = self.cut.features
        self.seconds = fits.seconds | {TWO_STAGE: time.monotonic() - started}

    def stage(self, task: Task) -> Stage:
        """The candidate stage of a task: a user's own items are proposed where they count, else masked."""
        return self.cut.stage(task, None if task is Task.ALL else self.plan.generators)

    def measure(self, task: Task, labels: Labels, examples: Sequence[WindowExamples]) -> Outcome:
        """Evaluate every generator alone, and the two stages trained on the windows before."""
        stage, users = self.stage(task), labels.user_key
        lists, seconds = {}, {}
        for generator in stage.generators:
            started = time.monotonic()
            lists[generator.name] = generator.candidates(
                users, CANDIDATES_PER_GENERATOR, seen=stage.seen(users)
            ).item_key
            seconds[generator.name] = time.monotonic() - started + self.seconds[generator.name]
        shown = lists if POPULAR in lists else {POPULAR: self._popular(stage, users), **lists}
        ground = self._ground(task, labels, shown[POPULAR][:, :LIST_LENGTH])
        results = [
            Measured(ground, name, found[:, :LIST_LENGTH], seconds.get(name, 0.0)) for name, found in shown.items()
        ]
        started = time.monotonic()
        ranker = train_on(examples, self.plan.ranker)
        meaning = Meaning.of(ranker, stage.generators, [one.pool for one in examples], len(self.cut.catalogue))
        watched = Watched(meaning, labels, self.plan.seed)
        ranked = rank(ranker, stage, users, LIST_LENGTH, watch=watched).item_key
        taken = time.monotonic() - started + sum(self.seconds.values())
        groups = segments.items(self.cut.history, self.cut.catalogue)
        pool = pool_hits(lists, labels, self.cut.catalogue.item_key, groups)
        results.append(Measured(ground, TWO_STAGE, ranked, taken, pool))
        at = report.day(self.window.cut_at)
        training = {"task": str(task), "cut": at, **ranker.report, "pool": pool_report(lists, labels)}
        return Outcome(results, watched.predicted(str(task), at, ground.segments), [training])

    def _popular(self, stage: Stage, users: Keys) -> Keys:
        """What popularity proposes, which stands beside all others also where it is no generator of the plan."""
        popular = registry.make(POPULAR, self.plan.generator_params.get(POPULAR, {}))
        fitted = popular.fit(self.cut.history, self.cut.catalogue)
        return fitted.candidates(users, LIST_LENGTH, seen=stage.seen(users)).item_key

    def _ground(self, task: Task, labels: Labels, expected: Keys) -> Ground:
        history, catalogue = self.cut.history, self.cut.catalogue
        n_keys = int(catalogue.item_key.max()) + 1
        category = np.full(n_keys, -1, dtype=np.int32)
        category[catalogue.item_key] = catalogue.category_key
        return Ground(
            task=str(task),
            cut_at=self.window.cut_at,
            labels=labels,
            segments=segments.activity(history, labels.user_key),
            n_users_by_item=n_users_by_item(history, n_keys),
            n_users=len(np.unique(history.user_key)),
            n_items=len(catalogue),
            expected=expected,
            owners=owners_of(history, n_keys),
            category=category if (category >= 0).any() else None,
        )


def _name(row: Row) -> str:
    return f"{row['task']}.{row['system']}.{row['segment']}".replace(" ", "_")


def peak_memory_mib() -> float:
    """Peak resident memory of this process, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20
