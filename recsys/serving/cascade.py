"""The cascade: sources in order, each filling the places that the previous ones left open; the rules apply to all.

First the neighbours of the items in context (a product, a cart); then the user's stored list, or without one a list
computed from their recent events, blended with neighbours of recent events; then popular items of the category and its
parents, popular items, any available ones.
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
    editorial,
    of_context,
    popular,
    popular_in_category,
    popular_sampled,
)

_FILLING: Final = {AVAILABLE, CANDIDATE}  # fillers, of no list
NOTHING = "nothing"  # the tier of a response without items


def recommend(snapshot: Snapshot, user: UserState, query: Query, config: ServingConfig = DEFAULT) -> list[Pick]:
    """`top_k` distinct items, none of which is unavailable, excluded, bought, in the context, outside of the category
    or of the candidates, filtered out, or beyond the quota of its category. Fewer if not as many satisfy these rules,
    or where the surface is configured without `available`."""
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
    """At most `top_k` available neighbours of an item, never itself: co-occurring items, then similar ones."""

    columns = (Listed(snapshot, kind, snapshot.list_of(kind, item_key)) for kind in (I2I, SIMILAR))
    return fill(columns, snapshot.items, {item_key}, top_k)


def fill(
    columns: Iterable[Column], items: ItemDictionary, unwanted: set[int], top_k: int, fits: Fits | None = None
) -> list[Pick]:
    """The first `top_k` distinct available items that are not unwanted and fit; fewer only if there are no more. Picked
    items are added to `unwanted`."""
    picks: list[Pick] = []
    for column in columns if top_k > 0 else ():
        picks += column.first(top_k - len(picks), unwanted, items.availability, fits)
        if len(picks) == top_k:
            break
    return picks


def tier(picks: Sequence[Pick]) -> str:
    """The source of the first item."""
    return picks[0].attribution.source if picks else NOTHING


def _restriction(snapshot: Snapshot, query: Query, surface: SurfaceConfig) -> Restriction:
    """The restriction of request and surface together."""
    found = query.restriction or ANYTHING
    if query.category_key is not None:
        found &= Restriction(snapshot.categories.subtree(query.category_key))
    if surface.filters is not None:
        found &= filters.resolve(surface.filters, snapshot.items, snapshot.categories)
    return found


def _newest(
    items: ItemDictionary, unwanted: Set[int], restriction: Restriction, quota: int | None
) -> Callable[[], Iterable[int]]:
    """A function: the items that fill up, after all other sources."""
    if restriction is ANYTHING and quota is None:
        return items.newest_available
    return lambda: eligibility.newest(items, unwanted, restriction, quota)


def _diverse(snapshot: Snapshot, picks: list[Pick], weight: float, top_k: int) -> list[Pick]:
    """The best items reordered for diversity; fillers stay behind them, in their order."""
    n = next((n for n, pick in enumerate(picks[: diversity.POOL]) if pick.source in _FILLING), diversity.POOL)
    best = np.array([pick.item_key for pick in picks[:n]], dtype=np.int64)
    alike = diversity.similarity(best, snapshot.items.categories_of(best), snapshot.factors)
    chosen = [picks[place] for place in diversity.reordered(alike, weight, top_k)]
    return chosen + picks[n:][: top_k - len(chosen)]


def _columns(
    snapshot: Snapshot, user: UserState, query: Query, config: ServingConfig, newest: Callable[[], Iterable[int]]
) -> Iterator[Column]:
    """The sources of the surface, in order; each is computed only if the previous ones did not suffice."""
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
        elif name == "popular_sampled":
            yield popular_sampled(snapshot, query)
        elif name == "editorial":
            yield editorial(snapshot, query)
        else:
            yield Unscored(AVAILABLE, newest())
    if query.candidate_keys is not None:  # in the order of the default list, then the rest in the client's order
        yield popular(snapshot)
        yield Unscored(CANDIDATE, query.candidate_keys)
