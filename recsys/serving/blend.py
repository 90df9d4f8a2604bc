"""The user's list and the neighbours of the latest events, blended by the surface's policy, or ordered by a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from recsys.serving import recent
from recsys.serving.config import ServingConfig, Surface, SurfaceConfig
from recsys.serving.fold_in import LEAST_ITEMS
from recsys.serving.query import Query, Score, UserState
from recsys.serving.recent import N_FOLLOWED
from recsys.serving.snapshot import Snapshot
from recsys.serving.sources import CANDIDATE, I2I, PERSONAL, RANKED, Called, FoldedIn, Listed, Pick

N_RESCORED: Final = 200  # of what `fuse` puts first; the others keep their order
FUSION: Final = 60.0  # Cormack et al., "Reciprocal Rank Fusion", SIGIR 2009
_PLACES: Final = range(1000)  # lists have 1,000 items at most
_POINTS: Final = [1 / (FUSION + place) for place in _PLACES]


def blended(snapshot: Snapshot, user: UserState, config: ServingConfig, surface: SurfaceConfig) -> Iterator[Pick]:
    """The user's list and the neighbours of the latest events, by the surface's policy."""
    kind, stored = (RANKED, user.ranked) if user.ranked is not None else (PERSONAL, user.personal)
    listed: Listed | FoldedIn = Listed(snapshot, kind, stored)
    fold_in = snapshot.fold_in
    if stored is None and fold_in is not None and _may_fold_in(config, surface):
        listed = FoldedIn(snapshot, fold_in, user, config)
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
        yield from Listed(snapshot, PERSONAL, user.personal).picks()


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


def _called_by_events(snapshot: Snapshot, user: UserState, config: ServingConfig) -> Called | None:
    index = snapshot.neighbours.get(I2I)
    followed = user.followed
    if index is None or not followed or not config.use_latest_events:
        return None
    meaning = snapshot.meaning.under(config)
    return Called(snapshot, I2I, index.of(recent.seeds(followed, meaning, config.recent_half_life_hours)))


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


def _fused(listed: Listed | FoldedIn, called: Called, recent_weight: float) -> Iterator[Pick]:
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


def rescored(picks: Iterator[Pick], score: Score, candidate_keys: Sequence[int] | None) -> Iterator[Pick]:
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
