"""The functions and classes of `compiled`, in Python and numpy; the contract of both is documented here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import Final, NamedTuple, Protocol, Self

import numpy as np
import orjson
from numpy.typing import NDArray

NO_ITEM: Final = -1
DAY_MS: Final = 86400e3
FUSION: Final = 60.0  # Cormack et al., "Reciprocal Rank Fusion", SIGIR 2009
_POINTS: Final = [1 / (FUSION + place) for place in range(1000)]  # by the settings lists have 1,000 items at most
_KEY_BITS, _KEY_MASK = 32, 0xFFFFFFFF
_END: Final = (1.0, -1)  # after all places

Fits = Callable[[int], bool]  # whether an item that is available and not unwanted may be recommended
Because = Callable[[int], int]  # item → the seed, of the user or in context, that contributed most to it


class Attribution(NamedTuple):
    """Source and generator of a recommended item, and both as members of a JSON object."""

    source: str
    generator: str | None
    json: bytes


class Pick(NamedTuple):
    """A recommended item; its rank is its position + 1. Scores are comparable within one source only."""

    item_key: int
    score: float | None
    attribution: Attribution
    because: Because | None = None

    @property
    def source(self) -> str:
        return self.attribution.source

    @property
    def generator(self) -> str | None:
        return self.attribution.generator

    @property
    def because_key(self) -> int | None:
        """The seed that contributed most to this item; None if it comes only from a list."""
        return self.because(self.item_key) if self.because else None


@lru_cache(maxsize=1000)
def attribution(source: str, generator: str | None = None) -> Attribution:
    """The attribution of items that a generator put into a source."""
    return Attribution(source, generator, orjson.dumps({"source": source, "generator": generator})[1:-1])


def seeds(
    item_keys: Sequence[int],
    event_types: Sequence[str],
    occurred_ms: Sequence[int],
    interests: Mapping[str, float],
    per_ms: float,
    n: int,
) -> dict[int, float]:
    """Item → the sum over its events of interest · 2^(age · `per_ms`), at most `n` items, those of the first events.

    Three columns of equal length, newest first; ages in ms, counted from the first. Events of interest ≤ 0 are
    ignored.
    """
    found: dict[int, float] = {}
    newest_ms = occurred_ms[0] if occurred_ms else 0
    for key, event_type, at_ms in zip(item_keys, event_types, occurred_ms, strict=True):
        if key not in found and len(found) == n:
            continue
        weight = interests[event_type] * 2.0 ** ((newest_ms - at_ms) * per_ms)
        if weight > 0:
            found[key] = found.get(key, 0.0) + weight
    return found


def bought(
    item_keys: Sequence[int], event_types: Sequence[str], occurred_ms: Sequence[int], since_ms: dict[str, float]
) -> set[int]:
    """Items with an event whose type is in `since_ms`, at that time or later. Three columns of equal length."""
    rows = zip(item_keys, event_types, occurred_ms, strict=True)
    return {key for key, type_, at_ms in rows if type_ in since_ms and at_ms >= since_ms[type_]}


def n_counted(item_keys: Sequence[int], event_types: Sequence[str], interests: Mapping[str, float], n: int) -> int:
    """The number of events, newest first, that `seeds` counts for `n` items: those of positive interest."""
    found: set[int] = set()
    count = 0
    for key, event_type in zip(item_keys, event_types, strict=True):
        if interests[event_type] > 0 and (key in found or len(found) < n):
            found.add(key)
            count += 1
    return count


def first(
    item_keys: Iterable[int], n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None
) -> tuple[list[int], list[int]]:
    """Places and keys of the first `n` ≥ 1 items, or fewer, that are available, not unwanted and fit.

    They are added to `unwanted`. `available`: by key, 1 if available; None for all. `fits` is called once for each item
    that satisfies the other conditions.
    """
    places: list[int] = []
    keys: list[int] = []
    for place, key in enumerate(item_keys):
        if _may(key, unwanted, available, fits):
            unwanted.add(key)
            places.append(place)
            keys.append(key)
            if len(keys) == n:
                break
    return places, keys


def _may(key: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> bool:
    if available is not None and not (0 <= key < len(available) and available[key]):
        return False
    return key not in unwanted and (fits is None or fits(key))


class StoredList:
    """One list as stored, best first, in three columns (n,): items, their scores, and their sources, which are
    positions in the `sources` of its version. A history of events: items, days since the epoch, types of events."""

    __slots__ = ("item_keys", "scores", "sources")

    def __init__(
        self, item_keys: NDArray[np.int32], scores: NDArray[np.float32], sources: NDArray[np.int16]
    ) -> None:  # fmt: skip
        if not len(item_keys) == len(scores) == len(sources):
            raise ValueError("columns of unequal length")
        self.item_keys, self.scores, self.sources = item_keys, scores, sources

    @classmethod
    def of(cls, item_keys: Sequence[int], scores: Sequence[float], sources: Sequence[int]) -> Self:
        """From sequences of numbers."""
        return cls(np.array(item_keys, np.int32), np.array(scores, np.float32), np.array(sources, np.int16))

    def first(
        self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None,
        attributions: tuple[Attribution, ...],
    ) -> list[Pick]:  # fmt: skip
        """The first `n` items, as the function `first`. A source is a position in `attributions`, whose last one is for
        all others."""
        places, keys = first(self.item_keys.tolist(), n, unwanted, available, fits)
        return [self.pick(place, key, attributions) for place, key in zip(places, keys, strict=True)]

    def pick(self, place: int, key: int, attributions: tuple[Attribution, ...], because: Because | None = None) -> Pick:
        """The item at this place, which has this key."""
        source, last = self.sources.item(place), len(attributions) - 1
        return Pick(key, self.scores.item(place), attributions[source if 0 <= source < last else last], because)

    def bought_since(self, event_types: Sequence[str], since_ms: Mapping[str, float]) -> set[int]:
        """Of a history, what the function `bought` finds; `event_types`: their names."""
        since_day = {at: since_ms[name] / DAY_MS for at, name in enumerate(event_types) if name in since_ms}
        rows = zip(self.item_keys.tolist(), self.scores.tolist(), self.sources.tolist(), strict=True)
        return {key for key, day, type_ in rows if type_ in since_day and day >= since_day[type_]}


class ListTable:
    """All lists of one kind: the columns of all, concatenated, in arrays that are only read."""

    __slots__ = ("_columns", "_rows", "_starts")

    def __init__(
        self,
        rows: NDArray[np.int32],
        starts: NDArray[np.int64],
        item_keys: NDArray[np.int32],
        scores: NDArray[np.float32],
        sources: NDArray[np.int16],
    ) -> None:
        """`rows`: owner → the list's number; `n_lists` for owners without one. `starts` (n_lists + 1,): where each list
        begins in the columns, and their end."""
        self._rows, self._starts, self._columns = rows, starts, (item_keys, scores, sources)

    def get(self, owner: int) -> StoredList | None:
        """The list of an owner; None where they have none."""
        n_lists = len(self._starts) - 1
        row = self._rows.item(owner) if 0 <= owner < len(self._rows) else n_lists
        if not 0 <= row < n_lists:
            return None
        start, end = self._starts.item(row), self._starts.item(row + 1)
        keys, scores, sources = self._columns
        return StoredList(keys[start:end], scores[start:end], sources[start:end])


class Neighbours:
    """The best neighbours by item key, see `recsys.serving.neighbours`; not thread-safe."""

    __slots__ = ("_sums", "keys", "rows", "scores")

    def __init__(self, rows: NDArray[np.int32], keys: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        """`rows`, `keys`, `scores`: as in NeighbourIndex."""
        self.rows, self.keys, self.scores = rows, keys, scores
        # by item, at the end for NO_ITEM: zeros between calls
        self._sums = np.zeros(max(int(keys.max(initial=0)), len(rows)) + 2, dtype=np.float32)

    def called(self, seed_weights: dict[int, float], n: int) -> Called:
        """The best `n` neighbours of the seeds."""
        return Called(self, self._sums, seed_weights, n)


class Called:
    """The `n` neighbours with the greatest sum of seed weight · score, best first; ties by the smaller key.

    Sums are accumulated as float32 in the order of the seeds. The seeds themselves are left out.
    """

    __slots__ = ("_index", "_scores", "_seed_weights", "keys")

    def __init__(
        self, index: Neighbours, sums: NDArray[np.float32], seed_weights: dict[int, float], n: int
    ) -> None:  # fmt: skip
        self._index, self._seed_weights = index, seed_weights
        n_seeds = len(seed_weights)
        of_seeds = np.fromiter(seed_weights, np.int64, n_seeds)
        at = index.rows.take(of_seeds, mode="clip")
        each = index.keys.take(at, 0).ravel().astype(np.int64)
        parts = index.scores.take(at, 0)
        parts *= np.fromiter(seed_weights.values(), np.float32, n_seeds)[:, None]
        np.add.at(sums, each, parts.ravel())
        sums.put(of_seeds, 0, mode="clip")  # keys beyond the last item are clipped to NO_ITEM's place
        sums[NO_ITEM] = 0
        found = sums.take(each)
        sums[each] = 0
        # One sort by sum and key: the bits of non-negative floats, read as integers, have the order of the values. A
        # neighbour of several seeds occurs several times, side by side. Padding and sums of 0 are ≥ NO_ITEM.
        both = each - (found.view(np.int32).astype(np.int64) << _KEY_BITS)
        both.sort()
        both = both[: both.searchsorted(NO_ITEM)]
        is_first = np.ones(len(both), dtype=bool)
        np.not_equal(both[1:], both[:-1], out=is_first[1:])
        best = both[is_first][:n]
        of_best = best & _KEY_MASK
        self.keys: list[int] = of_best.tolist()
        self._scores = ((of_best - best) >> _KEY_BITS).astype(np.int32).view(np.float32)

    def score(self, place: int) -> float:
        """The sum of the item at this place of `keys`."""
        return float(self._scores[place])

    def because(self, item_key: int) -> int:
        """The seed that contributes most to an item's sum, the first of equals; the item must be a neighbour of one."""
        index = self._index
        seeds = np.fromiter(self._seed_weights, np.int64, len(self._seed_weights))
        at = index.rows.take(seeds, mode="clip")
        parts = index.scores.take(at, 0) * np.fromiter(self._seed_weights.values(), np.float32, len(seeds))[:, None]
        return int(seeds[np.where(index.keys.take(at, 0) == item_key, parts, -1.0).max(axis=1).argmax()])


