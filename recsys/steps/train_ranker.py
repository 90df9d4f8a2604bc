"""Train the ranker on the last label windows; the gate decides whether it becomes the champion.

A tenth of the users, by a hash of their key, are held out: on their labels in the newest window challenger, champion
and popularity are compared, per segment.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import recsys
from recsys.artifacts import version_of
from recsys.candidates.popular import Popular
from recsys.data.dataset import Dataset
from recsys.errors import InputError, TooFewLabelsError
from recsys.evaluation import gate, plots
from recsys.evaluation.metrics import Values, accuracy
from recsys.evaluation.protocol import Window, labels_of
from recsys.ranking.cut import Cut
from recsys.ranking.ranker import Ranker, RankerParams
from recsys.ranking.two_stage import Stage, WindowExamples, rank, train_on, window_examples
from recsys.ranking.windows import is_held_out, training_windows
from recsys.steps.context import HISTORY, Context, may_skip, step
from recsys.steps.stages import history_artifacts, loaded, task_of, usable_generators
from recsys.steps.train_generator import generator_params
from recsys.tracking import Run
from recsys.types import Candidates, Interactions, Keys

logger = logging.getLogger(__name__)

STEP = "train_ranker"
LIST_LENGTH = 20  # of the lists that the gate compares
MAX_JUDGED_USERS = 5_000


@dataclass(frozen=True)
class Plan:
    """The inputs of one training."""

    dataset: str
    windows: list[Window]
    generators: list[str]
    artifacts: list[dict[str, str]]  # per window: generator → reference
    params: RankerParams
    version: str


@step
@may_skip
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Train, evaluate and register the ranker; `dataset`: a reference, the newest when None.

    Requires train_als and train_deepfm of the data set. Reuses the results of an earlier run with the same inputs,
    unless `force`.
    """
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    interactions = data.interactions()
    plan = _plan(ctx, ref, data, interactions)
    artifact = f"ranker/{plan.version}"
    verdict = None if force else ctx.verdict(STEP, ref, artifact)
    if verdict is None or not ctx.store.exists(artifact):
        try:
            verdict = _train(ctx, plan, data, interactions, force=force)
        except TooFewLabelsError as error:  # a small shop: the other lists are served until there are enough labels
            verdict = (False, str(error))
            logger.warning("no ranker: %s", error)
            ctx.record(STEP, ref, None, as_of=data.meta.as_of, status="refused", reason=str(error))
    else:
        logger.info("the ranker was trained from the same inputs before: %s", artifact)
    return {"dataset": ref, "ranker": artifact, "accepted": verdict[0], "reason": verdict[1]}


def _plan(ctx: Context, ref: str, data: Dataset, interactions: Interactions) -> Plan:
    windows = training_windows(interactions, n=ctx.settings.n_label_windows, days=ctx.settings.label_window_days)
    names = usable_generators(ctx, interactions, data.meta.task)
    artifacts = [history_artifacts(ctx, ref, names, window.cut_at) for window in windows]
    params = RankerParams(**({"seed": ctx.settings.seed} | ctx.settings.ranker_params))
    ingredients = {
        "dataset": ref,
        "windows": [asdict(window) for window in windows],
        "generators": names,
        "generator_params": {name: generator_params(ctx, name) for name in names},
        "artifacts": artifacts,
        "params": asdict(params),
        "code": recsys.__version__,
    }
    return Plan(ref, windows, names, artifacts, params, version_of(data.meta.as_of_at, ingredients))


def _train(ctx: Context, plan: Plan, data: Dataset, interactions: Interactions, *, force: bool) -> tuple[bool, str]:
    """One MLflow run: fit or reuse the artifact, evaluate it, register it; whether it was accepted, and why."""
    artifact = f"ranker/{plan.version}"
    params = asdict(plan.params) | {
        "dataset": plan.dataset,
        "generators": plan.generators,
        "windows": len(plan.windows),
    }
    tags = {"dataset": plan.dataset, "step": STEP, "code_version": recsys.__version__, "artifact": artifact}
    with ctx.tracker.run("ranker", f"ranker {data.meta.as_of_at:%Y-%m-%d}", params=params, tags=tags) as run:

        def make(folder: Path, meta: dict[str, Any]) -> None:
            ranker = train_on(_examples(ctx, plan, data, interactions), plan.params)
            ranker.save(folder)
            meta |= {"loss": ranker.report["loss"], "why": ranker.report["why"]}

        inputs = {"dataset": plan.dataset}
        for window, refs in zip(plan.windows, plan.artifacts, strict=True):
            inputs |= {f"{name}.{window.cut_at}": ref for name, ref in refs.items()}
        meta = {"generators": plan.generators, "params": asdict(plan.params), "task": data.meta.task}
        ctx.store.get_or_make("ranker", plan.version, make, made_by=STEP, inputs=inputs, meta=meta, force=force)
        ranker = Ranker.load(ctx.store.open(artifact)[0])
        _log_training(run, ranker)
        decision, metrics = _judge(ctx, run, ranker, artifact, plan, data, interactions)
        version = ctx.tracker.register(
            "ranker", artifact, run.run_id, tags={"dataset": plan.dataset, "ndcg_at_10": f"{metrics['ndcg@10']:.4f}"}
        )
        run.tag("gate", decision.reason)
        run.metrics({"judged_users": decision.judged.get("all", 0)})
        ctx.show_champion("ranker", artifact, version, decision)
    ctx.record(
        STEP,
        plan.dataset,
        artifact,
        as_of=data.meta.as_of,
        status="succeeded" if decision.accepted else "refused",
        reason=decision.reason,
        metrics=metrics,
        mlflow_run_id=run.run_id,
    )
    return decision.accepted, decision.reason


