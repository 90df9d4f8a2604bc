"""Write the ranked lists: every active user's candidates, ranked by the champion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recsys.errors import NothingToDoError
from recsys.ranking.cut import Cut
from recsys.ranking.ranker import Ranker
from recsys.ranking.two_stage import rank
from recsys.steps.context import SERVING, Context, may_skip, step
from recsys.steps.stages import loaded, serving_artifacts, task_of
from recsys.steps.train_generator import generator_params
from recsys.steps.write_lists import blocks, offered, recent_users, write_lists
from recsys.types import Lists


@step
@may_skip
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Ranked lists for the most recently active users, up to `max_ranked_users`; `dataset`: the newest when None.

    Without a champion of the data set's task the step is skipped (NothingToDoError).
    """
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    champion = ctx.champion("ranker")
    if champion is None:
        raise NothingToDoError(
            "no ranker has been accepted yet: personal and default lists serve; see why at train_ranker in MLflow"
        )
    folder, manifest = ctx.store.open(champion)
    if task_of(manifest) is not data.meta.task:
        raise NothingToDoError(
            f"the champion {champion} was trained for the task {task_of(manifest)}, and the data set is for "
            f"{data.meta.task}: personal and default lists serve until train_ranker makes one"
        )
    names: list[str] = manifest.meta["generators"]
    artifacts = serving_artifacts(ctx, ref, names)
    length, most = ctx.settings.list_length, ctx.settings.max_ranked_users

    def make() -> Iterator[Lists]:
        cut = Cut(data, data.interactions(), data.meta.as_of, names, loaded(ctx, artifacts, SERVING))
        stage, ranker = cut.stage(data.meta.task), Ranker.load(folder)
        for users in blocks(recent_users(cut.history, most)):
            yield offered(rank(ranker, stage, users, length), cut.catalogue)

    params = {name: generator_params(ctx, name) for name in names}
    inputs = {
        "ranker": champion,
        "artifacts": artifacts,
        "generator_params": params,
        "length": length,
        "max_users": most,
    }
    return write_lists(
        ctx,
        "ranked",
        "rank_users",
        ref,
        data,
        make,
        sources=names,
        inputs=inputs,
        force=force,
        why_none="no user has an item on offer left to be ranked",
    )
