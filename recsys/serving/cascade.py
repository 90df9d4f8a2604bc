"""The cascade: sources in order, each filling what the former left open; the rules hold for all of them.

ranked → personal → popular in the category (then in its parents) → popular → any available item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from typing import NamedTuple

from recsys.serving.catalogue import ItemDictionary
from recsys.serving.snapshot import ALL_ITEMS, Snapshot, StoredList

Entries = Iterable[tuple[int, float | None, str | None]]  # (item key, score, generator), best first

RANKED, PERSONAL = "ranked", "personal"
POPULAR_IN_CATEGORY, POPULAR, AVAILABLE = "popular_in_category", "popular", "available"
I2I, SIMILAR = "i2i", "similar"
NOTHING = "nothing"  # the tier of an answer that no source could give an item to


class Source(NamedTuple):
    """One tier of the cascade; `entries` is read only as far as it is needed."""

    name: str
    entries: Entries


class Pick(NamedTuple):
    """One item of an answer; its rank is its position + 1. Scores compare within one source only."""

    item_key: int
    score: float | None
    source: str
    generator: str | None


def fill(sources: Iterable[Source], allowed: Callable[[int], bool], top_k: int) -> list[Pick]:
    """The first `top_k` distinct allowed items of all sources in their order; fewer only when all are exhausted."""
    picks: list[Pick] = []
    taken: set[int] = set()
    for name, entries in sources:
        for key, score, generator in entries:
            if key not in taken and allowed(key):
                taken.add(key)
                picks.append(Pick(key, score, name, generator))
                if len(picks) == top_k:
                    return picks
    return picks


def tier(picks: list[Pick]) -> str:
    """The source that answered: the first one that had an item."""
    return picks[0].source if picks else NOTHING


def rules(items: ItemDictionary, excluded: Set[int], category_keys: Set[int] | None) -> Callable[[int], bool]:
    """Whether an item may be shown: available, not excluded, and in one of the categories where some are given."""
    is_available, category = items.is_available, items.category
    if category_keys is None:
        return lambda key: is_available(key) and key not in excluded
    return lambda key: is_available(key) and key not in excluded and category(key) in category_keys


def popular(snapshot: Snapshot, category_key: int | None) -> Iterator[Source]:
    """Default lists from the narrowest to the widest, then any available item, the newest first."""
    version = snapshot.publication.lists.get("default")
    if version is not None:
        for owner in snapshot.categories.lineage(category_key) if category_key is not None else ():
            stored = snapshot.default_lists.get(owner)
            if stored is not None:
                yield Source(POPULAR_IN_CATEGORY, version.entries(stored))
        stored = snapshot.default_lists.get(ALL_ITEMS)
        if stored is not None:
            yield Source(POPULAR, version.entries(stored))
    yield Source(AVAILABLE, ((key, None, None) for key in snapshot.items.newest_available()))


def _stored(snapshot: Snapshot, kind: str, stored: StoredList | None) -> Iterator[Source]:
    version = snapshot.publication.lists.get(kind)
    if version is not None and stored is not None:
        yield Source(kind, version.entries(stored))


def recommend(
    snapshot: Snapshot,
    ranked: StoredList | None,
    personal: StoredList | None,
    *,
    category_key: int | None,
    excluded: Set[int],
    top_k: int,
) -> list[Pick]:
    """`min(top_k, possible)` items for a user whose lists are given (None where there is none or it is unknown)."""

    def sources() -> Iterator[Source]:
        yield from _stored(snapshot, RANKED, ranked)
        yield from _stored(snapshot, PERSONAL, personal)
        yield from popular(snapshot, category_key)

    categories = snapshot.categories.subtree(category_key) if category_key is not None else None
    return fill(sources(), rules(snapshot.items, excluded, categories), top_k)


def neighbours(
    snapshot: Snapshot, item_key: int, i2i: StoredList | None, similar: StoredList | None, *, top_k: int
) -> list[Pick]:
    """At most `top_k` available neighbours of an item, never itself: what goes with it, then what is like it."""

    def sources() -> Iterator[Source]:
        yield from _stored(snapshot, I2I, i2i)
        yield from _stored(snapshot, SIMILAR, similar)

    return fill(sources(), rules(snapshot.items, {item_key}, None), top_k)