def _cut(ctx: Context, plan: Plan, data: Dataset, interactions: Interactions, window: int) -> Cut:
    fitted = loaded(ctx, plan.artifacts[window], HISTORY)
    return Cut(data, interactions, plan.windows[window].cut_at, plan.generators, fitted)


def _examples(ctx: Context, plan: Plan, data: Dataset, interactions: Interactions) -> list[WindowExamples]:
    """Labelled candidates of each window, oldest first; one window's models are in memory at a time."""
    rows = plan.params.max_rows // len(plan.windows)
    found = []
    for number, window in enumerate(plan.windows):
        logger.info("label window %d of %d: candidates and their features", number + 1, len(plan.windows))
        try:
            labels = labels_of(interactions, window, data.meta)
        except TooFewLabelsError as error:
            logger.warning("label window %d of %d is left out: %s", number + 1, len(plan.windows), error)
            continue
        stage = _cut(ctx, plan, data, interactions, number).stage(data.meta.task)
        found.append(window_examples(stage, labels, plan.params, hold_out=True, max_rows=rows))
        logger.info(
            "label window %d of %d: %d users with labels, %d rows to train on",
            number + 1,
            len(plan.windows),
            len(labels),
            len(found[-1].training or ()),
        )
    return found


def _judge(
    ctx: Context,
    run: Run,
    ranker: Ranker,
    artifact: str,
    plan: Plan,
    data: Dataset,
    interactions: Interactions,
) -> tuple[gate.GateDecision, dict[str, float]]:
    """Evaluate challenger, champion and popularity on the held-out users of the newest window."""
    window = plan.windows[-1]
    labels = labels_of(interactions, window, data.meta)
    labels = labels.of_users(labels.user_key[is_held_out(labels.user_key)][:MAX_JUDGED_USERS])
    bounds = gate.Bounds(max_relative_loss=ctx.settings.gate_max_relative_loss, min_users=ctx.settings.gate_min_users)
    if not len(labels):
        reason = "no held-out user has a label in the newest window: nothing to judge the ranker by; load more users"
        return gate.GateDecision(False, (reason,), "popularity"), {"ndcg@10": 0.0, "users": 0.0}
    cut = _cut(ctx, plan, data, interactions, -1)
    stage, history, catalogue = cut.stage(data.meta.task), cut.history, cut.catalogue
    popular = Popular(**generator_params(ctx, "popular")).fit(history, catalogue)
    users = labels.user_key
    lists: dict[str, Keys] = {"popular": popular.candidates(users, LIST_LENGTH, seen=stage.seen(users)).item_key}
    challenger = rank(ranker, stage, users, LIST_LENGTH)
    lists["ranker"] = challenger.item_key
    champion = _champion_lists(ctx, artifact, stage, users, data)
    if champion is not None:
        lists["champion"] = champion
    values: dict[str, dict[str, Values]] = {
        source: gate.segment_values(found, labels, history, catalogue) for source, found in lists.items()
    }
    decision = gate.decide(
        values["ranker"],
        values.get("champion"),
        values["popular"],
        gate.list_facts(Candidates(users, challenger.item_key, challenger.score), catalogue),
        bounds,
        seed=ctx.settings.seed,
    )
    metrics = {metric: float(v.mean()) for metric, v in accuracy(challenger.item_key, labels).items()}
    for source, by_segment in values.items():
        metrics |= {f"{source}.ndcg@10.{segment}": float(v.mean()) for segment, v in by_segment.items() if len(v)}
    metrics["users"] = float(len(labels))
    run.metrics(metrics)
    run.figure("popularity", plots.popularity_curve(lists, len(catalogue)))
    run.figure("coverage", plots.coverage_curve(lists, len(catalogue)))
    means = {source: float(by_segment["all"].mean()) for source, by_segment in values.items()}
    run.figure("comparison", plots.comparison(means, metric="ndcg@10", intervals={}))
    rows = [
        {"segment": name, "users": len(v), **{source: _mean(values[source][name]) for source in values}}
        for name, v in values["ranker"].items()
    ]
    run.table("segments", rows)
    return decision, metrics


def _champion_lists(ctx: Context, artifact: str, stage: Stage, users: Keys, data: Dataset) -> Keys | None:
    """The champion's lists for the same users; None without a champion, or when it cannot rank these pools."""
    ref = ctx.champion("ranker")
    if ref is None or ref == artifact:
        return None
    folder, manifest = ctx.store.open(ref)
    if task_of(manifest) is not data.meta.task:
        logger.warning("the champion %s was trained for another task, comparing with popularity instead", ref)
        return None
    try:
        return rank(Ranker.load(folder), stage, users, LIST_LENGTH).item_key
    except InputError as error:
        logger.warning("the champion %s cannot be compared, comparing with popularity instead: %s", ref, error)
        return None


def _log_training(run: Run, ranker: Ranker) -> None:
    report = ranker.report
    run.params({"loss": report["loss"], "n_trees": report["n_trees"], "n_training_rows": report["n_training_rows"]})
    run.tag("loss_chosen", report["why"])
    for loss, tried in report["validation"].items():
        run.metrics({f"validation.{loss}.ndcg@10": tried["ndcg@10"], f"validation.{loss}.trees": tried["trees"]})
        run.figure(
            f"learning_curve_{loss}", plots.learning_curve({loss: tried["curve"]}, y_label=loss, x_label="trees")
        )
    run.figure("feature_importance", plots.feature_importance(report["importance"]))
    run.table("feature_importance", [{"feature": k, "importance": v} for k, v in report["importance"].items()])


def _mean(values: Values) -> float | None:
    return float(np.mean(values)) if len(values) else None
