"""The sources of recommendations: stored lists, lists computed from recent events (fold-in), neighbours of seeds, and
default lists. Each is a column of items, best first; only recommended ones become picks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, Protocol

import numpy as np

from recsys.serving import core, recent
from recsys.serving.config import ServingConfig
from recsys.serving.core import Attribution, Fits, Pick, StoredList, attribution
from recsys.serving.fold_in import FoldIn
from recsys.serving.neighbours import NeighbourIndex
from recsys.serving.recent import N_FOLLOWED
from recsys.serving.selection import drawn, seed_of
from recsys.serving.snapshot import ALL_ITEMS, Query, Snapshot, UserState
from recsys.session_index import SessionIndex, neighbours_scores

RANKED, PERSONAL = "ranked", "personal"
POPULAR_IN_CATEGORY, POPULAR, AVAILABLE = "popular_in_category", "popular", "available"
EDITORIAL, POPULAR_SAMPLED = "editorial", "popular_sampled"  # drawn for a user and a day
I2I, SIMILAR = "i2i", "similar"
FOLD_IN = "fold_in"  # a list computed from recent events, for users without one
SESSION = "session"  # what follows recent events in the sessions of others
CANDIDATE = "candidate"  # one of `candidate_keys` that is in no list

N_CALLED: Final = 100  # the best neighbours of all seeds
N_REASONS: Final = 5  # newest distinct items of the user that `explain` compares
_EMPTY: Final = StoredList.of((), (), ())


class Column(Protocol):
    """Items of one source, best first."""

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        """The first `n` allowed items, or fewer, as `core.first`; another call continues."""


class Listed:
    """A stored list; empty where there is none."""

    weight = 1.0  # in `core.Fused`
    weight_beside_sessions = 1.0  # the same where sessions follow in place of neighbours

    def __init__(self, snapshot: Snapshot, kind: str, stored: StoredList | None, source: str = "") -> None:
        version = snapshot.publication.lists.get(kind)
        self.stored = stored if stored is not None and version is not None else _EMPTY
        self.attributions = _attributions(source or kind, version.sources if version else ())

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        return self.stored.first(n, unwanted, available, fits, self.attributions)


class FoldedIn(Listed):
    """The list of a user without a stored one, computed from recent events; empty with too few events."""

    weight = 0.5  # like neighbours, it is based on recent events only: research/benchmarks/fold_in.py
    weight_beside_sessions = 1 / 16  # recsys benchmark b6

    def __init__(self, snapshot: Snapshot, fold_in: FoldIn, user: UserState, config: ServingConfig) -> None:
        meaning = snapshot.meaning.under(config)
        weights = recent.seeds(recent.followed(user.recent, user.seq), meaning, 24 * fold_in.half_life_days, N_FOLLOWED)
        keys, scores = fold_in.recommend(weights, snapshot.items.available_by_key)
        self.stored = StoredList.of(keys, scores, [0] * len(keys))
        self.attributions = (attribution(FOLD_IN, "als"),)


class Called:
    """Neighbours of the seeds, best first."""

    def __init__(self, snapshot: Snapshot, kind: str, index: NeighbourIndex, seed_weights: dict[int, float]) -> None:
        self.best = index.called(seed_weights, N_CALLED)
        version = snapshot.publication.lists.get(kind)
        self.attribution = attribution(kind, version.sources[0] if version and len(version.sources) == 1 else None)

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        places, keys = core.first(self.best.keys, n, unwanted, available, fits)
        return [
            Pick(key, self.best.score(place), self.attribution, self.best.because)
            for place, key in zip(places, keys, strict=True)
        ]


class Following:
    """What follows a user's clicks in the sessions of others, best first; the clicked items only with `own_items`."""

    attribution = attribution(SESSION, "session_neighbours")

    def __init__(self, index: SessionIndex, clicks: Sequence[int], *, own_items: bool) -> None:
        """`clicks`: item keys, newest first."""
        self._index, self._clicks = index, clicks
        keys, scores = neighbours_scores(index, clicks)
        kept = scores > 0 if own_items else (scores > 0) & ~np.isin(keys, clicks)
        keys, scores = keys[kept], scores[kept]
        best = np.lexsort((keys, -scores))[:N_CALLED]
        self.keys: list[int] = keys[best].tolist()
        self._scores: list[float] = scores[best].tolist()
        self._by_click: list[dict[int, float]] | None = None

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        places, keys = core.first(self.keys, n, unwanted, available, fits)
        return [
            Pick(key, self._scores[place], self.attribution, self.because)
            for place, key in zip(places, keys, strict=True)
        ]

    def score(self, place: int) -> float:
        """Of the item at this place of `keys`."""
        return self._scores[place]

    def because(self, item_key: int, /) -> int:
        """The newest of the clicked items for which this one follows best; itself, if it was clicked."""
        distinct = list(dict.fromkeys(self._clicks))
        if item_key in distinct:
            return item_key
        if self._by_click is None:  # asked for all items of a response, or none
            alone = (neighbours_scores(self._index, [key]) for key in distinct[:N_REASONS])
            self._by_click = [dict(zip(keys.tolist(), scores.tolist(), strict=True)) for keys, scores in alone]
        found = [scores.get(item_key, 0.0) for scores in self._by_click]
        return distinct[found.index(max(found))]


