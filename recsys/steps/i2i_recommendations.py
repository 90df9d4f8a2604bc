"""Write the item-to-item lists: items that follow an item in time, by co-visitation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from recsys.candidates.covisitation import Covisitation
from recsys.steps.context import Context, may_skip, step
from recsys.steps.train_generator import generator_params
from recsys.steps.write_lists import blocks, to_lists, write_lists
from recsys.types import Lists


@step
@may_skip
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Neighbours of every item that has events; `dataset`: the newest when None."""
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    params = generator_params(ctx, "covisitation")
    length = ctx.settings.neighbours

    def make() -> Iterator[Lists]:
        interactions, catalogue = data.interactions(), data.catalogue()
        model = Covisitation(**params).fit(interactions, catalogue)
        for items in blocks(np.unique(interactions.item_key)):
            yield to_lists(model.similar(items, length), catalogue)

    inputs = {"covisitation": params, "length": length}
    return write_lists(
        ctx,
        "i2i",
        "i2i_recommendations",
        ref,
        data,
        make,
        sources=["covisitation"],
        inputs=inputs,
        force=force,
        why_none="no item has neighbours: no two on offer were used by one user in one session or within "
        f"{params['within_hours']:g} hours (RECSYS_GENERATOR_PARAMS, covisitation: within_hours)",
    )
