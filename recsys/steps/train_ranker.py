"""Train the ranker on the last label windows; the gate decides whether it becomes the champion.

The recipe is trained without the newest window and judged there, against earlier champions and popularity. For serving
it is trained again, with the newest window. A tenth of the users, by a hash of their key, trains neither: where there
is one window alone, those are judged.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import recsys
from recsys.errors import TooFewLabelsError
from recsys.evaluation import plots
from recsys.evaluation.protocol import Window, date, labels_of
from recsys.ranking.ranker import Ranker
from recsys.ranking.two_stage import WindowExamples, refit_on, train_on, window_examples
from recsys.steps.context import Context, may_skip, step
from recsys.steps.entrants import JUDGED, SERVED, learned
from recsys.steps.judge import judge
from recsys.steps.ranker_plan import Plan, cut_of, plan_of
from recsys.tracking import Run

logger = logging.getLogger(__name__)

STEP = "train_ranker"
Examples = list[tuple[Window, WindowExamples]]  # oldest first


@step
@may_skip
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Train, evaluate and register the ranker; `dataset`: a reference, the newest when None.

    Requires the generators that are trained by steps of their own (train_als, train_deepfm, train_sequence). Reuses the
    results of an earlier run with the same inputs, unless `force`.
    """
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    plan = plan_of(ctx, ref, data)
    verdict = None if force else ctx.verdict(STEP, ref, plan.artifact)
    if verdict is None or not ctx.store.exists(plan.artifact):
        try:
            verdict = _train(ctx, plan, force=force)
        except TooFewLabelsError as error:  # a small shop: the other lists are served until there are enough labels
            verdict = (False, str(error))
            logger.warning("no ranker: %s", error)
            ctx.record(STEP, ref, None, as_of=data.meta.as_of, status="refused", reason=str(error))
    else:
        logger.info("the ranker was trained from the same inputs before: %s", plan.artifact)
    return {"dataset": ref, "ranker": plan.artifact, "accepted": verdict[0], "reason": verdict[1]}


def _train(ctx: Context, plan: Plan, *, force: bool) -> tuple[bool, str]:
    """One MLflow run: fit or reuse the artifact, evaluate it, register it; whether it was accepted, and why."""
    artifact, meta = plan.artifact, plan.data.meta
    labels_of(plan.interactions, plan.windows[-1], meta)  # raises if there are none, before anything is trained
    params = asdict(plan.params) | {
        "dataset": plan.dataset,
        "generators": plan.generators,
        "windows": len(plan.windows),
        "recipe": plan.recipe,
    }
    tags = {"dataset": plan.dataset, "step": STEP, "code_version": recsys.__version__, "artifact": artifact}
    with ctx.tracker.run("ranker", f"ranker {meta.as_of_at:%Y-%m-%d}", params=params, tags=tags) as run:
        _make(ctx, plan, force=force)
        _log_training(run, Ranker.load(ctx.store.open(artifact)[0]))
        decision, metrics = judge(ctx, run, plan)
        version = ctx.tracker.register(
            "ranker", artifact, run.run_id, tags={"dataset": plan.dataset, "ndcg_at_10": f"{metrics['ndcg@10']:.4f}"}
        )
        run.tag("gate", decision.reason)
        run.metrics({"judged_users": decision.n_judged})
        ctx.show_champion("ranker", artifact, version, decision)
    ctx.record(
        STEP,
        plan.dataset,
        artifact,
        as_of=meta.as_of,
        status="succeeded" if decision.accepted else "refused",
        reason=decision.reason,
        metrics=metrics,
        mlflow_run_id=run.run_id,
    )
    return decision.accepted, decision.reason


