"""Rules: the one last stage that every list passes, whichever way it came about. Pure numpy on padded lists.

A rule says which entries may stay, as a mask of the lists' shape; `apply` moves what stays up and fills the
rest from a back-fill list that has to pass the same rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.keys import pairs_of, positions
from recsys.types import NO_ITEM, Catalogue, Keys, Lists

Mask = NDArray[np.bool_]
Rule = Callable[[Keys], Mask]  # item keys (n, k), padded with -1 → which may stay (n, k)


def available(catalogue: Catalogue) -> Rule:
    """Only items that the catalogue knows and offers."""
    return catalogue.offers


def not_seen(seen: Any) -> Rule:
    """Not what an owner has bought or seen: `seen` is scipy CSR (n, ≥ max item key + 1), rows as the lists' rows.

    Its non-zero entries are kept out; items beyond its width count as not seen.
    """

    def allowed(item_key: Keys) -> Mask:
        rows = np.arange(len(item_key))
        pairs = pairs_of(np.repeat(rows, np.diff(seen.indptr)), seen.indices)[seen.data != 0]
        return ~_is_in(pairs_of(rows[:, None], item_key), np.sort(pairs))

    return allowed


def not_excluded(item_keys: Keys) -> Rule:
    """None of these items, for any owner."""
    excluded = np.unique(item_keys)
    return lambda item_key: ~_is_in(item_key, excluded)


def not_own(owner_key: Keys) -> Rule:
    """Not the owner itself: for lists of neighbours, where owners (n,) are items."""
    return lambda item_key: item_key != owner_key[:, None]


def in_categories(catalogue: Catalogue, category_keys: Keys) -> Rule:
    """Only items of these categories or of their direct children."""
    wanted = np.unique(category_keys)

    def allowed(item_key: Keys) -> Mask:
        at = catalogue.positions(item_key)
        of_item = (np.append(keys, -1)[at] for keys in (catalogue.category_key, catalogue.parent_category_key))
        own, parent = (_is_in(category, wanted) for category in of_item)
        return (at >= 0) & (own | parent)

    return allowed


@dataclass(frozen=True)
class Quota:
    """At most `most` items of one category in a list; items without a category are not limited."""

    catalogue: Catalogue
    most: int

    def allowed(self, item_key: Keys, among: Mask) -> Mask:
        """Which entries (n, k) are within the quota, counting only those `among` and from the best on."""
        category = np.append(self.catalogue.category_key, -1)[self.catalogue.positions(item_key)]
        return (category < 0) | (_nth_of_its_kind(category, among) < self.most)


def apply(
    lists: Lists,
    rules: list[Rule],
    length: int,
    *,
    backfill: Lists | None = None,
    quota: Quota | None = None,
) -> Lists:
    """The lists cut to what all rules allow, filled up to `length` from `backfill`, each item at most once.

    `backfill`: one row for all lists, or one row each. Its entries come after a list's own, pass the same rules,
    and keep their source; their scores are moved below the list's last one (order kept), so that scores still
    descend. The result has `length` columns and may hold less where there is nothing left to fill with, even
    nothing at all. The order among what stays is not changed.
    """
    merged, own_width = lists, lists.item_key.shape[1]
    if backfill is not None:
        merged = _append(lists, backfill)
    item_key = merged.item_key
    keep = item_key >= 0
    for rule in rules:
        keep &= rule(item_key)
    keep &= _first_of_its_kind(item_key, keep)
    if quota is not None:
        keep &= quota.allowed(item_key, keep)
    order = np.argsort(~keep, axis=1, kind="stable")[:, :length]
    kept = np.take_along_axis(keep, order, axis=1)
    items = np.where(kept, np.take_along_axis(item_key, order, axis=1), NO_ITEM)
    scores = np.where(kept, np.take_along_axis(merged.score, order, axis=1), np.nan).astype(np.float32)
    sources = np.where(kept, np.take_along_axis(merged.source, order, axis=1), 0).astype(np.int16)
    if backfill is not None:
        scores = _descending(scores, (order >= own_width) & kept)
    width = items.shape[1]
    if width < length:
        pad = ((0, 0), (0, length - width))
        items = np.pad(items, pad, constant_values=NO_ITEM)
        scores = np.pad(scores, pad, constant_values=np.nan)
        sources = np.pad(sources, pad)
    return Lists(lists.owner_key, items.astype(np.int32), scores, sources)


def _append(lists: Lists, backfill: Lists) -> Lists:
    """Both side by side, (n, k + k of the back-fill)."""
    n = len(lists)

    def both(own: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([own, np.broadcast_to(other, (n, other.shape[1]))], axis=1)

    return Lists(
        lists.owner_key,
        both(lists.item_key, backfill.item_key),
        both(lists.score, backfill.score),
        both(lists.source, backfill.source),
    )


def _descending(scores: NDArray[np.float32], filled: Mask) -> NDArray[np.float32]:
    """Scores (n, k) whose filled entries lie below the list's own: last own score − 1, − 2, … in rank order.

    Scores of two generators cannot be compared; what a filled entry's score says is its place. A list that has
    none of its own starts at 0.
    """
    own_last = np.where(filled | np.isnan(scores), np.inf, scores).min(axis=1, keepdims=True, initial=np.inf)
    base = np.where(np.isfinite(own_last), own_last, 1.0)
    place = np.cumsum(filled, axis=1)
    step = np.maximum(1.0, np.abs(base) * 1e-6)  # stays visible in float32 beside large scores
    return np.where(filled, base - place * step, scores).astype(np.float32)


def _is_in(values: NDArray[Any], ordered: NDArray[Any]) -> Mask:
    """Which values occur in an ascending array; same shape as `values`."""
    return positions(ordered, values) >= 0


def _first_of_its_kind(values: NDArray[Any], among: Mask) -> Mask:
    """Which entries (n, k) are the first of their value in their row, counting only those `among`."""
    return _nth_of_its_kind(values, among) == 0


def _nth_of_its_kind(values: NDArray[Any], among: Mask) -> NDArray[np.int64]:
    """How many entries of the same value, `among` those marked, stand before each entry in its row, (n, k)."""
    n, k = values.shape
    if k == 0:
        return np.zeros((n, 0), dtype=np.int64)
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    counted = np.take_along_axis(among, order, axis=1)
    before: NDArray[np.int64] = np.cumsum(counted, axis=1) - counted  # marked entries before, in the order by value
    starts = np.ones((n, k), dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    at_start = np.maximum.accumulate(np.where(starts, before, 0), axis=1)
    result = np.empty((n, k), dtype=np.int64)
    np.put_along_axis(result, order, before - at_start, axis=1)
    return result
