"""The cascade: sources in order, each filling what the former left open; the rules hold for all of them.

What is in context (a product, a cart) calls its neighbours first; then the user's stored list, or one that is made of
their latest events where none is stored, blended with the neighbours of what they did a moment ago; then popular in the
category and its parents, popular, any available.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from recsys.serving import diversity, filters, recent, rules
from recsys.serving.catalogue import ItemDictionary
from recsys.serving.config import DEFAULT, ServingConfig, Surface, SurfaceConfig
from recsys.serving.fold_in import LEAST_ITEMS, FoldIn
from recsys.serving.neighbours import Calls
from recsys.serving.recent import N_FOLLOWED, History, Recent
from recsys.serving.rules import ANYTHING, Restriction
from recsys.serving.snapshot import ALL_ITEMS, Snapshot, StoredList

RANKED, PERSONAL = "ranked", "personal"
POPULAR_IN_CATEGORY, POPULAR, AVAILABLE = "popular_in_category", "popular", "available"
I2I, SIMILAR = "i2i", "similar"
FOLD_IN = "fold_in"  # a list that is made of the latest events, for somebody who has none
CANDIDATE = "candidate"  # one of `candidate_keys` that no source speaks for
_FILLING: Final = {AVAILABLE, CANDIDATE}  # nobody recommends these
NOTHING = "nothing"  # the tier of an answer that no source could give an item to

N_RESCORED: Final = 200  # of what `fuse` puts first; the others keep their order
N_CALLED: Final = 100  # items that seeds call, the best of them
FUSION: Final = 60.0  # Cormack et al., "Reciprocal Rank Fusion", SIGIR 2009
_PLACES: Final = range(1000)  # lists have 1,000 items at most
_POINTS: Final = [1 / (FUSION + place) for place in _PLACES]


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
    restriction: Restriction | None = None  # the request's filters; those of the surface are added to them


Score = Callable[[Sequence[int]], Sequence[float] | None]  # item keys → probabilities; None when it failed


@dataclass(frozen=True)
class UserState:
    """What is known of who asks."""

    ranked: StoredList | None = None
    personal: StoredList | None = None
    recent: Sequence[Recent] = ()  # the latest events and older ones that tell what was bought, newest first
    seq: Sequence[Recent] | None = None  # what is followed in their place; what was bought is still told by `recent`
    history: History | None = None  # what was done before the lists were made; it is not followed
    score: Score | None = None  # of items for this user, by the model; None where there is none

    @property
    def followed(self) -> Sequence[Recent]:
        """The events that call their neighbours."""
        return self.recent[:N_FOLLOWED] if self.seq is None else self.seq


NOBODY: Final = UserState()


def recommend(snapshot: Snapshot, user: UserState, query: Query, config: ServingConfig = DEFAULT) -> list[Pick]:
    """`min(top_k, possible)` distinct items, none of which is unavailable, excluded, bought, in the context, outside
    of the category or of the candidates, filtered out, or beyond the quota of its category; possible is what these
    leave. Fewer only where the surface is configured without `available`."""
    surface = config.surface(query.surface)
    restriction = _restriction(snapshot, query, surface)
    unwanted = {
        *query.excluded,
        *query.context_keys,
        *recent.bought(user.recent, snapshot.meaning, config, query.now_ms, user.history),
    }
    items, quota, n = snapshot.items, surface.max_per_category, query.top_k
    allowed = rules.allowed(items, unwanted, restriction)
    if surface.diversity:
        n = max(n, diversity.POOL)
    if query.candidate_keys is not None:
        allowed = rules.among(query.candidate_keys, allowed)
        n = min(n, rules.n_possible(query.candidate_keys, allowed, items, quota))
    picks = _sources(snapshot, user, query, config, _newest(items, unwanted, restriction, quota))
    found = fill(picks, rules.within_quota(allowed, items, quota), n)
    return _diverse(snapshot, found, surface.diversity, query.top_k) if surface.diversity else found


def neighbours(
    snapshot: Snapshot, item_key: int, i2i: StoredList | None, similar: StoredList | None, *, top_k: int
) -> list[Pick]:
    """At most `top_k` available neighbours of an item, never itself: what goes with it, then what is like it."""

    def sources() -> Iterator[Pick]:
        yield from _Listed(snapshot, I2I, i2i).picks()
        yield from _Listed(snapshot, SIMILAR, similar).picks()

    return fill(sources(), rules.allowed(snapshot.items, {item_key}), top_k)


def neighbours_in_memory(snapshot: Snapshot, item_key: int, *, top_k: int) -> list[Pick]:
    """The same of the best neighbours alone, which need not be read; scores are relative to the best one."""
    return fill(_of_context(snapshot, [item_key]), rules.allowed(snapshot.items, {item_key}), top_k)


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


def _restriction(snapshot: Snapshot, query: Query, surface: SurfaceConfig) -> Restriction:
    """What request and surface ask of every item."""
    found = query.restriction or ANYTHING
    if query.category_key is not None:
        found &= Restriction(snapshot.categories.subtree(query.category_key))
    if surface.filters is not None:
        found &= filters.resolve(surface.filters, snapshot.items, snapshot.categories)
    return found


def _newest(
    items: ItemDictionary, unwanted: Set[int], restriction: Restriction, quota: int | None
) -> Callable[[], Iterable[int]]:
    """Gives the items that fill up, when all else is at its end."""
    if restriction is ANYTHING and quota is None:
        return items.newest_available
    return lambda: rules.newest(items, unwanted, restriction, quota)


def _diverse(snapshot: Snapshot, picks: list[Pick], weight: float, top_k: int) -> list[Pick]:
    """The best reordered; those that only fill up stay behind them, in their order."""
    n = next((n for n, pick in enumerate(picks[: diversity.POOL]) if pick.source in _FILLING), diversity.POOL)
    best = np.array([pick.item_key for pick in picks[:n]], dtype=np.int64)
    alike = diversity.similarity(best, snapshot.items.categories_of(best), snapshot.factors)
    chosen = [picks[place] for place in diversity.reordered(alike, weight, top_k)]
    return chosen + picks[n:][: top_k - len(chosen)]


def _sources(
    snapshot: Snapshot, user: UserState, query: Query, config: ServingConfig, newest: Callable[[], Iterable[int]]
) -> Iterator[Pick]:
    """All sources of the surface, one after the other; each is computed only when the former did not suffice."""
    surface = config.surface(query.surface)
    for name in surface.sources:
        if name == "context":
            yield from _of_context(snapshot, query.context_keys)
        elif name == "lists":
            picks = _blended(snapshot, user, config, surface)
            if surface.blend == "rescore" and user.score is not None:
                picks = _rescored(picks, user.score, query.candidate_keys)
            yield from picks
        elif query.candidate_keys is not None:
            continue
        elif name == "popular_in_category":
            yield from _popular_in_category(snapshot, query.category_key)
        elif name == "popular":
            yield from _popular(snapshot)
        else:
            yield from (Pick(key, None, AVAILABLE, None) for key in newest())
    if query.candidate_keys is not None:
        yield from _by_popularity(snapshot, query.candidate_keys)


def _of_context(snapshot: Snapshot, context_keys: Sequence[int]) -> Iterator[Pick]:
    seeds = dict.fromkeys(context_keys, 1.0)
    for kind in (I2I, SIMILAR):
        index = snapshot.neighbours.get(kind)
        if index is not None and seeds:
            yield from _Called(snapshot, kind, index.of(seeds)).picks()


class _Listed:
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


class _FoldedIn:
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


class _Called:
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


def _blended(snapshot: Snapshot, user: UserState, config: ServingConfig, surface: SurfaceConfig) -> Iterator[Pick]:
    """The user's list and the neighbours of the latest events, by the surface's policy."""
    kind, stored = (RANKED, user.ranked) if user.ranked is not None else (PERSONAL, user.personal)
    listed: _Listed | _FoldedIn = _Listed(snapshot, kind, stored)
    fold_in = snapshot.fold_in
    if stored is None and fold_in is not None and _may_fold_in(config, surface):
        listed = _FoldedIn(snapshot, fold_in, user, config)
    called = _called_by_events(snapshot, user, config)
    if called is None:
        yield from listed.picks()
    elif surface.blend in ("fuse", "rescore"):
        yield from _fused(listed, called, surface.recent_weight / listed.weight)
    elif surface.blend == "interleave":
        yield from _by_turns(listed.picks(), called.picks())
    elif surface.blend == "recent_first":
        yield from called.picks()
        yield from listed.picks()
    else:
        yield from listed.picks()
        yield from called.picks()
    if kind == RANKED:
        yield from _Listed(snapshot, PERSONAL, user.personal).picks()


def uses_factors(user: UserState, config: ServingConfig, surface: Surface) -> bool:
    """Whether item factors may change what this user is shown: they are folded in, or the surface is to be diverse."""
    configured = config.surface(surface)
    if configured.diversity:
        return True
    if user.ranked is not None or user.personal is not None or "lists" not in configured.sources:
        return False
    enough = len({event.item_key for event in user.followed}) >= LEAST_ITEMS
    return enough and _may_fold_in(config, configured)


def _may_fold_in(config: ServingConfig, surface: SurfaceConfig) -> bool:
    """Whether the latest events may become a list; never where the surface or the configuration ignores them."""
    ignored = surface.blend in ("fuse", "rescore") and surface.recent_weight <= 0
    return config.fold_in and config.use_latest_events and not ignored


def _called_by_events(snapshot: Snapshot, user: UserState, config: ServingConfig) -> _Called | None:
    index = snapshot.neighbours.get(I2I)
    followed = user.followed
    if index is None or not followed or not config.use_latest_events:
        return None
    meaning = snapshot.meaning.under(config)
    return _Called(snapshot, I2I, index.of(recent.seeds(followed, meaning, config.recent_half_life_hours)))


def n_recent(snapshot: Snapshot, user: UserState, query: Query, config: ServingConfig) -> int:
    """How many of the latest events an answer takes into account: by neighbours, by a list made of them, or by the
    model. What was bought is hidden in any case."""
    surface = config.surface(query.surface)
    if not config.use_latest_events or "lists" not in surface.sources:
        return 0
    has_list = user.ranked is not None or user.personal is not None
    is_folded_in = not has_list and snapshot.fold_in is not None and _may_fold_in(config, surface)
    is_ignored = surface.blend in ("fuse", "rescore") and surface.recent_weight <= 0
    calls = not is_ignored and snapshot.neighbours.get(I2I) is not None
    n = N_FOLLOWED if user.score is not None or is_folded_in else recent.N_SEEDS if calls else 0
    return recent.n_counted(user.followed, snapshot.meaning.under(config), n)


def _fused(listed: _Listed | _FoldedIn, called: _Called, recent_weight: float) -> Iterator[Pick]:
    """Both by the sum of their points, lazily: only what is in both lists stands out of its own list's order."""
    if recent_weight <= 0:
        yield from listed.picks()
        return
    in_both = set(listed.keys).intersection(called.keys)
    twice: list[tuple[float, int]] = []
    if in_both:
        place_in_calls = dict(zip(called.keys, _PLACES, strict=False))
        twice = sorted(
            (-_POINTS[place] - recent_weight * _POINTS[place_in_calls[key]], place)
            for place, key in enumerate(listed.keys)
            if key in in_both
        )
    once = ((-_POINTS[place], place) for place, key in enumerate(listed.keys) if key not in in_both)
    anew = ((-recent_weight * _POINTS[place], place) for place, key in enumerate(called.keys) if key not in in_both)
    end = (1.0, 0)  # after all points, which are negative here
    at = iter(twice)
    first, second, third = next(at, end), next(once, end), next(anew, end)
    while True:
        if first <= second and first[0] <= third[0]:
            if first is end:
                return
            yield listed.pick(first[1], called.calls.because)
            first = next(at, end)
        elif second[0] <= third[0]:
            yield listed.pick(second[1])
            second = next(once, end)
        else:
            yield called.pick(third[1])
            third = next(anew, end)


