"""Write the personal lists: the best items by ALS for every active user, without bought ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recsys.ranking.cut import mask_of
from recsys.steps.context import SERVING, Context, may_skip, step
from recsys.steps.train_generator import load_generator
from recsys.steps.write_lists import blocks, recent_users, to_lists, write_lists
from recsys.types import Lists


@step
@may_skip
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Lists for the most recently active users, up to `max_personal_users`; `dataset`: the newest when None."""
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    model = ctx.serving_model("als", ref)
    length, most = ctx.settings.list_length, ctx.settings.max_personal_users

    def make() -> Iterator[Lists]:
        als = load_generator(ctx, model, SERVING)
        interactions, catalogue = data.interactions(), data.catalogue()
        mask = mask_of(interactions, catalogue, data.meta, data.meta.task)
        for users in blocks(recent_users(interactions, most)):
            yield to_lists(als.candidates(users, length, seen=mask(users)), catalogue)

    inputs = {"model": model, "length": length, "max_users": most}
    return write_lists(
        ctx,
        "personal",
        "personal_recommendations",
        ref,
        data,
        make,
        sources=["als"],
        inputs=inputs,
        force=force,
        why_none="no user has an item on offer left that they did not buy",
    )
