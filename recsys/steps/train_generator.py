"""Train one candidate generator for a data set: once per label window of the ranker, and once for serving.

The history models are fitted on events before their window. The newest of them is evaluated on its window, beside
popularity and the former champion; that, and the lists of the serving model, which is fitted on all events, decide
whether the latter becomes the champion.

A generator that can go on from an earlier model does so from window to window, and, where the step says so, in the
first window from the newest model of an earlier night that has seen nothing after it: `MAX_NIGHTS` nights in a row,
then the first window is learned from scratch, so that no mistake lasts.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import recsys
from recsys import log
from recsys.artifacts import Manifest, version_of
from recsys.candidates import registry
from recsys.data.dataset import Dataset, instant
from recsys.errors import NothingToDoError
from recsys.evaluation import gate, plots
from recsys.evaluation.comparison import compare
from recsys.evaluation.metrics import Labels, Values, accuracy, n_users_by_item, novelty, overlap, user_coverage
from recsys.evaluation.protocol import Window, date, labels_of
from recsys.ranking.cut import mask_of
from recsys.ranking.windows import training_windows
from recsys.steps.context import HISTORY, SERVING, Context, require_purpose
from recsys.tracking import Run
from recsys.types import CandidateGenerator, Candidates, Catalogue, Interactions, Keys

logger = logging.getLogger(__name__)

MAX_MEASURED_USERS = 10_000  # of the newest label window; a sample of this size is exact to half a per cent
LIST_LENGTH = 100
MAX_NIGHTS = 14  # that go on from one another

# A generator is refused only when it is broken or far worse than popularity: the ranker may make good use of the
# candidates of a weak one. In a catalogue of hundreds of thousands of items, 64 factors cover only the busiest one per
# cent, and still find five times as much as popularity.
BOUNDS = gate.Bounds(max_loss_to_popularity=0.5, min_item_coverage=0.001, max_top_item_share=1.0)
FORMER = "former"


@dataclass(frozen=True)
class Fit:
    """One planned fit of the generator: on all events before `cut_at`, for one purpose."""

    cut_at: int  # microseconds
    purpose: str
    version: str  # a hash of all inputs
    inputs: dict[str, str]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Start:
    """A model of an earlier night."""

    ref: str
    nights: int  # in a row that went on from one another, up to that model


def train_generator(
    ctx: Context, name: str, dataset: str | None, *, force: bool = False, from_earlier_nights: bool = False
) -> dict[str, Any]:
    """Fit, evaluate and register the generator `name`; the references of its artifacts, and the gate's verdict.

    Reuses the results of an earlier run with the same inputs, unless `force`. `from_earlier_nights`: goes on from
    them, unless `force`.
    Raises ModelError when a fit is not finite, TooFewLabelsError when there are no labels to evaluate it on.
    """
    step = f"train_{name}"
    ref, data = ctx.dataset(dataset)
    interactions = data.interactions()
    if (interactions.item_key == interactions.item_key[0]).all():
        raise NothingToDoError("all events are on one item: no model can recommend another")
    windows = training_windows(interactions, n=ctx.settings.n_label_windows, days=ctx.settings.label_window_days)
    labels_of(interactions, windows[-1], data.meta)  # raises if there are none, before anything is fitted
    cuts = [window.cut_at for window in windows]
    start = _earlier_night(ctx, name, ref, cuts[0]) if from_earlier_nights and not force else None
    plan = _plan(ctx, name, ref, cuts, data.meta.as_of, start)
    serving = f"{name}/{plan[-1].version}"
    history = [f"{name}/{fit.version}" for fit in plan[:-1]]
    verdict = None if force else ctx.verdict(step, ref, serving)
    if verdict is None or not all(ctx.store.exists(one) for one in [*history, serving]):
        verdict = _train(ctx, step, name, ref, data, interactions, windows[-1], plan, force=force)
    else:
        logger.info("%s was trained from the same inputs before: %s", name, serving)
    accepted, reason = verdict
    return {"dataset": ref, "serving": serving, "history": history, "accepted": accepted, "reason": reason}


def generator_params(ctx: Context, name: str) -> dict[str, Any]:
    """All hyper-parameters of a generator: its defaults, overridden by the settings."""
    generator = registry.make(name, ctx.settings.generator_params.get(name, {}))
    return dataclasses.asdict(generator)  # type: ignore[call-overload]


def _earlier_night(ctx: Context, name: str, dataset: str, cut_at: int) -> Start | None:
    """What the fit of the first window goes on from: of the same parameters and release, newest first, a model of
    an earlier data set that has seen nothing after the cut; None where there is none, or after `MAX_NIGHTS`."""
    step, params = f"train_{name}", json.loads(json.dumps(generator_params(ctx, name)))  # as manifests have them

    def is_alike(manifest: Manifest) -> bool:
        return (manifest.meta["params"], manifest.meta["code_version"]) == (params, recsys.__version__)

    own = ctx.history(step, dataset).get(cut_at)
    if own is not None and ctx.store.exists(own) and is_alike(begun := ctx.store.manifest(own)):
        earlier = begun.inputs.get("earlier")  # it stays as it was begun, also where that model is gone
        return Start(earlier, begun.meta["nights"] - 1) if earlier else None
    for manifest in map(ctx.store.manifest, filter(ctx.store.exists, ctx.histories_before(step, dataset, cut_at))):
        if is_alike(manifest):
            nights = manifest.meta.get("nights", 1)
            return Start(manifest.ref, nights) if nights < MAX_NIGHTS else None
    return None


def _plan(ctx: Context, name: str, dataset: str, cuts: list[int], as_of: int, start: Start | None = None) -> list[Fit]:
    """The fits, oldest first; one with a warm start depends on the one before, the first on `start`."""
    params = generator_params(ctx, name)
    continues = registry.continues(name)
    plan: list[Fit] = []
    for cut_at, purpose in [*((cut, HISTORY) for cut in cuts), (as_of, SERVING)]:
        inputs = {"dataset": dataset}
        if continues and plan:
            inputs["earlier"] = f"{name}/{plan[-1].version}"
        elif continues and start:
            inputs["earlier"] = start.ref
        meta = {"purpose": purpose, "cut_at": cut_at, "params": params, "code_version": recsys.__version__}
        meta |= {"nights": start.nights + 1} if continues and start else {}
        version = version_of(instant(cut_at), inputs | meta | {"generator": name})
        plan.append(Fit(cut_at, purpose, version, inputs, meta))
    return plan


def _train(
    ctx: Context,
    step: str,
    name: str,
    ref: str,
    data: Dataset,
    interactions: Interactions,
    newest: Window,
    plan: list[Fit],
    *,
    force: bool,
) -> tuple[bool, str]:
    """Fit the missing models of the plan in one MLflow run; whether the serving model was accepted, and why."""
    params = plan[-1].meta["params"]
    tags = {"dataset": ref, "step": step, "code_version": recsys.__version__}
    with ctx.tracker.run(
        name, f"{name} {data.meta.as_of_at:%Y-%m-%d}", params=params | {"dataset": ref}, tags=tags
    ) as run:
        for number, fit in enumerate(plan, 1):
            logger.info("%s, fit %d of %d, on events before %s", name, number, len(plan), date(fit.cut_at))
            with log.within(f"{name}, fit {number} of {len(plan)}"):
                seconds = _fit(ctx, name, fit, data, interactions, force=force)
            run.metrics({f"seconds.{fit.purpose}": seconds}, step=fit.cut_at // 1_000_000)
            run.tag(f"artifact.{fit.purpose}.{instant(fit.cut_at):%Y%m%d}", f"{name}/{fit.version}")
        decision, metrics = _measure(ctx, run, name, plan, data, interactions, newest)
        serving = f"{name}/{plan[-1].version}"
        version = ctx.tracker.register(name, serving, run.run_id, tags={"dataset": ref, **_texts(metrics)})
        run.tag("gate", decision.reason)
        run.metrics({"judged_users": decision.n_judged})
        ctx.show_champion(name, serving, version, decision)
    for fit in plan[:-1]:
        ctx.record(step, ref, f"{name}/{fit.version}", as_of=fit.cut_at, purpose=HISTORY, mlflow_run_id=run.run_id)
    ctx.record(
        step,
        ref,
        serving,
        as_of=plan[-1].cut_at,
        status="succeeded" if decision.accepted else "refused",
        reason=decision.reason,
        metrics=metrics,
        mlflow_run_id=run.run_id,
    )
    return decision.accepted, decision.reason


def _fit(ctx: Context, name: str, fit: Fit, data: Dataset, interactions: Interactions, *, force: bool) -> float:
    """Create one artifact of the plan, or reuse it; the seconds it took."""

    def make(folder: Path, meta: dict[str, Any]) -> None:
        generator = registry.make(name, fit.meta["params"])
        history, catalogue = interactions.before(fit.cut_at), data.catalogue(fit.cut_at)
        start_from = {}
        if "earlier" in fit.inputs:
            start_from["start_from"] = registry.load(name, ctx.store.open(fit.inputs["earlier"])[0])
        generator.fit(history, catalogue, **start_from).save(folder)
        meta |= {"n_events": len(history), "n_items": len(catalogue)}

    started = time.monotonic()
    manifest, made = ctx.store.get_or_make(
        name, fit.version, make, made_by=f"train_{name}", inputs=fit.inputs, meta=fit.meta, force=force
    )
    seconds = time.monotonic() - started
    verb = "fitted" if made else "found"
    logger.info("%s for %s up to %s: %s, %.1f s", verb, fit.purpose, instant(fit.cut_at), manifest.ref, seconds)
    return seconds


def load_generator(ctx: Context, ref: str, purpose: str) -> CandidateGenerator:
    """A fitted generator from its artifact; ModelError when it was fitted for another purpose."""
    folder, manifest = ctx.store.open(ref)
    require_purpose(manifest, purpose)
    return registry.load(manifest.kind, folder)


def _measure(
    ctx: Context,
    run: Run,
    name: str,
    plan: list[Fit],
    data: Dataset,
    interactions: Interactions,
    window: Window,
) -> tuple[gate.GateDecision, dict[str, float]]:
    """Evaluate the newest history model on the newest label window, beside popularity and the former model, and look at
    the lists of the one that is to serve: metrics, plots, verdict."""
    history, catalogue = interactions.before(window.cut_at), data.catalogue(window.cut_at)
    labels = _measured_labels(ctx, data, interactions, window)
    lists = _lists(ctx, name, plan, data, interactions, window, labels.user_key)
    values = {
        source: {
            segment: per_user.values
            for segment, per_user in gate.segment_values(found.item_key, labels, history, catalogue).items()
        }
        for source, found in lists.items()
    }
    model = load_generator(ctx, f"{name}/{plan[-1].version}", SERVING)
    wrong, same = _look_at_serving(model, data, interactions, lists[name])
    notes = [f"the serving model has {same:.0%} of the first 10 places in common"]
    if FORMER in values:
        against = compare(values[name][gate.ALL], values[FORMER][gate.ALL], seed=ctx.settings.seed)
        notes.append(f"the former model has {gate.METRIC} {against.reference:.4f}: {against}")
    decision = gate.decide(
        {gate.ALL: values[name][gate.ALL]},
        None,
        {gate.ALL: values["popular"][gate.ALL]},
        gate.list_facts(_answered(lists[name]), catalogue),
        BOUNDS,
        broken=wrong,
        notes=notes,
        seed=ctx.settings.seed,
    )
    metrics = {metric: float(v.mean()) for metric, v in accuracy(lists[name].item_key, labels).items()}
    metrics |= _means("", values[name]) | _means("popular.", values["popular"])
    metrics |= _means("former.", values.get(FORMER, {}))
    metrics |= _spread(lists[name], history, catalogue) | {"users": float(len(labels)), "serving_overlap@10": same}
    run.metrics(metrics)
    shown = {source: one.item_key for source, one in lists.items()}
    run.figure("popularity", plots.popularity_curve(shown, len(catalogue)))
    run.figure("coverage", plots.coverage_curve(shown, len(catalogue)))
    _log_learning_curve(run, model)
    return decision, metrics


def _measured_labels(ctx: Context, data: Dataset, interactions: Interactions, window: Window) -> Labels:
    labels = labels_of(interactions, window, data.meta)
    if len(labels) <= MAX_MEASURED_USERS:
        return labels
    rng = np.random.default_rng(ctx.settings.seed)
    return labels.of_users(rng.choice(labels.user_key, MAX_MEASURED_USERS, replace=False))


def _lists(
    ctx: Context,
    name: str,
    plan: list[Fit],
    data: Dataset,
    interactions: Interactions,
    window: Window,
    users: Keys,
) -> dict[str, Candidates]:
    """The lists of the newest history model, of popularity, and of the former model if there is one, by source."""
    history, catalogue = interactions.before(window.cut_at), data.catalogue(window.cut_at)
    seen = mask_of(history, catalogue, data.meta, data.meta.task)(users)
    models = {
        name: load_generator(ctx, f"{name}/{plan[-2].version}", HISTORY),
        "popular": registry.make("popular", generator_params(ctx, "popular")).fit(history, catalogue),
    }
    former = _former(ctx, name, plan, window)
    if former is not None:
        models[FORMER] = former
    return {source: model.candidates(users, LIST_LENGTH, seen=seen) for source, model in models.items()}


def _look_at_serving(
    model: CandidateGenerator, data: Dataset, interactions: Interactions, measured: Candidates
) -> tuple[list[str], float]:
    """What is wrong with the lists that the serving model has for the same users, and how many of the first 10 places
    are those of the measured model."""
    catalogue, users = data.catalogue(data.meta.as_of), measured.owner_key
    seen = mask_of(interactions, catalogue, data.meta, data.meta.task)(users)
    lists = model.candidates(users, LIST_LENGTH, seen=seen)
    wrong = gate.list_reasons(gate.list_facts(_answered(lists), catalogue), BOUNDS)
    return [f"the serving model: {reason}" for reason in wrong], overlap(lists.item_key, measured.item_key)


def _former(ctx: Context, name: str, plan: list[Fit], window: Window) -> CandidateGenerator | None:
    """The former champion, by a model of it that has seen nothing of the window; None where there is none."""
    own = {f"{name}/{fit.version}" for fit in plan}
    champion = next((ref for ref in ctx.champions(name, 2) if ref not in own), None)
    if champion is None:
        return None
    for ref, purpose in ((champion, SERVING), (ctx.measured_model(name, champion), HISTORY)):
        if ref is None or ref in own or not ctx.store.exists(ref):
            continue
        if ctx.store.manifest(ref).meta["cut_at"] <= window.cut_at:
            return load_generator(ctx, ref, purpose)
    return None


def _answered(lists: Candidates) -> Candidates:
    """The lists that hold anything: a generator need not know every user."""
    there = lists.n_found > 0
    return Candidates(lists.owner_key[there], lists.item_key[there], lists.score[there])


def _means(prefix: str, by_segment: Mapping[str, Values]) -> dict[str, float]:
    return {f"{prefix}{gate.METRIC}.{segment}": float(v.mean()) for segment, v in by_segment.items() if len(v)}


def _spread(lists: Candidates, history: Interactions, catalogue: Catalogue) -> dict[str, float]:
    """How new to people, and how widely spread over the catalogue, the lists are."""
    counts = n_users_by_item(history, int(catalogue.item_key.max()) + 1)
    facts = gate.list_facts(lists, catalogue)
    new = novelty(lists.item_key, counts, len(np.unique(history.user_key)))
    return {
        "novelty@5": float(np.nanmean(new)) if (lists.n_found > 0).any() else 0.0,
        "item_coverage": facts.item_coverage,
        "user_coverage": user_coverage(lists.item_key),
        "share_top_1%": facts.top_item_share,
    }


def _log_learning_curve(run: Run, model: CandidateGenerator) -> None:
    """Log the learning curves of a generator trained in epochs: each as a metric, and one plot per measure."""
    curves: dict[str, list[float]] = getattr(model, "training_curve", {})
    for name, values in curves.items():
        run.curve(f"curve.{name}", values)
    for measure in sorted({name.removeprefix("validation_") for name in curves}):
        same = {name: values for name, values in curves.items() if name.removeprefix("validation_") == measure}
        run.figure(f"learning_curve_{measure}", plots.learning_curve(same, y_label=measure))


def _texts(metrics: dict[str, float]) -> dict[str, str]:
    return {"ndcg_at_10": f"{metrics['ndcg@10']:.4f}", "popular_ndcg_at_10": f"{metrics['popular.ndcg@10.all']:.4f}"}
