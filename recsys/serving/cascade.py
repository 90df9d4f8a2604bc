"""The cascade: sources in order, each filling what the former left open; the rules hold for all of them.

What is in context (a product, a cart) calls its neighbours first; then the user's stored list blended with the
neighbours of what the user did a moment ago; then popular in the category and its parents, popular, any available.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

from recsys.serving import recent
from recsys.serving.catalogue import ItemDictionary
from recsys.serving.config import DEFAULT, ServingConfig, Surface, SurfaceConfig
from recsys.serving.recent import Neighbour, Recent
from recsys.serving.snapshot import ALL_ITEMS, Snapshot, StoredList

RANKED, PERSONAL = "ranked", "personal"
POPULAR_IN_CATEGORY, POPULAR, AVAILABLE = "popular_in_category", "popular", "available"
I2I, SIMILAR = "i2i", "similar"
CANDIDATE = "candidate"  # one of `candidate_keys` that no source speaks for
NOTHING = "nothing"  # the tier of an answer that no source could give an item to

FUSION: Final = 60.0  # Cormack et al., "Reciprocal Rank Fusion", SIGIR 2009


class Pick(NamedTuple):
    """One item of an answer; its rank is its position + 1. Scores compare within one source only."""

    item_key: int
    score: float | None
    source: str
    generator: str | None
    because_key: int | None = None  # the item, of the user's own or of the context, that called this one


@dataclass(frozen=True)
class Query:
    """What is asked, in keys."""

    top_k: int
    category_key: int | None = None
    excluded: Set[int] = frozenset()
    context_keys: Sequence[int] = ()  # the product or the cart
    candidate_keys: Sequence[int] | None = None  # rank these and no others
    surface: Surface = "homepage"
    now_ms: float = 0  # milliseconds since the epoch


@dataclass(frozen=True)
class UserState:
    """What is known of who asks."""

    ranked: StoredList | None = None
    personal: StoredList | None = None
    recent: Sequence[Recent] = ()  # newest first


NOBODY: Final = UserState()


def recommend(snapshot: Snapshot, user: UserState, query: Query, config: ServingConfig = DEFAULT) -> list[Pick]:
    """`min(top_k, possible)` distinct items, none of which is unavailable, excluded, bought, in the context, outside
    of the category or of the candidates. Fewer only where the surface is configured without `available`."""
    categories = snapshot.categories.subtree(query.category_key) if query.category_key is not None else None
    unwanted = {
        *query.excluded,
        *query.context_keys,
        *recent.bought(user.recent, snapshot.meaning, config, query.now_ms),
    }
    allowed = rules(snapshot.items, unwanted, categories)
    picks = _sources(snapshot, user, query, config)
    if query.candidate_keys is None:
        return fill(picks, allowed, query.top_k)
    candidates = frozenset(query.candidate_keys)
    n_possible = sum(allowed(key) for key in candidates)
    return fill(picks, lambda key: key in candidates and allowed(key), min(query.top_k, n_possible))


def neighbours(
    snapshot: Snapshot, item_key: int, i2i: StoredList | None, similar: StoredList | None, *, top_k: int
) -> list[Pick]:
    """At most `top_k` available neighbours of an item, never itself: what goes with it, then what is like it."""

    def sources() -> Iterator[Pick]:
        yield from _stored(snapshot, I2I, i2i)
        yield from _stored(snapshot, SIMILAR, similar)

    return fill(sources(), rules(snapshot.items, {item_key}, None), top_k)


def fill(entries: Iterable[Pick], allowed: Callable[[int], bool], top_k: int) -> list[Pick]:
    """The first `top_k` distinct allowed ones; fewer only when there are no more."""
    picks: list[Pick] = []
    taken: set[int] = set()
    if top_k < 1:
        return picks
    for pick in entries:
        key = pick.item_key
        if key not in taken and allowed(key):
            taken.add(key)
            picks.append(pick)
            if len(picks) == top_k:
                break
    return picks


def tier(picks: Sequence[Pick]) -> str:
    """The source that answered: that of the first item."""
    return picks[0].source if picks else NOTHING


def rules(items: ItemDictionary, unwanted: Set[int], category_keys: Set[int] | None) -> Callable[[int], bool]:
    """Whether an item may be shown: available, not unwanted, and in one of the categories where some are given."""
    is_available, category = items.is_available, items.category
    if category_keys is None:
        return lambda key: is_available(key) and key not in unwanted
    return lambda key: is_available(key) and key not in unwanted and category(key) in category_keys


def _sources(snapshot: Snapshot, user: UserState, query: Query, config: ServingConfig) -> Iterator[Pick]:
    """All sources of the surface, one after the other; each is computed only when the former did not suffice."""
    surface = config.surface(query.surface)
    for name in surface.sources:
        if name == "context":
            yield from _of_context(snapshot, query.context_keys)
        elif name == "lists":
            yield from _blended(snapshot, user, config, surface)
        elif query.candidate_keys is not None:
            continue
        elif name == "popular_in_category":
            yield from _popular_in_category(snapshot, query.category_key)
        elif name == "popular":
            yield from _popular(snapshot)
        else:
            yield from (Pick(key, None, AVAILABLE, None) for key in snapshot.items.newest_available())
    if query.candidate_keys is not None:
        yield from _by_popularity(snapshot, query.candidate_keys)


def _of_context(snapshot: Snapshot, context_keys: Sequence[int]) -> Iterator[Pick]:
    seeds = dict.fromkeys(context_keys, 1.0)
    for kind in (I2I, SIMILAR):
        index = snapshot.neighbours.get(kind)
        if index is not None:
            yield from (_called(kind, snapshot, one) for one in recent.following(seeds, index))


def _blended(snapshot: Snapshot, user: UserState, config: ServingConfig, surface: SurfaceConfig) -> Iterator[Pick]:
    """The user's stored list and the neighbours of the latest events, by the surface's policy."""
    kind, stored = (RANKED, user.ranked) if user.ranked is not None else (PERSONAL, user.personal)
    listed, called = _stored(snapshot, kind, stored), _called_by_events(snapshot, user, config)
    if not called:
        yield from listed
    elif surface.blend == "fuse":
        yield from _fused(snapshot, listed, called, surface.recent_weight)
    elif surface.blend == "interleave":
        yield from _by_turns(listed, (_called(I2I, snapshot, one) for one in called))
    elif surface.blend == "recent_first":
        yield from (_called(I2I, snapshot, one) for one in called)
        yield from listed
    else:
        yield from listed
        yield from (_called(I2I, snapshot, one) for one in called)
    if kind == RANKED:
        yield from _stored(snapshot, PERSONAL, user.personal)


def _called_by_events(snapshot: Snapshot, user: UserState, config: ServingConfig) -> list[Neighbour]:
    index = snapshot.neighbours.get(I2I)
    if index is None or not user.recent or not config.use_latest_events:
        return []
    meaning = snapshot.meaning.under(config)
    return recent.following(recent.seeds(user.recent, meaning, config.recent_half_life_hours), index)


def _fused(
    snapshot: Snapshot, listed: Iterable[Pick], called: Sequence[Neighbour], recent_weight: float
) -> Iterator[Pick]:
    from_list = {pick.item_key: pick for pick in listed}
    points = {key: 1 / (FUSION + place) for place, key in enumerate(from_list)}
    from_recent: dict[int, Neighbour] = {}
    for place, one in enumerate(called if recent_weight > 0 else ()):
        from_recent[one.item_key] = one
        points[one.item_key] = points.get(one.item_key, 0.0) + recent_weight / (FUSION + place)
    for key in sorted(points, key=points.__getitem__, reverse=True):
        called_by, pick = from_recent.get(key), from_list.get(key)
        if pick is None:
            assert called_by is not None  # noqa: S101 - it came from one of the two
            yield _called(I2I, snapshot, called_by)
        else:
            yield pick if called_by is None else pick._replace(because_key=called_by.because_key)


def _by_turns(*lists: Iterable[Pick]) -> Iterator[Pick]:
    """One of each by turns, until all are at their end; what came before is no turn."""
    taken: set[int] = set()
    waiting = [iter(one) for one in lists]
    while waiting:
        for one in list(waiting):
            pick = next((pick for pick in one if pick.item_key not in taken), None)
            if pick is None:
                waiting.remove(one)
            else:
                taken.add(pick.item_key)
                yield pick


def _called(kind: str, snapshot: Snapshot, one: Neighbour) -> Pick:
    version = snapshot.publication.lists.get(kind)
    generator = version.sources[0] if version and len(version.sources) == 1 else None
    return Pick(one.item_key, one.score, kind, generator, one.because_key)


def _popular_in_category(snapshot: Snapshot, category_key: int | None) -> Iterator[Pick]:
    """Default lists of the category, then of those above it."""
    version = snapshot.publication.lists.get("default")
    if version is None or category_key is None:
        return
    for owner in snapshot.categories.lineage(category_key):
        stored = snapshot.default_lists.get(owner)
        if stored is not None:
            yield from (Pick(key, score, POPULAR_IN_CATEGORY, name) for key, score, name in version.entries(stored))


def _popular(snapshot: Snapshot) -> Iterator[Pick]:
    version, stored = snapshot.publication.lists.get("default"), snapshot.default_lists.get(ALL_ITEMS)
    if version is not None and stored is not None:
        yield from (Pick(key, score, POPULAR, name) for key, score, name in version.entries(stored))


def _by_popularity(snapshot: Snapshot, candidate_keys: Sequence[int]) -> Iterator[Pick]:
    """Candidates in the order of the default list, then the others as the client gave them."""
    yield from _popular(snapshot)
    yield from (Pick(key, None, CANDIDATE, None) for key in candidate_keys)


def _stored(snapshot: Snapshot, kind: str, stored: StoredList | None) -> Iterator[Pick]:
    version = snapshot.publication.lists.get(kind)
    if version is not None and stored is not None:
        yield from (Pick(key, score, kind, name) for key, score, name in version.entries(stored))
