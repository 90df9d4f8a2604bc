"""The generators of the nightly steps, and their artifacts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.artifacts import Manifest
from recsys.candidates import registry
from recsys.errors import InputError, NotFoundError, NothingToDoError
from recsys.ranking.cut import Fitted
from recsys.steps.context import Context
from recsys.steps.train_generator import generator_params, load_generator
from recsys.types import CandidateGenerator, Catalogue, Interactions, Task

logger = logging.getLogger(__name__)

OWN_ITEMS = "recent"  # the generator of a user's own items: only for tasks that may recommend them
TRAINED = ("als", "deepfm", "sequence")  # loaded from artifacts; the others are fitted in place, in seconds


def loaded(ctx: Context, artifacts: Mapping[str, str], purpose: str) -> Fitted:
    """Generators of TRAINED from `artifacts`, the others fitted; ModelError when one was fitted for another purpose."""

    def fitted(name: str, history: Interactions, catalogue: Catalogue) -> CandidateGenerator:
        if name in TRAINED:
            return load_generator(ctx, artifacts[name], purpose)
        return registry.make(name, generator_params(ctx, name)).fit(history, catalogue)

    return fitted


def usable_generators(ctx: Context, interactions: Interactions, task: Task) -> list[str]:
    """The generators of the settings, without those that cannot learn from so many items, which is logged.

    For tasks that may show bought items again, the generator of own items is added.
    """
    names = dict.fromkeys([*ctx.settings.generators, *([OWN_ITEMS] if task is Task.ALL else [])])
    return usable(list(names), ctx.settings.generator_params, len(np.unique(interactions.item_key)))


def usable(names: Sequence[str], params: Mapping[str, Mapping[str, Any]], n_items: int) -> list[str]:
    """Those of `names` that can learn from `n_items` items with events; of the others it is logged why they are left
    out. InputError when none is left."""
    found = []
    for name in dict.fromkeys(names):
        most = registry.largest_catalogue(registry.make(name, params.get(name, {})))
        if most is not None and n_items > most:
            logger.warning("%s is left out: %d items with events are more than its %d", name, n_items, most)
        else:
            found.append(name)
    if not found:
        raise InputError("no candidate generator is left; set at least one usable one in RECSYS_GENERATORS")
    return found


def task_of(ranker: Manifest) -> Task:
    """The task that a ranker was trained for."""
    return Task(ranker.meta.get("task", Task.DISCOVERY))


def history_artifacts(ctx: Context, dataset: str, names: list[str], cut_at: int) -> dict[str, str]:
    """The models fitted on events before `cut_at`, by generator; NotFoundError with the step to run, NothingToDoError
    with the reason why there is none."""
    found = {}
    for name in set(names) & set(TRAINED):
        ref = ctx.history(f"train_{name}", dataset).get(cut_at)
        if ref is None and (reason := ctx.refusal(f"train_{name}", dataset)):
            raise NothingToDoError(f"there is no {name} model: {reason}")
        if ref is None:
            raise NotFoundError(f"train_{name} has not fitted {dataset} for this label window; run it first")
        found[name] = ref
    return found


def serving_artifacts(ctx: Context, dataset: str, names: list[str]) -> dict[str, str]:
    """The models to serve for a data set, by generator."""
    return {name: ctx.serving_model(name, dataset) for name in names if name in TRAINED}
