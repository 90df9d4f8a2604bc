"""Stores candidates as lists; shared by the list steps."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import recsys
from recsys.artifacts import version_of
from recsys.data.dataset import Dataset
from recsys.errors import EmptyResultError, NothingToDoError
from recsys.steps.context import Context
from recsys.storage import lists as list_store
from recsys.types import Candidates, Catalogue, Interactions, Keys, Lists

logger = logging.getLogger(__name__)

OWNERS_PER_BLOCK = 20_000


def write_lists(
    ctx: Context,
    kind: str,
    step: str,
    dataset: str,
    data: Dataset,
    make: Callable[[], Iterator[Lists]],
    *,
    sources: Sequence[str],
    inputs: Mapping[str, Any],
    force: bool,
    why_none: str | None = None,
) -> dict[str, Any]:
    """Write a list version whose name is a hash of its inputs; a complete version is reused, unless `force`.

    Raises EmptyResultError when there is no list: a successful run means that there are lists. Where sparse data may
    legitimately give none, `why_none` is the reason of a NothingToDoError.
    """
    ingredients = {"kind": kind, "dataset": dataset, "code": recsys.__version__, **inputs}
    if force:
        ingredients["made_at"] = dt.datetime.now(dt.UTC).isoformat()
    try:
        written = list_store.write(
            ctx.engine,
            kind,
            version_of(data.meta.as_of_at, ingredients),
            make,
            dataset=dataset,
            made_by=step,
            sources=sources,
            meta={**inputs, "task": data.meta.task},
        )
    except EmptyResultError as error:
        if why_none is None:
            raise
        raise NothingToDoError(why_none) from error
    ctx.record(step, dataset, f"{kind}/{written.version}", as_of=data.meta.as_of, metrics={"n_rows": written.n_rows})
    return {"dataset": dataset, "list_version": written.list_version_id, "n_rows": written.n_rows}


def to_lists(candidates: Candidates, catalogue: Catalogue, source: int = 0) -> Lists:
    """Candidates of one generator as lists, without items not on offer and without empty lists."""
    sources = np.full(candidates.item_key.shape, source, dtype=np.int16)
    return offered(Lists(candidates.owner_key, candidates.item_key, candidates.score, sources), catalogue)


def offered(lists: Lists, catalogue: Catalogue) -> Lists:
    """The lists without items that the catalogue does not offer, and without lists that are empty then."""
    keep = catalogue.offers(lists.item_key)
    order = np.argsort(~keep, axis=1, kind="stable")  # kept items move up, in order
    keys = np.take_along_axis(np.where(keep, lists.item_key, np.int32(-1)), order, axis=1)
    scores = np.take_along_axis(np.where(keep, lists.score, np.float32(np.nan)), order, axis=1)
    sources = np.take_along_axis(lists.source, order, axis=1)
    moved = Lists(lists.owner_key, keys, scores, sources)
    return moved.take(moved.lengths > 0)


def recent_users(interactions: Interactions, n: int) -> Keys:
    """The `n` most recently active users, by ascending key."""
    last_first = interactions.user_key[::-1]
    users, first = np.unique(last_first, return_index=True)
    if len(users) > n:
        users = np.sort(users[np.argsort(first, kind="stable")[:n]])
    return users.astype(np.int32)


def blocks(keys: Keys) -> Iterator[Keys]:
    """`keys` in blocks of bounded length."""
    for start in range(0, len(keys), OWNERS_PER_BLOCK):
        logger.info("lists of %d owners; %d are done", len(keys), start)
        yield keys[start : start + OWNERS_PER_BLOCK]
