"""The cascade: sources in order, each filling what the former left open; the rules hold for all of them.

What is in context (a product, a cart) calls its neighbours first; then the user's stored list, or one that is made of
their latest events where none is stored, blended with the neighbours of what they did a moment ago; then popular in the
category and its parents, popular, any available.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Final

import numpy as np

from recsys.serving import diversity, eligibility, filters, recent
from recsys.serving.blend import blended, rescored
from recsys.serving.catalogue import ItemDictionary
from recsys.serving.config import DEFAULT, ServingConfig, SurfaceConfig
from recsys.serving.core import Fits, Pick
from recsys.serving.eligibility import ANYTHING, Restriction
from recsys.serving.snapshot import Query, Snapshot, UserState
from recsys.serving.sources import (
    AVAILABLE,
    CANDIDATE,
    I2I,
    SIMILAR,
    Column,
    Listed,
    Unscored,
    of_context,
    popular,
    popular_in_category,
)

_FILLING: Final = {AVAILABLE, CANDIDATE}  # nobody recommends these
NOTHING = "nothing"  # the tier of an answer that no source could give an item to


def recommend(snapshot: Snapshot, user: UserState, query: Query, config: ServingConfig = DEFAULT) -> list[Pick]:
    """`min(top_k, possible)` distinct items, none of which is unavailable, excluded, bought, in the context, outside
    of the category or of the candidates, filtered out, or beyond the quota of its category; possible is what these
    leave. Fewer only where the surface is configured without `available`."""
    surface = config.by_surface[query.surface]
    restriction = _restriction(snapshot, query, surface)
    unwanted = {
        *query.excluded,
        *query.context_keys,
        *recent.bought(user.recent, snapshot.meaning, config, query.now_ms, user.history),
    }
    items, quota, n = snapshot.items, surface.max_per_category, query.top_k
    fits = None if restriction is ANYTHING else eligibility.fitting(items, restriction)
    if surface.diversity:
        n = max(n, diversity.POOL)
    if query.candidate_keys is not None:
        fits = eligibility.among(query.candidate_keys, fits)
        allowed = eligibility.allowed(items, unwanted, restriction)
        n = min(n, eligibility.n_possible(query.candidate_keys, allowed, items, quota))
    if quota is not None:
        fits = eligibility.within_quota(fits, items, quota)
    columns = _columns(snapshot, user, query, config, _newest(items, unwanted, restriction, quota))
    found = fill(columns, items, unwanted, n, fits)
    return _diverse(snapshot, found, surface.diversity, query.top_k) if surface.diversity else found


def neighbours(snapshot: Snapshot, item_key: int, *, top_k: int) -> list[Pick]:
    """At most `top_k` available neighbours of an item, never itself: what goes with it, then what is like it."""

    columns = (Listed(snapshot, kind, snapshot.list_of(kind, item_key)) for kind in (I2I, SIMILAR))
    return fill(columns, snapshot.items, {item_key}, top_k)


def fill(
    columns: Iterable[Column], items: ItemDictionary, unwanted: set[int], top_k: int, fits: Fits | None = None
) -> list[Pick]:
    """The first `top_k` distinct available ones that are not unwanted and fit; fewer only when there are no more. What
    is taken is unwanted from then on."""
    picks: list[Pick] = []
    for column in columns if top_k > 0 else ():
        picks += column.first(top_k - len(picks), unwanted, items.availability, fits)
        if len(picks) == top_k:
            break
    return picks


def tier(picks: Sequence[Pick]) -> str:
    """The source that answered: that of the first item."""
    return picks[0].attribution.source if picks else NOTHING


def _restriction(snapshot: Snapshot, query: Query, surface: SurfaceConfig) -> Restriction:
    """What request and surface ask of every item."""
    found = query.restriction or ANYTHING
    if query.category_key is not None:
        found &= Restriction(snapshot.categories.subtree(query.category_key))
    if surface.filters is not None:
        found &= filters.resolve(surface.filters, snapshot.items, snapshot.categories)
    return found


def _newest(
    items: ItemDictionary, unwanted: Set[int], restriction: Restriction, quota: int | None
) -> Callable[[], Iterable[int]]:
    """Gives the items that fill up, when all else is at its end."""
    if restriction is ANYTHING and quota is None:
        return items.newest_available
    return lambda: eligibility.newest(items, unwanted, restriction, quota)


def _diverse(snapshot: Snapshot, picks: list[Pick], weight: float, top_k: int) -> list[Pick]:
    """The best reordered; those that only fill up stay behind them, in their order."""
    n = next((n for n, pick in enumerate(picks[: diversity.POOL]) if pick.source in _FILLING), diversity.POOL)
    best = np.array([pick.item_key for pick in picks[:n]], dtype=np.int64)
    alike = diversity.similarity(best, snapshot.items.categories_of(best), snapshot.factors)
    chosen = [picks[place] for place in diversity.reordered(alike, weight, top_k)]
    return chosen + picks[n:][: top_k - len(chosen)]


def _columns(
    snapshot: Snapshot, user: UserState, query: Query, config: ServingConfig, newest: Callable[[], Iterable[int]]
) -> Iterator[Column]:
    """All sources of the surface, one after the other; each is computed only when the former did not suffice."""
    surface = config.by_surface[query.surface]
    for name in surface.sources:
        if name == "context":
            yield from of_context(snapshot, query.context_keys)
        elif name == "lists":
            columns = blended(snapshot, user, config, surface)
            if surface.blend == "rescore" and user.score is not None:
                columns = rescored(columns, user.score, query.candidate_keys)
            yield from columns
        elif query.candidate_keys is not None:
            continue
        elif name == "popular_in_category":
            yield from popular_in_category(snapshot, query.category_key)
        elif name == "popular":
            yield popular(snapshot)
        else:
            yield Unscored(AVAILABLE, newest())
    if query.candidate_keys is not None:  # in the order of the default list, then the others as the client gave them
        yield popular(snapshot)
        yield Unscored(CANDIDATE, query.candidate_keys)
