"""Eligibility: the rules for all recommended items, for single items and for the whole catalogue at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.serving.catalogue import NO_CATEGORY, ItemDictionary

Allowed = Callable[[int], bool]  # of an item key


class NumberRange(NamedTuple):
    """Items whose property `name` is a number from `low` to `high`, both included."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Restriction:
    """The conditions on every item, besides being available, in keys."""

    categories: Set[int] | None = None  # the item's category is one of these
    without: Set[int] = frozenset()  # and none of these
    ranges: tuple[NumberRange, ...] = ()

    def __and__(self, other: Restriction) -> Restriction:
        """The intersection of both."""
        categories = self.categories
        if categories is None or other.categories is None:
            categories = other.categories if categories is None else categories
        else:
            categories &= other.categories
        return Restriction(categories, self.without | other.without, self.ranges + other.ranges)


ANYTHING = Restriction()


def allowed(items: ItemDictionary, unwanted: Set[int], restriction: Restriction = ANYTHING) -> Allowed:
    """Whether an item is eligible: available, not unwanted, and allowed by the restriction."""
    is_available, fits = items.is_available, fitting(items, restriction)
    if fits is None:
        return lambda key: is_available(key) and key not in unwanted
    return lambda key: is_available(key) and key not in unwanted and fits(key)


def fitting(items: ItemDictionary, restriction: Restriction) -> Allowed | None:
    """Whether the restriction allows a known item; None if it allows all."""
    category, categories, without = items.category, restriction.categories, restriction.without
    if restriction.ranges:
        in_ranges = _in_ranges(items, restriction.ranges)
        of_category = fitting(items, Restriction(categories, without))
        return in_ranges if of_category is None else lambda key: of_category(key) and in_ranges(key)
    if categories is not None:
        wanted = categories - without
        return lambda key: category(key) in wanted
    return (lambda key: category(key) not in without) if without else None


def among(keys: Iterable[int], may: Allowed | None) -> Allowed:
    """`may`, limited to these keys."""
    some = frozenset(keys)
    return some.__contains__ if may is None else lambda key: key in some and may(key)


def n_possible(keys: Iterable[int], may: Allowed, items: ItemDictionary, max_per_category: int | None) -> int:
    """How many of the keys can be recommended together."""
    may = may if max_per_category is None else within_quota(may, items, max_per_category)
    return sum(map(may, frozenset(keys)))


def within_quota(may: Allowed | None, items: ItemDictionary, max_per_category: int) -> Allowed:
    """`may`, limited to `max_per_category` items of one category. Stateful: allowed items count, so call it once each.

    Items without a category have no quota.
    """
    category, n_shown = items.category, Counter[int]()

    def admits(key: int) -> bool:
        if may is not None and not may(key):
            return False
        own = category(key)
        if own != NO_CATEGORY:
            if n_shown[own] == max_per_category:
                return False
            n_shown[own] += 1
        return True

    return admits


def newest(
    items: ItemDictionary, unwanted: Set[int], restriction: Restriction, max_per_category: int | None = None
) -> list[int]:
    """Available items that the restriction allows, the last imported first.

    With a quota, at most that many per category: enough even if none is recommended yet. Vectorized, since a loop over
    a large catalogue in Python would take as long as many requests.
    """
    keys = np.flatnonzero(_mask(items, restriction))[::-1]
    if max_per_category is not None:
        keys = keys[~np.isin(keys, np.fromiter(unwanted, np.int64, len(unwanted)))]
        keys = keys[_first_of_each(items.categories_of(keys), max_per_category)]
    found: list[int] = keys.tolist()
    return found


def _in_ranges(items: ItemDictionary, ranges: Iterable[NumberRange]) -> Allowed:
    """For known keys. NaN is in no range; no item is in a range of an unknown property."""
    bound = [(items.numbers.column(name), low, high) for name, low, high in ranges]
    if len(bound) == 1 and (only := bound[0][0]) is not None:
        _, least, greatest = bound[0]
        return lambda key: least <= only[key] <= greatest
    return lambda key: all(column is not None and low <= column[key] <= high for column, low, high in bound)


def _mask(items: ItemDictionary, restriction: Restriction) -> NDArray[np.bool_]:
    """By key: whether it is available and the restriction allows it. Keeps no view of the growing arrays."""
    mask, categories = items.available_by_key(), restriction.categories
    if categories is not None or restriction.without:
        own = items.categories_of(slice(None))
        if categories is not None:
            mask &= _is_one_of(own, categories)
        if restriction.without:
            mask &= ~_is_one_of(own, restriction.without)
    for name, low, high in restriction.ranges:
        column = items.numbers.column(name)
        if column is None:
            mask[:] = False
        else:
            values = np.asarray(column)
            mask &= (values >= low) & (values <= high)
    return mask


def _is_one_of(own: NDArray[np.int32], categories: Set[int]) -> NDArray[np.bool_]:
    """Which are in the set, by a lookup table: ten times as fast as np.isin."""
    table = np.zeros(max(own.max(initial=0), max(categories, default=0)) + 2, dtype=bool)  # the last: NO_CATEGORY
    table[list(categories)] = True
    found: NDArray[np.bool_] = table[own]
    return found


def _first_of_each(groups: NDArray[np.int32], n: int) -> NDArray[np.bool_]:
    """Which places are among the first `n` of their group; all of NO_CATEGORY, which is no group."""
    few = groups.max(initial=0) < np.iinfo(np.int16).max
    order = (groups.astype(np.int16) if few else groups).argsort(kind="stable")  # numpy uses radix sort for 16 bits
    ordered = groups[order]
    is_start = np.ones(len(groups), dtype=bool)
    is_start[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(is_start)
    rank = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
    kept = np.empty(len(groups), dtype=bool)
    kept[order] = (rank < n) | (ordered == NO_CATEGORY)
    return kept
