"""The user's list and the neighbours of recent events, blended by the surface's policy, or reordered by a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from recsys.serving import core, recent
from recsys.serving.config import ServingConfig, Surface, SurfaceConfig
from recsys.serving.core import Pick, attribution, pure
from recsys.serving.fold_in import LEAST_ITEMS
from recsys.serving.recent import N_FOLLOWED
from recsys.serving.snapshot import Query, Score, Snapshot, UserState
from recsys.serving.sources import (
    CANDIDATE,
    I2I,
    PERSONAL,
    RANKED,
    Called,
    Column,
    FoldedIn,
    Following,
    Listed,
    Picked,
)

_ALL: Final = 1 << 30
N_RESCORED: Final = 200  # the first items of `fuse`; the others keep their order


def blended(snapshot: Snapshot, user: UserState, config: ServingConfig, surface: SurfaceConfig) -> Iterator[Column]:
    """The user's list and what follows their recent events, by the surface's policy."""
    kind, stored = (RANKED, user.ranked) if user.ranked is not None else (PERSONAL, user.personal)
    listed = Listed(snapshot, kind, stored)
    fold_in = snapshot.fold_in
    if stored is None and fold_in is not None and _may_fold_in(config, surface):
        listed = FoldedIn(snapshot, fold_in, user, config)
    called = None if _are_ignored(surface) else _after_events(snapshot, user, config, surface)
    if called is None:
        yield listed
    elif surface.blend in ("fuse", "rescore"):
        of_list = listed.weight_beside_sessions if isinstance(called, Following) else listed.weight
        yield _fused(listed, called, surface.recent_weight / of_list)
    elif surface.blend == "interleave":
        yield _interleaved(listed, called)
    else:
        yield from (called, listed) if surface.blend == "recent_first" else (listed, called)
    if kind == RANKED:
        yield Listed(snapshot, PERSONAL, user.personal)


def uses_factors(user: UserState, config: ServingConfig, surface: Surface) -> bool:
    """Whether item factors may change this user's recommendations: by folding in, or for the surface's diversity."""
    configured = config.by_surface[surface]
    if configured.diversity:
        return True
    if user.ranked is not None or user.personal is not None or "lists" not in configured.sources:
        return False
    enough = len({event.item_key for event in recent.followed(user.recent, user.seq)}) >= LEAST_ITEMS
    return enough and _may_fold_in(config, configured)


def _may_fold_in(config: ServingConfig, surface: SurfaceConfig) -> bool:
    """Whether users may be folded in by recent events; not where surface or configuration ignore these."""
    return config.fold_in and config.use_latest_events and not _are_ignored(surface)


def _are_ignored(surface: SurfaceConfig) -> bool:
    """Whether the surface ignores recent events."""
    return surface.blend in ("fuse", "rescore") and surface.recent_weight <= 0


def uses_sessions(user: UserState, config: ServingConfig, surface: Surface) -> bool:
    """Whether an index of sessions may change this user's recommendations."""
    configured = config.by_surface[surface]
    if not config.use_latest_events or "lists" not in configured.sources or _are_ignored(configured):
        return False
    return len(recent.followed(user.recent, user.seq)) > 0


def _after_events(
    snapshot: Snapshot, user: UserState, config: ServingConfig, surface: SurfaceConfig
) -> Called | Following | None:
    """What follows the user's recent events by the index of sessions; their neighbours where it knows none of them."""
    followed = recent.followed(user.recent, user.seq)
    if not followed or not config.use_latest_events:
        return None
    meaning = snapshot.meaning.under(config)
    if snapshot.sessions is not None and (clicks := recent.clicks(followed, meaning)):
        found = Following(snapshot.sessions, clicks, own_items=surface.own_items)
        if found.keys:
            return found
    index = snapshot.neighbours.get(I2I)
    if index is None:
        return None
    return Called(snapshot, I2I, index, recent.seeds(followed, meaning, config.recent_half_life_hours))


def _fused(listed: Listed, called: Called | Following, weight: float) -> Column:
    """Both by reciprocal rank fusion; the compiled one knows neighbours alone."""
    if isinstance(called, Called):
        return core.Fused(listed.stored, listed.attributions, called.best, called.attribution, weight)
    stored = pure.StoredList(listed.stored.item_keys, listed.stored.scores, listed.stored.sources)
    return pure.Fused(stored, listed.attributions, called, called.attribution, weight)


def n_recent(snapshot: Snapshot, user: UserState, query: Query, config: ServingConfig) -> int:
    """The number of recent events that recommendations take into account: by neighbours, by folding in, or by the
    model. Purchases are hidden in any case."""
    surface = config.by_surface[query.surface]
    if not config.use_latest_events or "lists" not in surface.sources:
        return 0
    has_list = user.ranked is not None or user.personal is not None
    is_folded_in = not has_list and snapshot.fold_in is not None and _may_fold_in(config, surface)
    follows = not _are_ignored(surface) and snapshot.sessions is not None
    has_seeds = not _are_ignored(surface) and snapshot.neighbours.get(I2I) is not None
    n = N_FOLLOWED if user.score is not None or is_folded_in or follows else recent.N_SEEDS if has_seeds else 0
    return recent.n_counted(recent.followed(user.recent, user.seq), snapshot.meaning.under(config), n)


def _interleaved(listed: Listed, called: Called | Following) -> Column:
    """Alternates between both until both are exhausted; duplicates are skipped."""
    remaining = [iter(column.first(_ALL, set(), None, None)) for column in (listed, called)]
    found: dict[int, Pick] = {}
    while remaining:
        for one in list(remaining):
            pick = next((pick for pick in one if pick.item_key not in found), None)
            if pick is None:
                remaining.remove(one)
            else:
                found[pick.item_key] = pick
    return Picked(list(found.values()))


def rescored(columns: Iterable[Column], score: Score, candidate_keys: Sequence[int] | None) -> Iterator[Column]:
    """The first items reordered by the model, in one call; or all candidates, also those in no column."""
    fits = None if candidate_keys is None else frozenset(candidate_keys).__contains__
    limit = N_RESCORED if candidate_keys is None else _ALL
    remaining, seen = iter(columns), set[int]()
    pool: list[Pick] = []
    others: list[Column] = []  # those not completely in the pool
    for column in remaining:
        pool += column.first(limit - len(pool), seen, None, fits)
        if len(pool) == limit:
            others.append(column)
            break
    by_key = {pick.item_key: pick for pick in pool}
    keys = [*by_key, *(key for key in dict.fromkeys(candidate_keys or ()) if key not in by_key)]
    found = score(keys) if keys else None
    if found is None:
        yield Picked(pool)
        yield from (Picked(column.first(_ALL, seen, None, None)) for column in chain(others, remaining))
        return
    best_first = sorted(zip(keys, found, strict=True), key=lambda one: -one[1])
    candidate = attribution(CANDIDATE)
    yield Picked([by_key.get(key, Pick(key, None, candidate))._replace(score=at) for key, at in best_first])
    for column in chain(others, remaining):
        yield Picked([pick._replace(score=None) for pick in column.first(_ALL, seen, None, None)])
