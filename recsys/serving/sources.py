"""Where the items of an answer come from: stored lists, a list that is made of the latest events, neighbours that seeds
call, and the default lists. Each is a column of items, best first; only what is shown becomes a pick."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, Protocol

from recsys.serving import core, recent
from recsys.serving.config import ServingConfig
from recsys.serving.core import Attribution, Fits, Pick, attribution
from recsys.serving.fold_in import FoldIn
from recsys.serving.neighbours import NeighbourIndex
from recsys.serving.recent import N_FOLLOWED
from recsys.serving.snapshot import ALL_ITEMS, Snapshot, StoredList, UserState

RANKED, PERSONAL = "ranked", "personal"
POPULAR_IN_CATEGORY, POPULAR, AVAILABLE = "popular_in_category", "popular", "available"
I2I, SIMILAR = "i2i", "similar"
FOLD_IN = "fold_in"  # a list that is made of the latest events, for somebody who has none
CANDIDATE = "candidate"  # one of `candidate_keys` that no source speaks for

N_CALLED: Final = 100  # items that seeds call, the best of them
_EMPTY: Final = StoredList.of((), (), ())


class Column(Protocol):
    """Items of one source, best first."""

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        """The first `n` items that may be shown, if there are so many, as of `core.first`; another call goes on."""


class Listed:
    """A stored list; empty where there is none."""

    weight = 1.0  # in `core.Fused`

    def __init__(self, snapshot: Snapshot, kind: str, stored: StoredList | None, source: str = "") -> None:
        version = snapshot.publication.lists.get(kind)
        self.stored = stored if stored is not None and version is not None else _EMPTY
        self.attributions = _attributions(source or kind, version.sources if version else ())

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        keys, scores, sources = self.stored
        places, found = core.first(keys.tolist(), n, unwanted, available, fits)
        return [
            Pick(key, scores.item(place), self._attribution(sources.item(place)))
            for place, key in zip(places, found, strict=True)
        ]

    def _attribution(self, source: int) -> Attribution:
        last = len(self.attributions) - 1
        return self.attributions[source if 0 <= source < last else last]


class FoldedIn(Listed):
    """The list of a user whom the model does not know; empty with too few events."""

    weight = 0.5  # as the neighbours it knows the latest events alone: research/benchmarks/fold_in.py

    def __init__(self, snapshot: Snapshot, fold_in: FoldIn, user: UserState, config: ServingConfig) -> None:
        meaning = snapshot.meaning.under(config)
        weights = recent.seeds(recent.followed(user.recent, user.seq), meaning, 24 * fold_in.half_life_days, N_FOLLOWED)
        keys, scores = fold_in.recommend(weights, snapshot.items.available_by_key)
        self.stored = StoredList.of(keys, scores, [0] * len(keys))
        self.attributions = (attribution(FOLD_IN, "als"),)


class Called:
    """Items that seeds call."""

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


class Unscored:
    """Items that nobody recommends, by which an answer is filled up."""

    def __init__(self, source: str, keys: Iterable[int]) -> None:
        self._attribution, self._keys = attribution(source), keys

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        return [Pick(key, None, self._attribution) for key in core.first(self._keys, n, unwanted, available, fits)[1]]


class Picked:
    """Items of which all is known already."""

    def __init__(self, picks: Sequence[Pick]) -> None:
        self._picks = picks

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        keys = [pick.item_key for pick in self._picks]
        return [self._picks[place] for place in core.first(keys, n, unwanted, available, fits)[0]]


@lru_cache(maxsize=1000)
def _attributions(source: str, generators: tuple[str, ...]) -> tuple[Attribution, ...]:
    """Of a list's entries by their sources; the last one is that of an entry whose source is none of these."""
    return (*(attribution(source, generator) for generator in generators), attribution(source))


def of_context(snapshot: Snapshot, context_keys: Sequence[int]) -> Iterator[Column]:
    """Neighbours of the product or the cart: what goes with it, then what is like it."""
    if not context_keys:
        return
    for kind in (I2I, SIMILAR):
        index = snapshot.neighbours.get(kind)
        if index is not None:
            yield Called(snapshot, kind, index, dict.fromkeys(context_keys, 1.0))


def popular_in_category(snapshot: Snapshot, category_key: int | None) -> Iterator[Column]:
    """Default lists of the category, then of those above it."""
    for owner in snapshot.categories.lineage(category_key) if category_key is not None else ():
        yield _default(snapshot, owner, POPULAR_IN_CATEGORY)


def popular(snapshot: Snapshot) -> Column:
    """The default list over all items."""
    return _default(snapshot, ALL_ITEMS, POPULAR)


def _default(snapshot: Snapshot, owner: int, source: str) -> Column:
    return Listed(snapshot, "default", snapshot.list_of("default", owner), source)