class Followers(Protocol):
    """Items that go with some of the user's, best first: `Called`, or another source of the kind for `Fused`."""

    @property
    def keys(self) -> list[int]: ...
    def score(self, place: int) -> float: ...
    def because(self, item_key: int, /) -> int: ...


class Fused:
    """Reciprocal rank fusion of a list of distinct items and the neighbours of seeds: by the sum of 1 / (60 + place) in
    the list and `weight` times that among the neighbours; ties: the list's items first, then by place. Iterates over
    the items once, best first; items in both are picks of the list."""

    def __init__(
        self,
        stored: StoredList,
        attributions: tuple[Attribution, ...],
        called: Followers,
        of_called: Attribution,
        weight: float,
    ) -> None:
        """`attributions`: of the list's sources, as in `StoredList.first`; `of_called`: of its neighbours."""
        self._stored, self._attributions = stored, attributions
        self._listed: list[int] = stored.item_keys.tolist()
        self._called, self._of_called, self._because = called, of_called, called.because
        self._weight = weight
        self._in_both: Set[int] = set(called.keys).intersection(self._listed)
        self._order = self._merged()

    def first(self, n: int, unwanted: set[int], available: bytearray | None, fits: Fits | None) -> list[Pick]:
        """The next `n` items, as the function `first`."""
        picks: list[Pick] = []
        for at in self._order if n > 0 else ():
            place = at - len(self._listed)
            key = self._listed[at] if place < 0 else self._called.keys[place]
            if _may(key, unwanted, available, fits):
                unwanted.add(key)
                picks.append(self._of_list(at, key) if place < 0 else self._of_call(place, key))
                if len(picks) == n:
                    break
        return picks

    def _of_list(self, at: int, key: int) -> Pick:
        return self._stored.pick(at, key, self._attributions, self._because if key in self._in_both else None)

    def _of_call(self, place: int, key: int) -> Pick:
        return Pick(key, self._called.score(place), self._of_called, self._because)

    def _merged(self) -> Iterator[int]:
        """Places in the list; those of neighbours are counted on from its end."""
        twice, once, more = self._twice(), self._once(), self._more()
        a, b, c = next(twice, _END), next(once, _END), next(more, _END)
        while True:
            if a <= b and a <= c:
                first, a = a, next(twice, _END)
            elif b <= c:
                first, b = b, next(once, _END)
            else:
                first, c = c, next(more, _END)
            if first is _END:
                return
            yield first[1]

    def _twice(self) -> Iterator[tuple[float, int]]:
        """For items in both: minus the points, and the place, so that the least is the best."""
        in_both, points = self._in_both, _POINTS
        if not in_both:
            return iter(())
        other = {key: place for place, key in enumerate(self._called.keys) if key in in_both}
        found = ((place, key) for place, key in enumerate(self._listed) if key in in_both)
        return iter(sorted((-(points[place] + self._weight * points[other[key]]), place) for place, key in found))

    def _once(self) -> Iterator[tuple[float, int]]:
        in_both, points = self._in_both, _POINTS
        return ((-points[place], place) for place, key in enumerate(self._listed) if key not in in_both)

    def _more(self) -> Iterator[tuple[float, int]]:
        in_both, points, weight, n = self._in_both, _POINTS, self._weight, len(self._listed)
        keys = enumerate(self._called.keys)
        return ((-(weight * points[place]), n + place) for place, key in keys if key not in in_both)