def _rescored(picks: Iterator[Pick], score: Score, candidate_keys: Sequence[int] | None) -> Iterator[Pick]:
    """The first of `picks` by the model, which is asked once; or all candidates, whether they are among them or not."""
    candidates = None if candidate_keys is None else frozenset(candidate_keys)
    pool: dict[int, Pick] = {}
    for pick in picks:
        if candidates is None or pick.item_key in candidates:
            pool.setdefault(pick.item_key, pick)
        if candidates is None and len(pool) == N_RESCORED:
            break
    keys = [*pool, *(key for key in dict.fromkeys(candidate_keys or ()) if key not in pool)]
    found = score(keys) if keys else None
    if found is None:
        yield from pool.values()
        yield from picks
        return
    for key, probability in sorted(zip(keys, found, strict=True), key=lambda one: -one[1]):
        yield pool.get(key, Pick(key, None, CANDIDATE, None))._replace(score=probability)
    yield from (pick._replace(score=None) for pick in picks)


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


def _popular_in_category(snapshot: Snapshot, category_key: int | None) -> Iterator[Pick]:
    """Default lists of the category, then of those above it."""
    for owner in snapshot.categories.lineage(category_key) if category_key is not None else ():
        yield from _default(snapshot, owner, POPULAR_IN_CATEGORY)


def _popular(snapshot: Snapshot) -> Iterator[Pick]:
    return _default(snapshot, ALL_ITEMS, POPULAR)


def _default(snapshot: Snapshot, owner: int, source: str) -> Iterator[Pick]:
    return _Listed(snapshot, "default", snapshot.default_lists.get(owner), source).picks()


def _by_popularity(snapshot: Snapshot, candidate_keys: Sequence[int]) -> Iterator[Pick]:
    """Candidates in the order of the default list, then the others as the client gave them."""
    yield from _popular(snapshot)
    yield from (Pick(key, None, CANDIDATE, None) for key in candidate_keys)
