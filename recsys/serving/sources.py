"""Where the items of an answer come from: stored lists, a list that is made of the latest events, neighbours that seeds
call, and the default lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from recsys.serving import recent
from recsys.serving.config import ServingConfig
from recsys.serving.fold_in import FoldIn
from recsys.serving.neighbours import Calls
from recsys.serving.query import UserState
from recsys.serving.recent import N_FOLLOWED
from recsys.serving.snapshot import ALL_ITEMS, Snapshot, StoredList

RANKED, PERSONAL = "ranked", "personal"
POPULAR_IN_CATEGORY, POPULAR, AVAILABLE = "popular_in_category", "popular", "available"
I2I, SIMILAR = "i2i", "similar"
FOLD_IN = "fold_in"  # a list that is made of the latest events, for somebody who has none
CANDIDATE = "candidate"  # one of `candidate_keys` that no source speaks for

N_CALLED: Final = 100  # items that seeds call, the best of them


class Pick(NamedTuple):
    """One item of an answer; its rank is its position + 1. Scores compare within one source only."""

    item_key: int
    score: float | None
    source: str
    generator: str | None
    because: Callable[[int], int] | None = None  # gives the item, of the user's own or in context, that called this one

    @property
    def because_key(self) -> int | None:
        """That item, None where the pick comes from a list alone."""
        return self.because(self.item_key) if self.because else None


def of_context(snapshot: Snapshot, context_keys: Sequence[int]) -> Iterator[Pick]:
    """Neighbours of the product or the cart: what goes with it, then what is like it."""
    seeds = dict.fromkeys(context_keys, 1.0)
    for kind in (I2I, SIMILAR):
        index = snapshot.neighbours.get(kind)
        if index is not None and seeds:
            yield from Called(snapshot, kind, index.of(seeds)).picks()


class Listed:
    """A stored list, and how its items become picks; empty where there is none."""

    weight: Final = 1.0  # in `fuse`

    def __init__(self, snapshot: Snapshot, kind: str, stored: StoredList | None, source: str = "") -> None:
        version = snapshot.publication.lists.get(kind)
        self.source, self.stored, self.names = source or kind, stored, version.sources if version else ()
        self.keys = stored.item_keys if stored is not None and version is not None else ()

    def pick(self, place: int, because: Callable[[int], int] | None = None) -> Pick:
        assert self.stored is not None  # noqa: S101 - or there would be no place
        source = self.stored.sources[place]
        name = self.names[source] if 0 <= source < len(self.names) else None
        return Pick(self.keys[place], self.stored.scores[place], self.source, name, because)

    def picks(self) -> Iterator[Pick]:
        return map(self.pick, range(len(self.keys)))


class FoldedIn:
    """The list of a user whom the model does not know, and how its items become picks; empty with too few events."""

    weight: Final = 0.5  # as the neighbours it knows the latest events alone: research/benchmarks/fold_in.py

    def __init__(self, snapshot: Snapshot, fold_in: FoldIn, user: UserState, config: ServingConfig) -> None:
        meaning = snapshot.meaning.under(config)
        weights = recent.seeds(user.followed, meaning, 24 * fold_in.half_life_days, N_FOLLOWED)
        self.keys, self.scores = fold_in.recommend(weights, snapshot.items.available_by_key)

    def pick(self, place: int, because: Callable[[int], int] | None = None) -> Pick:
        return Pick(self.keys[place], self.scores[place], FOLD_IN, "als", because)

    def picks(self) -> Iterator[Pick]:
        return map(self.pick, range(len(self.keys)))


class Called:
    """Items that seeds call, and how they become picks."""

    def __init__(self, snapshot: Snapshot, kind: str, calls: Calls) -> None:
        self.kind, self.calls = kind, calls
        self.keys, self.scores = calls.best(N_CALLED)
        version = snapshot.publication.lists.get(kind)
        self.generator = version.sources[0] if version and len(version.sources) == 1 else None

    def pick(self, place: int) -> Pick:
        key = self.keys[place]
        return Pick(key, self.scores[place], self.kind, self.generator, self.calls.because)

    def picks(self) -> Iterator[Pick]:
        return map(self.pick, range(len(self.keys)))


def popular_in_category(snapshot: Snapshot, category_key: int | None) -> Iterator[Pick]:
    """Default lists of the category, then of those above it."""
    for owner in snapshot.categories.lineage(category_key) if category_key is not None else ():
        yield from _default(snapshot, owner, POPULAR_IN_CATEGORY)


def popular(snapshot: Snapshot) -> Iterator[Pick]:
    """The default list over all items."""
    return _default(snapshot, ALL_ITEMS, POPULAR)


def _default(snapshot: Snapshot, owner: int, source: str) -> Iterator[Pick]:
    return Listed(snapshot, "default", snapshot.list_of("default", owner), source).picks()


def by_popularity(snapshot: Snapshot, candidate_keys: Sequence[int]) -> Iterator[Pick]:
    """Candidates in the order of the default list, then the others as the client gave them."""
    yield from popular(snapshot)
    yield from (Pick(key, None, CANDIDATE, None) for key in candidate_keys)