def entries(ids: Sequence[int | str | None], picks: Sequence[Pick], explain: bool) -> bytes:
    """Picks as a JSON array, with scores as float32.

    `ids`: by item key; KeyError for None. `explain`: with the seed that contributed most as the `reason` of each, null
    where there is none.

    Formatted by hand, because a dictionary for each item takes twice as long.
    """
    if not picks:
        return b"[]"
    scores = np.array([pick[1] for pick in picks], dtype=np.float32)  # NaN, and so null, without a score
    digits = orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    ends = [b',"reason":' + _reason(ids, pick.because_key) if explain else b"" for pick in picks]
    shown: list[bytes] = []
    for rank, ((key, _, attribution, _), score, end) in enumerate(zip(picks, digits, ends, strict=True), 1):
        external = ids[key] if 0 <= key < len(ids) else None
        if external is None:
            raise KeyError(key)
        id_ = orjson.dumps(external)
        shown.append(b'{"item_id":%b,"score":%b,"rank":%d,%b%b}' % (id_, score, rank, attribution.json, end))
    return b"[%b]" % b",".join(shown)


def _reason(ids: Sequence[int | str | None], because_key: int | None) -> bytes:
    seed = None if because_key is None or not 0 <= because_key < len(ids) else ids[because_key]
    return b"null" if seed is None else orjson.dumps({"item_id": seed})
