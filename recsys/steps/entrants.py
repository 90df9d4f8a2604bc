"""The rankers that are compared: the new one and earlier champions, each by a model that has not seen the labels.

An artifact holds two rankers of one recipe: the one that serves has learned the labels of all windows up to the end
of its data, the judged one (folder `judged`) not those of the newest. Who knows the labels of a window ranks it better
than they would rank the next (by 9 %, research/decisions/0029), so of each artifact that one takes part which has
learned nothing of the judged window. Where there is none, all take part with what serves, over held-out users alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys.artifacts import Manifest
from recsys.candidates import registry
from recsys.data.dataset import microseconds
from recsys.errors import NotFoundError, NothingToDoError
from recsys.evaluation.protocol import Window
from recsys.instants import data_ends_at
from recsys.ranking.ranker import Ranker
from recsys.steps.context import Context
from recsys.steps.ranker_plan import Plan
from recsys.steps.stages import history_artifacts, task_of

logger = logging.getLogger(__name__)

N_CHAMPIONS = 3  # so many accepted rankers are compared with, so that small losses do not add up from night to night
JUDGED = "judged"  # folder of an artifact, and key of "learned" in its manifest
SERVED = "serving"  # key of "learned" in a manifest


@dataclass(frozen=True)
class Entrant:
    """One ranker of an artifact."""

    ref: str
    folder: Path
    generators: tuple[str, ...]  # whose candidates it ranks
    learned_since: int  # microseconds: the labels that it learned lie in [learned_since, learned_until)
    learned_until: int
    recipe: str | None

    def load(self) -> Ranker:
        return Ranker.load(self.folder)


@dataclass(frozen=True)
class Field:
    """Who is compared, in which windows of the plan, over whom."""

    challenger: Entrant
    serving: Entrant  # the challenger as it would serve: the same ranker where there is one usable window alone
    champions: tuple[Entrant, ...]  # newest first
    windows: tuple[int, ...]  # positions in the plan's, oldest first
    held_out_only: bool
    notes: tuple[str, ...] = ()


def learned(spans: Mapping[str, list[Window]]) -> dict[str, dict[str, int]]:
    """What an artifact's manifest says under "learned": of each ranker, the span of its labels."""
    return {name: {"since": found[0].cut_at, "until": found[-1].end_at} for name, found in spans.items() if found}


def field_of(ctx: Context, plan: Plan) -> Field:
    """Who takes part, and where, in the judgement of the plan's artifact."""
    serving, judged = _entrants(ctx, plan.artifact)
    newest = len(plan.windows) - 1
    champions, notes = _champions(ctx, plan)
    unseen = [_unseen(pair, plan.windows[newest].cut_at) for pair in champions]
    if judged is not None and (not champions or unseen[0] is not None):
        able = tuple(one for one in unseen if one is not None)
        if len(able) < len(champions):
            notes.append(
                f"{len(champions) - len(able)} earlier champions have learned from this window, and are left out"
            )
        return Field(judged, serving, able, (newest,), False, tuple(notes))
    served = tuple(pair[0] for pair in champions)
    if judged is None:
        notes.append("one usable label window alone: judged on held-out users of a window that the ranker learned from")
    else:
        notes.append("the champion has learned from this window: judged on held-out users, by the rankers that serve")
    windows = tuple(n for n in range(newest + 1) if not served or _overlap(served[0], plan.windows[n])) or (newest,)
    return Field(serving, serving, served, windows, True, tuple(notes))


def _entrants(ctx: Context, ref: str) -> tuple[Entrant, Entrant | None]:
    """The ranker of an artifact that serves, and the judged one, if it has one."""
    folder, manifest = ctx.store.open(ref)
    has_both = JUDGED in manifest.meta.get("learned", {})
    return _entrant(manifest, folder, SERVED), _entrant(manifest, folder / JUDGED, JUDGED) if has_both else None


def _entrant(manifest: Manifest, folder: Path, name: str) -> Entrant:
    ends_at = data_ends_at(manifest.ref)  # artifacts of former releases do not say what they learned: all of their data
    span = manifest.meta.get("learned", {}).get(name) or {
        "since": 0,
        "until": microseconds(ends_at) if ends_at else 2**62,
    }
    generators = tuple(manifest.meta["generators"])
    recipe = manifest.meta.get("recipe")
    return Entrant(manifest.ref, folder, generators, span["since"], span["until"], recipe)


def _unseen(pair: tuple[Entrant, Entrant | None], cut_at: int) -> Entrant | None:
    """The newest of an artifact's rankers that learned no label after an instant."""
    return next((one for one in pair if one is not None and one.learned_until <= cut_at), None)


def _overlap(entrant: Entrant, window: Window) -> bool:
    return entrant.learned_since < window.end_at and window.cut_at < entrant.learned_until


def _champions(ctx: Context, plan: Plan) -> tuple[list[tuple[Entrant, Entrant | None]], list[str]]:
    """Earlier champions that could rank this data set, newest first, and what to say of the others."""
    found, why_not = [], []
    for ref in [one for one in ctx.champions("ranker", N_CHAMPIONS + 1) if one != plan.artifact][:N_CHAMPIONS]:
        why = _why_not(ctx, plan, ref)
        if why is None:
            found.append(_entrants(ctx, ref))
        else:
            logger.warning("the champion %s is not compared with: %s", ref, why)
            why_not.append(f"{ref} is not compared with: {why}")
    return found, why_not


def _why_not(ctx: Context, plan: Plan, ref: str) -> str | None:
    folder, manifest = ctx.store.open(ref)
    if task_of(manifest) is not plan.data.meta.task:
        return f"it was trained for the task {task_of(manifest)}"
    generators = manifest.meta["generators"]
    if gone := sorted(set(generators) - set(registry.NAMES)):
        return f"there is no generator {', '.join(gone)} any more"
    try:
        for window in plan.windows:
            history_artifacts(ctx, plan.dataset, generators, window.cut_at)
    except (NotFoundError, NothingToDoError) as error:
        return str(error)
    own = Ranker.load(ctx.store.open(plan.artifact)[0])
    if list(generators) == plan.generators and Ranker.load(folder).names != own.names:
        return "it was trained on other features"
    return None
