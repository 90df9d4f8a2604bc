"""Judge a new ranker: its lists, those of earlier champions and popularity, for the same users of the same windows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.candidates.popular import Popular
from recsys.errors import InputError, ModelError, TooFewLabelsError
from recsys.evaluation import gate, plots
from recsys.evaluation.bootstrap import interval
from recsys.evaluation.comparison import LEVEL, PerUser, mean_by_user
from recsys.evaluation.gate_page import Setting, page
from recsys.evaluation.metrics import Labels, accuracy, overlap
from recsys.evaluation.protocol import Window, date, labels_of
from recsys.ranking.cut import Cut
from recsys.ranking.two_stage import Stage, rank
from recsys.ranking.windows import is_held_out
from recsys.steps.context import Context
from recsys.steps.entrants import Field, field_of
from recsys.steps.ranker_plan import Plan, cut_of
from recsys.steps.stages import history_artifacts
from recsys.steps.train_generator import generator_params
from recsys.tracking import Run
from recsys.types import Candidates, Keys, Lists

logger = logging.getLogger(__name__)

LIST_LENGTH = 20  # of the lists that are compared
MAX_JUDGED_USERS = 5_000  # of a window
MIN_OVERLAP = 0.1  # of the lists that would serve with the judged ones: 0.3 to 0.9 in generated shops
POPULAR, RANKER = "popular", "ranker"  # names in plots and metrics, beside the references of champions

Values = dict[str, dict[str, PerUser]]  # source → segment → metric


@dataclass(frozen=True)
class _Measured:
    """What was found in one window."""

    window: Window
    lists: dict[str, Keys]  # by source: POPULAR, RANKER and the references of champions
    values: Values
    accuracy: dict[str, float]  # of the new ranker, by metric
    facts: gate.ListFacts
    wrong: list[str]  # with the lists that the ranker would serve
    overlap: float | None  # of those with the judged ones; None where they are the same
    n_items: int


def judge(ctx: Context, run: Run, plan: Plan) -> tuple[gate.GateDecision, dict[str, float]]:
    """Whether the ranker of the plan's artifact may serve, and its metrics; both are logged, as a page, too.

    Raises TooFewLabelsError when nobody has a label in the newest window.
    """
    entered = field_of(ctx, plan)
    bounds = gate.Bounds(max_relative_loss=ctx.settings.gate_max_relative_loss, min_users=ctx.settings.gate_min_users)
    found = _measure(ctx, plan, entered, bounds)
    if not found:
        why = "no held-out user has a label: nothing to judge the ranker by; load more users"
        refused = gate.GateDecision(gate.Outcome.BROKEN, f"refused: {why}", gate.POPULARITY)
        return refused, {"ndcg@10": 0.0, "users": 0.0}
    values = _together(found)
    able = [one.ref for one in entered.champions if one.ref in values]
    best = max(able, key=lambda ref: values[ref][gate.ALL].values.mean(), default=None)
    decision = gate.decide(
        _plain(values[RANKER]),
        _plain(values[best]) if best else None,
        _plain(values[POPULAR]),
        found[-1].facts,
        bounds,
        champion_name=best or "",
        same_recipe=bool(able) and entered.champions[0].recipe == plan.recipe,
        broken=found[-1].wrong,
        notes=[*_notes(found, entered, able, best), *entered.notes],
        seed=ctx.settings.seed,
    )
    return decision, _log(run, plan, found, values, decision, _users(entered), ctx.settings.seed)


def _measure(ctx: Context, plan: Plan, entered: Field, bounds: gate.Bounds) -> list[_Measured]:
    """Window by window, oldest first, those without a judged user left out; one window's models are in memory at a
    time."""
    found = []
    for number in entered.windows:
        try:
            labels = labels_of(plan.interactions, plan.windows[number], plan.data.meta)
        except TooFewLabelsError:
            if number == len(plan.windows) - 1:
                raise
            continue
        labels = drawn(labels, MAX_JUDGED_USERS, ctx.settings.seed, held_out_only=entered.held_out_only)
        if len(labels):
            found.append(_measure_window(ctx, plan, entered, number, labels, bounds))
    return found


def drawn(labels: Labels, most: int, seed: int, *, held_out_only: bool) -> Labels:
    """The labels of those who are judged: of all users or the held-out ones, at most so many, drawn at random."""
    users = labels.user_key[is_held_out(labels.user_key)] if held_out_only else labels.user_key
    if len(users) > most:
        users = np.random.default_rng(seed).choice(users, most, replace=False)
    return labels.of_users(users)


def _measure_window(
    ctx: Context, plan: Plan, entered: Field, number: int, labels: Labels, bounds: gate.Bounds
) -> _Measured:
    """The lists of all who take part for the users of `labels`, and what they are worth."""
    users, names = labels.user_key, list(dict.fromkeys(name for one in entered.champions for name in one.generators))
    artifacts = history_artifacts(ctx, plan.dataset, names, plan.windows[number].cut_at)
    cut = cut_of(ctx, plan, number, names, artifacts)
    stage = cut.stage(plan.data.meta.task, plan.generators)
    judged = rank(entered.challenger.load(), stage, users, LIST_LENGTH)
    wrong, same = _look_at_serving(entered, stage, judged, cut, bounds)
    popular = Popular(**generator_params(ctx, "popular")).fit(cut.history, cut.catalogue)
    lists = {
        POPULAR: popular.candidates(users, LIST_LENGTH, seen=stage.seen(users)).item_key,
        RANKER: judged.item_key,
        **_champions_lists(plan, entered, cut, users),
    }
    return _Measured(
        window=plan.windows[number],
        lists=lists,
        values={
            source: gate.segment_values(keys, labels, cut.history, cut.catalogue) for source, keys in lists.items()
        },
        accuracy={metric: float(v.mean()) for metric, v in accuracy(judged.item_key, labels).items()},
        facts=_facts(judged, cut),
        wrong=wrong,
        overlap=same,
        n_items=len(cut.catalogue),
    )


def _champions_lists(plan: Plan, entered: Field, cut: Cut, users: Keys) -> dict[str, Keys]:
    """The lists of earlier champions, each of the candidates of its own generators; who cannot make any is left out."""
    lists = {}
    for champion in entered.champions:
        try:
            stage = cut.stage(plan.data.meta.task, champion.generators)
            lists[champion.ref] = rank(champion.load(), stage, users, LIST_LENGTH).item_key
        except (InputError, ModelError) as error:
            logger.warning("the champion %s cannot be compared with: %s", champion.ref, error)
    return lists


def _look_at_serving(
    entered: Field, stage: Stage, judged: Lists, cut: Cut, bounds: gate.Bounds
) -> tuple[list[str], float | None]:
    """The ranker that is to serve was made by the judged recipe and learned one window more: its lists must be sound,
    and not be others altogether. What is wrong, and the overlap; None where it is the judged one."""
    if entered.serving is entered.challenger:
        return [], None
    lists = rank(entered.serving.load(), stage, judged.owner_key, LIST_LENGTH)
    same = overlap(lists.item_key, judged.item_key)
    wrong = gate.list_reasons(_facts(lists, cut), bounds)
    if same < MIN_OVERLAP:
        wrong.append(
            f"it has {same:.0%} of the first 10 places in common with the judged one, less than {MIN_OVERLAP:.0%}"
        )
    return [f"the ranker with the newest window: {reason}" for reason in wrong], same


def _facts(lists: Lists, cut: Cut) -> gate.ListFacts:
    return gate.list_facts(Candidates(lists.owner_key, lists.item_key, lists.score), cut.catalogue)


def _together(found: list[_Measured]) -> Values:
    """The metrics of all windows: sources that were measured in each, and each user once."""
    return {
        source: {name: mean_by_user([one.values[source][name] for one in found]) for name in by_segment}
        for source, by_segment in found[-1].values.items()
        if all(source in one.values for one in found)
    }


def _plain(found: Mapping[str, PerUser]) -> dict[str, NDArray[np.float64]]:
    return {segment: per_user.values for segment, per_user in found.items()}


def _notes(found: list[_Measured], entered: Field, able: list[str], best: str | None) -> list[str]:
    """What was compared, and what of it would surprise."""
    notes = [f"{_when(found)}, {_users(entered)}"]
    if len(able) > 1:
        notes.append(f"{best} is the best of the last {len(able)} champions there")
    notes += [
        f"the champion {one.ref} cannot rank these candidates" for one in entered.champions if one.ref not in able
    ]
    if found[-1].overlap is not None:
        notes.append(f"with the newest window learned, {found[-1].overlap:.0%} of the first 10 places are the same")
    return notes


def _when(found: list[_Measured]) -> str:
    several = f"{len(found)} windows from " if len(found) > 1 else ""
    return f"{several}{date(found[0].window.cut_at)} to {date(found[-1].window.end_at)}"


def _users(entered: Field) -> str:
    if entered.held_out_only:
        return "held-out users, whom no ranker has learned from"
    return "all users: no ranker has learned from this window"


def _log(
    run: Run,
    plan: Plan,
    found: list[_Measured],
    values: Values,
    decision: gate.GateDecision,
    users: str,
    seed: int,
) -> dict[str, float]:
    """Log metrics, which are returned, plots, a table and the page."""
    newest, n_users = found[-1], len(values[RANKER][gate.ALL])
    names = {POPULAR: POPULAR, RANKER: RANKER, decision.against: "champion"}
    shown = {
        (name, segment): per_user.values
        for source, name in names.items()
        for segment, per_user in values.get(source, {}).items()
        if len(per_user)
    }
    metrics = newest.accuracy | {f"{name}.ndcg@10.{segment}": float(v.mean()) for (name, segment), v in shown.items()}
    metrics["users"] = float(n_users)
    if newest.overlap is not None:
        metrics["serving_overlap@10"] = newest.overlap
    run.metrics(metrics)
    run.figure("popularity", plots.popularity_curve(newest.lists, newest.n_items))
    run.figure("coverage", plots.coverage_curve(newest.lists, newest.n_items))
    bars = {f"{segment}: {name}": shown[name, segment] for name, segment in sorted(shown, key=lambda pair: pair[1])}
    intervals = {name: interval(v, seed=seed, level=LEVEL) for name, v in bars.items()}
    means = {name: float(v.mean()) for name, v in bars.items()}
    run.figure("comparison", plots.comparison(means, metric="ndcg@10", intervals=intervals, level=LEVEL))
    run.table("segments", [{"segment": name, **asdict(one)} for name, one in decision.compared.items()])
    popularity = {segment: float(v.mean()) for (name, segment), v in shown.items() if name == POPULAR}
    setting = Setting(plan.artifact, _when(found), f"{n_users}: {users}")
    run.text("gate.md", page(decision, setting, popularity, newest.facts, newest.overlap))
    return metrics
