"""Write the lists of similar items: neighbours by the cosine of ALS item factors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from recsys.errors import ModelError
from recsys.steps.context import SERVING, Context, may_skip, step
from recsys.steps.train_generator import load_generator
from recsys.steps.write_lists import blocks, to_lists, write_lists
from recsys.types import Lists, SimilarItems


@step
@may_skip
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Neighbours of every item in the ALS model; `dataset`: the newest when None."""
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    model = ctx.serving_model("als", ref)
    length = ctx.settings.neighbours

    def make() -> Iterator[Lists]:
        als = load_generator(ctx, model, SERVING)
        if not isinstance(als, SimilarItems):
            raise ModelError(f"{model} has no neighbours of items")
        catalogue = data.catalogue()
        for items in blocks(np.unique(data.interactions().item_key)):
            yield to_lists(als.similar(items, length), catalogue)

    inputs = {"model": model, "length": length}
    return write_lists(
        ctx,
        "similar",
        "similar_items",
        ref,
        data,
        make,
        sources=["als"],
        inputs=inputs,
        force=force,
        why_none="no item has a similar one on offer",
    )
