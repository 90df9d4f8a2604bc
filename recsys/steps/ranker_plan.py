"""What a training of the ranker starts from, and the label windows of which it is made and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import recsys
from recsys.artifacts import version_of
from recsys.data.dataset import Dataset
from recsys.evaluation.protocol import Window
from recsys.ranking.cut import Cut
from recsys.ranking.ranker import RankerParams
from recsys.ranking.windows import training_windows
from recsys.steps.context import HISTORY, Context
from recsys.steps.recipe import ranker_params
from recsys.steps.stages import history_artifacts, loaded, usable_generators
from recsys.steps.train_generator import generator_params
from recsys.types import Interactions


@dataclass(frozen=True)
class Plan:
    """The inputs of one training."""

    dataset: str
    data: Dataset
    interactions: Interactions
    windows: list[Window]  # oldest first
    generators: list[str]
    artifacts: list[dict[str, str]]  # per window: generator → reference
    params: RankerParams
    recipe: str  # a hash of all that a ranker is made by but the data
    version: str

    @property
    def artifact(self) -> str:
        return f"ranker/{self.version}"


def plan_of(ctx: Context, ref: str, data: Dataset) -> Plan:
    """The inputs of the training on a data set, as the settings have it."""
    interactions, keep = data.interactions(), ctx.settings
    windows = training_windows(interactions, n=keep.n_label_windows, days=keep.label_window_days)
    names = usable_generators(ctx, interactions, data.meta.task)
    artifacts = [history_artifacts(ctx, ref, names, window.cut_at) for window in windows]
    params = ranker_params(keep)
    recipe = {
        "generators": names,
        "generator_params": {name: generator_params(ctx, name) for name in names},
        "params": asdict(params),
        "windows": [keep.n_label_windows, keep.label_window_days],
        "meaning": [data.meta.task, data.meta.label_event_types, data.meta.bought_event_types, data.meta.event_weights],
        "code": recsys.__version__,
    }
    ingredients = {
        "dataset": ref,
        "windows": [asdict(window) for window in windows],
        "artifacts": artifacts,
        "recipe": recipe,
    }
    named = version_of(data.meta.as_of_at, recipe).rpartition("-")[2]
    version = version_of(data.meta.as_of_at, ingredients)
    return Plan(ref, data, interactions, windows, names, artifacts, params, named, version)


def cut_of(
    ctx: Context, plan: Plan, number: int, names: Sequence[str] = (), artifacts: Mapping[str, str] | None = None
) -> Cut:
    """What was known before a window of the plan; with the generators `names`, too, and the models of them."""
    fitted = loaded(ctx, {**plan.artifacts[number], **(artifacts or {})}, HISTORY)
    generators = list(dict.fromkeys([*plan.generators, *names]))
    return Cut(plan.data, plan.interactions, plan.windows[number].cut_at, generators, fitted)
