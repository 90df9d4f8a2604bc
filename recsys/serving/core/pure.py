"""What `compiled` does, in Python and numpy; what each function and class promises is written here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Final

import numpy as np
from numpy.typing import NDArray

NO_ITEM: Final = -1
FUSION: Final = 60.0  # Cormack et al., "Reciprocal Rank Fusion", SIGIR 2009
_POINTS: Final = [1 / (FUSION + place) for place in range(1000)]  # lists have 1,000 items at most
_KEY_BITS, _KEY_MASK = 32, 0xFFFFFFFF
_END: Final = (1.0, -1)  # behind all places


def seeds(
    item_keys: Sequence[int],
    event_types: Sequence[str],
    occurred_ms: Sequence[int],
    interests: Mapping[str, float],
    per_ms: float,
    n: int,
) -> dict[int, float]:
    """Item → the sum over its events of interest · 2^(age · `per_ms`), at most `n` items, those of the first events.

    Three columns of equal length, newest first; ages in ms, counted from the first. What is not positive counts
    nothing.
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
    """Items with an event whose type is in `since_ms`, at its time there or later. Three columns of equal length."""
    rows = zip(item_keys, event_types, occurred_ms, strict=True)
    return {key for key, type_, at_ms in rows if type_ in since_ms and at_ms >= since_ms[type_]}


def bought_before(
    item_keys: NDArray[np.int32], days: NDArray[np.float32], types: NDArray[np.int16], since_day: dict[int, float]
) -> set[int]:
    """The same of a stored history, (n,) each."""
    rows = zip(item_keys.tolist(), days.tolist(), types.tolist(), strict=True)
    return {key for key, day, type_ in rows if type_ in since_day and day >= since_day[type_]}


def first(
    item_keys: Iterable[int], n: int, unwanted: set[int], available: bytearray, fits: Callable[[int], bool] | None
) -> tuple[list[int], list[int]]:
    """The first `n` items that are available, not unwanted and fit, if there are so many: their places and their keys.

    They are unwanted from then on. `available`: 1 by key; `fits` is asked of items that are all the rest, once each.
    """
    places: list[int] = []
    keys: list[int] = []
    for place, key in enumerate(item_keys):
        if 0 <= key < len(available) and available[key] and key not in unwanted and (fits is None or fits(key)):
            unwanted.add(key)
            places.append(place)
            keys.append(key)
            if len(keys) == n:
                break
    return places, keys


class Called:
    """The `n` items with the greatest sum of seed weight · score, best first, of equals the lesser key.

    Sums are added up as float32 in the order of the seeds. The seeds themselves are not among the items.
    """

    __slots__ = ("_scores", "keys")

    def __init__(
        self,
        rows: NDArray[np.int32],
        keys: NDArray[np.int32],
        scores: NDArray[np.float32],
        sums: NDArray[np.float32],
        seed_weights: dict[int, float],
        n: int,
    ) -> None:
        """`rows`, `keys`, `scores`: as of a NeighbourIndex. `sums`: a zero for each item and two more, and so again at
        the end."""
        n_seeds = len(seed_weights)
        of_seeds = np.fromiter(seed_weights, np.int64, n_seeds)
        at = rows.take(of_seeds, mode="clip")
        each = keys.take(at, 0).ravel().astype(np.int64)
        parts = scores.take(at, 0)
        parts *= np.fromiter(seed_weights.values(), np.float32, n_seeds)[:, None]
        np.add.at(sums, each, parts.ravel())
        sums.put(of_seeds, 0, mode="clip")  # beyond the last item is the place of NO_ITEM
        sums[NO_ITEM] = 0
        found = sums.take(each)
        sums[each] = 0
        # One sort orders by both: the bits of a float that is not negative, as an integer, are in the order of its
        # value. An item that many seeds call stands there as often, side by side. Where nothing is called, it is ≥ -1.
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
        """The sum of the item at a place of `keys`."""
        return float(self._scores[place])


class Fused:
    """A list of distinct items and what is called, as one: by the sum of their points, 1 / (60 + place) in the list,
    and `weight` times that in what is called; of equals the list's first, then by their place. Goes through the items
    once, best first; one in both stands where the list has it."""

    __slots__ = ("_called", "_in_both", "_listed", "_order", "_weight")

    def __init__(self, listed: NDArray[np.int32], called: Called, weight: float) -> None:
        self._listed: list[int] = listed.tolist()
        self._called, self._weight = called.keys, weight
        self._in_both: Set[int] = set(self._called).intersection(self._listed)
        self._order: list[int] = []

    def at(self, nth: Sequence[int]) -> list[int]:
        """Where the items stood that came nth: the places in the list; of what is called, behind the list's end."""
        order = self._order
        return [order[one] for one in nth]

    def is_in_both(self, item_key: int) -> bool:
        """Whether both have it."""
        return item_key in self._in_both

    def __iter__(self) -> Iterator[int]:
        listed, called, n, order = self._listed, self._called, len(self._listed), self._order
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
            order.append(at := first[1])
            yield listed[at] if at < n else called[at - n]

    def _twice(self) -> Iterator[tuple[float, int]]:
        """Of items in both, minus the points and the place: the least is the best."""
        in_both, points = self._in_both, _POINTS
        if not in_both:
            return iter(())
        other = {key: place for place, key in enumerate(self._called) if key in in_both}
        found = ((place, key) for place, key in enumerate(self._listed) if key in in_both)
        return iter(sorted((-(points[place] + self._weight * points[other[key]]), place) for place, key in found))

    def _once(self) -> Iterator[tuple[float, int]]:
        in_both, points = self._in_both, _POINTS
        return ((-points[place], place) for place, key in enumerate(self._listed) if key not in in_both)

    def _more(self) -> Iterator[tuple[float, int]]:
        in_both, points, weight, n = self._in_both, _POINTS, self._weight, len(self._listed)
        return ((-(weight * points[place]), n + place) for place, key in enumerate(self._called) if key not in in_both)