class Unscored:
    """Items without scores, to fill up."""

    def __init__(self, source: str, keys: Iterable[int]) -> None:
        self._attribution, self._keys = attribution(source), keys

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        return [Pick(key, None, self._attribution) for key in core.first(self._keys, n, unwanted, available, fits)[1]]


class Picked:
    """Ready picks."""

    def __init__(self, picks: Sequence[Pick]) -> None:
        self._picks = picks

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        keys = [pick.item_key for pick in self._picks]
        return [self._picks[place] for place in core.first(keys, n, unwanted, available, fits)[0]]


@lru_cache(maxsize=1000)
def _attributions(source: str, generators: tuple[str, ...]) -> tuple[Attribution, ...]:
    """The attributions of a list's entries by source; the last one is for any other source."""
    return (*(attribution(source, generator) for generator in generators), attribution(source))


def of_context(snapshot: Snapshot, context_keys: Sequence[int]) -> Iterator[Column]:
    """Neighbours of the product or the cart: co-occurring items, then similar ones."""
    if not context_keys:
        return
    for kind in (I2I, SIMILAR):
        index = snapshot.neighbours.get(kind)
        if index is not None:
            yield Called(snapshot, kind, index, dict.fromkeys(context_keys, 1.0))


def popular_in_category(snapshot: Snapshot, category_key: int | None) -> Iterator[Column]:
    """Default lists of the category, then of its ancestors."""
    for owner in snapshot.categories.lineage(category_key) if category_key is not None else ():
        yield _default(snapshot, owner, POPULAR_IN_CATEGORY)


def popular(snapshot: Snapshot) -> Column:
    """The default list over all items."""
    return _default(snapshot, ALL_ITEMS, POPULAR)


def popular_sampled(snapshot: Snapshot, query: Query) -> Column:
    """The default list over all items in an order drawn by its scores."""
    stored = snapshot.list_of("default", ALL_ITEMS) or _EMPTY
    keys, scores = np.asarray(stored.item_keys), np.asarray(stored.scores)
    return Unscored(POPULAR_SAMPLED, drawn(keys, scores, seed_of(query.who, query.now_ms, POPULAR_SAMPLED)).tolist())


def editorial(snapshot: Snapshot, query: Query) -> Column:
    """Available items with a positive weight of the editors', drawn by it."""
    keys, weights = snapshot.items.weighted()
    return Unscored(EDITORIAL, drawn(keys, weights, seed_of(query.who, query.now_ms, EDITORIAL)).tolist())


def _default(snapshot: Snapshot, owner: int, source: str) -> Column:
    return Listed(snapshot, "default", snapshot.list_of("default", owner), source)
