"""Write the default lists: popular items overall, and within each category and its descendants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from recsys.candidates.popular import Popular
from recsys.steps.context import Context, step
from recsys.steps.train_generator import generator_params
from recsys.steps.write_lists import to_lists, write_lists
from recsys.storage.tables import ALL_ITEMS_OWNER
from recsys.types import Candidates, Lists


@step
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """One list for all items and one per category that has popular items; `dataset`: the newest when None."""
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    params = generator_params(ctx, "popular")
    length = ctx.settings.list_length

    def make() -> Iterator[Lists]:
        catalogue = data.catalogue()
        popular = Popular(**params).fit(data.interactions(), catalogue)
        keys, scores = popular.top(length)
        overall = Candidates(np.array([ALL_ITEMS_OWNER], dtype=np.int32), keys[None, :], scores[None, :])
        yield to_lists(overall, catalogue)
        parents = data.table("categories", ["category_key", "parent_category_key"])
        by_category = popular.top_by_category(length, dict(zip(*(c.to_pylist() for c in parents.columns), strict=True)))
        yield to_lists(by_category, catalogue)

    inputs = {"popular": params, "length": length}
    return write_lists(
        ctx, "default", "default_recommendations", ref, data, make, sources=["popular"], inputs=inputs, force=force
    )
