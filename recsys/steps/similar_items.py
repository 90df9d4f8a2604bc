"""Write the lists of similar items: by ALS item factors, or by content for items that few users have."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from recsys.candidates.content import Content
from recsys.data.dataset import Dataset
from recsys.errors import ModelError, NothingToDoError
from recsys.evaluation.metrics import n_users_by_item
from recsys.steps.context import SERVING, Context, may_skip, step
from recsys.steps.train_generator import generator_params, load_generator
from recsys.steps.write_lists import blocks, to_lists, write_lists
from recsys.types import Catalogue, Keys, Lists, SimilarItems

logger = logging.getLogger(__name__)

ALS, CONTENT = "als", "content"
SOURCES = (ALS, CONTENT)
NONE: Keys = np.zeros(0, dtype=np.int32)
FEW_USERS = 5  # an item with as many or fewer has the neighbours of its content, if any: research/tried.md


@step
@may_skip
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Neighbours of every item of the catalogue, each list by one of `SOURCES`; `dataset`: the newest when None.

    Without an ALS model all lists are by content; the result says why, under "without_als".
    """
    ctx = ctx or Context.open()
    ref, data = ctx.dataset(dataset)
    model, why = _als_of(ctx, ref)
    params, length = generator_params(ctx, CONTENT), ctx.settings.neighbours

    def make() -> Iterator[Lists]:
        als = None if model is None else load_generator(ctx, model, SERVING)
        if als is not None and not isinstance(als, SimilarItems):
            raise ModelError(f"{model} has no neighbours of items")
        yield from _lists(data, als, Content(**params), length)

    inputs = {"model": model, "content": params, "few_users": FEW_USERS, "length": length}
    result = write_lists(
        ctx,
        "similar",
        "similar_items",
        ref,
        data,
        make,
        sources=SOURCES,
        inputs=inputs,
        force=force,
        why_none="no item has a similar one on offer: "
        + (why or "neither by its users nor by its category, properties and title"),
    )
    return result if why is None else result | {"without_als": why}


def _als_of(ctx: Context, dataset: str) -> tuple[str | None, str | None]:
    """The ALS model; or None, and why there is none."""
    try:
        return ctx.serving_model(ALS, dataset), None
    except NothingToDoError as error:
        logger.warning("similar items by content alone: %s", error)
        return None, str(error)


def _lists(data: Dataset, als: SimilarItems | None, content: Content, length: int) -> Iterator[Lists]:
    """Lists of each item by the first that has any: content, where users are few; ALS; content."""
    interactions, catalogue = data.interactions(), data.catalogue()
    content.fit(interactions, catalogue)
    popular = catalogue.item_key[n_users_by_item(interactions, _width(catalogue))[catalogue.item_key] > FEW_USERS]
    turns: list[tuple[str, SimilarItems | None, Keys]] = [(CONTENT, content, popular), (ALS, als, NONE)]
    n_lists = dict.fromkeys(SOURCES, 0)
    for waiting in blocks(catalogue.item_key):
        for source, model, left_out in [*turns, (CONTENT, content, NONE)]:
            requested = waiting[~np.isin(waiting, left_out)]
            if model is None or not len(requested):
                continue
            lists = to_lists(model.similar(requested, length), catalogue, SOURCES.index(source))
            waiting = waiting[~np.isin(waiting, lists.owner_key)]
            n_lists[source] += len(lists)
            yield lists
    logger.info("lists of similar items: %s", ", ".join(f"{n} by {source}" for source, n in n_lists.items()))


def _width(catalogue: Catalogue) -> int:
    return int(catalogue.item_key.max(initial=0)) + 1