def _make(ctx: Context, plan: Plan, *, force: bool) -> None:
    """The artifact: the ranker that serves, and in `judged` the one that has not seen the newest window."""

    def make(folder: Path, meta: dict[str, Any]) -> None:
        found = _examples(ctx, plan)
        before = [(window, part) for window, part in found if window is not plan.windows[-1]]
        judged = _judged(before, plan)
        serving = _serving(found, judged, plan)
        serving.report["windows"] = [_pool_row(window, part) for window, part in found]
        serving.save(folder)
        if judged is not None:
            (folder / JUDGED).mkdir()
            judged.save(folder / JUDGED)
        spans = {SERVED: [window for window, _ in found], JUDGED: [window for window, _ in before] if judged else []}
        meta |= {"loss": serving.report["loss"], "why": serving.report["why"], "learned": learned(spans)}

    inputs = {"dataset": plan.dataset}
    for window, refs in zip(plan.windows, plan.artifacts, strict=True):
        inputs |= {f"{name}.{window.cut_at}": ref for name, ref in refs.items()}
    meta = {
        "generators": plan.generators,
        "params": asdict(plan.params),
        "task": plan.data.meta.task,
        "recipe": plan.recipe,
    }
    ctx.store.get_or_make("ranker", plan.version, make, made_by=STEP, inputs=inputs, meta=meta, force=force)


def _judged(before: Examples, plan: Plan) -> Ranker | None:
    """The recipe without the newest window; None when the windows before have too few labels."""
    try:
        return train_on([part for _, part in before], plan.params)
    except TooFewLabelsError as error:
        logger.warning("the ranker cannot be judged on a window that it has not learned from: %s", error)
        return None


def _serving(found: Examples, judged: Ranker | None, plan: Plan) -> Ranker:
    """The same recipe, loss and number of trees, with the newest window."""
    parts = [part for _, part in found]
    return train_on(parts, plan.params) if judged is None else refit_on(parts, plan.params, judged.report)


def _examples(ctx: Context, plan: Plan) -> Examples:
    """Labelled candidates of each window with labels; one window's models are in memory at a time."""
    rows = plan.params.max_rows // len(plan.windows)
    found = []
    for number, window in enumerate(plan.windows):
        logger.info("label window %d of %d: candidates and their features", number + 1, len(plan.windows))
        try:
            labels = labels_of(plan.interactions, window, plan.data.meta)
        except TooFewLabelsError as error:
            logger.warning("label window %d of %d is left out: %s", number + 1, len(plan.windows), error)
            continue
        stage = cut_of(ctx, plan, number).stage(plan.data.meta.task)
        part = window_examples(stage, labels, plan.params, hold_out=True, max_rows=rows)
        found.append((window, part))
        logger.info(
            "label window %d of %d: %d users with labels, %d rows to train on, candidates hold %.0f %% of the labels",
            number + 1,
            len(plan.windows),
            len(labels),
            len(part.training or ()),
            100 * (1 - part.pool.missed),
        )
    return found


def _pool_row(window: Window, part: WindowExamples) -> dict[str, Any]:
    """What the candidates hold of the labels of a window's training and validation users: the ranker's ceiling."""
    count = part.pool
    return {
        "window": date(window.cut_at),
        "users": count.n_users,
        "labels": count.n_labels,
        "pool_recall": count.recall,
        "missed": count.missed,
    }


def _log_training(run: Run, ranker: Ranker) -> None:
    report = ranker.report
    run.params({"loss": report["loss"], "n_trees": report["n_trees"], "n_training_rows": report["n_training_rows"]})
    run.tag("loss_chosen", report["why"])
    windows = report.get("windows", ())  # oldest first; rankers of earlier releases have none
    for number, row in enumerate(windows):
        run.metrics({"pool_recall": row["pool_recall"], "pool_missed": row["missed"]}, step=number)
    if windows:
        run.table("windows", windows)
    for loss, tried in report["validation"].items():
        run.metrics({f"validation.{loss}.ndcg@10": tried["ndcg@10"], f"validation.{loss}.trees": tried["trees"]})
        if tried["curve"]:
            run.figure(
                f"learning_curve_{loss}", plots.learning_curve({loss: tried["curve"]}, y_label=loss, x_label="trees")
            )
    run.figure("feature_importance", plots.feature_importance(report["importance"]))
    run.table("feature_importance", [{"feature": k, "importance": v} for k, v in report["importance"].items()])
