"""Where the items of an answer come from: stored lists, a list that is made of the latest events, neighbours that seeds
call, and the default lists. Each is a column of item keys, best first; only what is shown becomes a pick."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.serving import recent
from recsys.serving.config import ServingConfig
from recsys.serving.fold_in import FoldIn
from recsys.serving.neighbours import NeighbourIndex
from recsys.serving.recent import N_FOLLOWED
from recsys.serving.snapshot import ALL_ITEMS, Snapshot, StoredList, UserState

RANKED, PERSONAL = "ranked", "personal"
POPULAR_IN_CATEGORY, POPULAR, AVAILABLE = "popular_in_category", "popular", "available"
I2I, SIMILAR = "i2i", "similar"
FOLD_IN = "fold_in"  # a list that is made of the latest events, for somebody who has none
CANDIDATE = "candidate"  # one of `candidate_keys` that no source speaks for

NO_KEYS: Final = np.zeros(0, dtype=np.int32)
N_CALLED: Final = 100  # items that seeds call, the best of them

Because = Callable[[int], int]  # gives the item, of the user's own or in context, that called an item


class Pick(NamedTuple):
    """One item of an answer; its rank is its position + 1. Scores compare within one source only."""

    item_key: int
    score: float | None
    source: str
    generator: str | None
    because: Because | None = None

    @property
    def because_key(self) -> int | None:
        """The item that called this one, None where the pick comes from a list alone."""
        return self.because(self.item_key) if self.because else None


class Column(Protocol):
    """Items of one source, best first; `keys` may go on without being computed, so it is gone through once."""

    @property
    def keys(self) -> Iterable[int]: ...

    def picks(self, places: Sequence[int], item_keys: Sequence[int]) -> list[Pick]:
        """The items at these places of `keys`, with what the source says of them."""


class RankedColumn(Column, Protocol):
    """A list that can be blended with what is called."""

    array: NDArray[np.int32]  # its keys

    def pick(self, place: int, item_key: int, because: Because | None = None) -> Pick:
        """One of `picks`; `because`: what called the item as well."""


class Listed:
    """A stored list; empty where there is none."""

    weight: Final = 1.0  # in `fuse`

    def __init__(self, snapshot: Snapshot, kind: str, stored: StoredList | None, source: str = "") -> None:
        version = snapshot.publication.lists.get(kind)
        self._source, self._stored, self._names = source or kind, stored, version.sources if version else ()
        self.array = stored.item_keys if stored is not None and version is not None else NO_KEYS

    @property
    def keys(self) -> list[int]:
        return self.array.tolist()

    def pick(self, place: int, item_key: int, because: Because | None = None) -> Pick:
        assert self._stored is not None  # noqa: S101 - or there would be no place
        source = self._stored.sources[place]
        name = self._names[source] if 0 <= source < len(self._names) else None
        return Pick(item_key, self._stored.scores.item(place), self._source, name, because)

    def picks(self, places: Sequence[int], item_keys: Sequence[int]) -> list[Pick]:
        return list(map(self.pick, places, item_keys))


class FoldedIn:
    """The list of a user whom the model does not know; empty with too few events."""

    weight: Final = 0.5  # as the neighbours it knows the latest events alone: research/benchmarks/fold_in.py

    def __init__(self, snapshot: Snapshot, fold_in: FoldIn, user: UserState, config: ServingConfig) -> None:
        meaning = snapshot.meaning.under(config)
        weights = recent.seeds(user.followed, meaning, 24 * fold_in.half_life_days, N_FOLLOWED)
        self.keys, self._scores = fold_in.recommend(weights, snapshot.items.available_by_key)
        self.array = np.array(self.keys, dtype=np.int32)

    def pick(self, place: int, item_key: int, because: Because | None = None) -> Pick:
        return Pick(item_key, self._scores[place], FOLD_IN, "als", because)

    def picks(self, places: Sequence[int], item_keys: Sequence[int]) -> list[Pick]:
        return list(map(self.pick, places, item_keys))


class Called:
    """Items that seeds call."""

    def __init__(self, snapshot: Snapshot, kind: str, index: NeighbourIndex, seed_weights: dict[int, float]) -> None:
        self._kind, self._index, self._seed_weights = kind, index, seed_weights
        self.best = index.called(seed_weights, N_CALLED)
        version = snapshot.publication.lists.get(kind)
        self._generator = version.sources[0] if version and len(version.sources) == 1 else None

    @property
    def keys(self) -> list[int]:
        return self.best.keys

    def because(self, item_key: int) -> int:
        """The seed that calls an item most loudly."""
        return self._index.because(self._seed_weights, item_key)

    def pick(self, place: int, item_key: int) -> Pick:
        return Pick(item_key, self.best.score(place), self._kind, self._generator, self.because)

    def picks(self, places: Sequence[int], item_keys: Sequence[int]) -> list[Pick]:
        return list(map(self.pick, places, item_keys))


class Unscored:
    """Items that nobody recommends, by which an answer is filled up."""

    def __init__(self, source: str, keys: Iterable[int]) -> None:
        self._source, self.keys = source, keys

    def picks(self, places: Sequence[int], item_keys: Sequence[int]) -> list[Pick]:
        return [Pick(key, None, self._source, None) for key in item_keys]


class Picked:
    """Items of which all is known already."""

    def __init__(self, picks: Sequence[Pick]) -> None:
        self._picks = picks
        self.keys = [pick.item_key for pick in picks]

    def picks(self, places: Sequence[int], item_keys: Sequence[int]) -> list[Pick]:
        return [self._picks[place] for place in places]


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
