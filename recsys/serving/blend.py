"""The user's list and the neighbours of the latest events, blended by the surface's policy, or ordered by a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from recsys.serving import core, recent
from recsys.serving.config import ServingConfig, Surface, SurfaceConfig
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
    Listed,
    Pick,
    Picked,
    RankedColumn,
)

N_RESCORED: Final = 200  # of what `fuse` puts first; the others keep their order


def blended(snapshot: Snapshot, user: UserState, config: ServingConfig, surface: SurfaceConfig) -> Iterator[Column]:
    """The user's list and the neighbours of the latest events, by the surface's policy."""
    kind, stored = (RANKED, user.ranked) if user.ranked is not None else (PERSONAL, user.personal)
    listed: Listed | FoldedIn = Listed(snapshot, kind, stored)
    fold_in = snapshot.fold_in
    if stored is None and fold_in is not None and _may_fold_in(config, surface):
        listed = FoldedIn(snapshot, fold_in, user, config)
    called = _called_by_events(snapshot, user, config)
    if called is None or (surface.blend in ("fuse", "rescore") and surface.recent_weight <= 0):
        yield listed
    elif surface.blend in ("fuse", "rescore"):
        yield _Blended(listed, called, core.Fused(listed.array, called.best, surface.recent_weight / listed.weight))
    elif surface.blend == "interleave":
        yield _Blended(listed, called, _Turns(listed.keys, called.keys))
    else:
        yield from (called, listed) if surface.blend == "recent_first" else (listed, called)
    if kind == RANKED:
        yield Listed(snapshot, PERSONAL, user.personal)


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
    return Called(snapshot, I2I, index, recent.seeds(followed, meaning, config.recent_half_life_hours))


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


class _Order(Protocol):
    """An order of two columns as one; what its members promise stands at `core.Fused`."""

    def __iter__(self) -> Iterator[int]: ...
    def at(self, nth: Sequence[int]) -> list[int]: ...
    def is_in_both(self, item_key: int) -> bool: ...


class _Blended:
    """A list and what is called, as one."""

    def __init__(self, listed: RankedColumn, called: Called, order: _Order) -> None:
        self._listed, self._called, self._order = listed, called, order
        self._n_listed = len(listed.array)
        self.keys: Iterable[int] = order

    def picks(self, places: Sequence[int], item_keys: Sequence[int]) -> list[Pick]:
        n, of_list, of_called, because = self._n_listed, self._listed.pick, self._called.pick, self._called.because
        is_in_both = self._order.is_in_both
        return [
            of_called(at - n, key) if at >= n else of_list(at, key, because if is_in_both(key) else None)
            for at, key in zip(self._order.at(places), item_keys, strict=True)
        ]


class _Turns:
    """One of each by turns, until both are at their end; what came before is no turn."""

    def __init__(self, listed: Sequence[int], called: Sequence[int]) -> None:
        order: dict[int, int] = {}  # by item, its place
        waiting = [enumerate(listed), enumerate(called, len(listed))]
        while waiting:
            for one in list(waiting):
                at, key = next(((at, key) for at, key in one if key not in order), (-1, -1))
                if at < 0:
                    waiting.remove(one)
                else:
                    order[key] = at
        self._keys, self._order = list(order), list(order.values())

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def at(self, nth: Sequence[int]) -> list[int]:
        return [self._order[one] for one in nth]

    def is_in_both(self, item_key: int) -> bool:
        return False  # it came by one of them


def rescored(columns: Iterable[Column], score: Score, candidate_keys: Sequence[int] | None) -> Iterator[Column]:
    """The first items by the model, which is asked once; or all candidates, whether they are in a column or not."""
    candidates = None if candidate_keys is None else frozenset(candidate_keys)
    picks = (
        pick for column in columns for one in enumerate(column.keys) for pick in column.picks(*([of] for of in one))
    )
    pool: dict[int, Pick] = {}
    for pick in picks:
        if candidates is None or pick.item_key in candidates:
            pool.setdefault(pick.item_key, pick)
        if candidates is None and len(pool) == N_RESCORED:
            break
    keys = [*pool, *(key for key in dict.fromkeys(candidate_keys or ()) if key not in pool)]
    found = score(keys) if keys else None
    if found is None:
        yield Picked(list(pool.values()))
        yield Picked(list(picks))
        return
    best_first = sorted(zip(keys, found, strict=True), key=lambda one: -one[1])
    yield Picked([pool.get(key, Pick(key, None, CANDIDATE, None))._replace(score=at) for key, at in best_first])
    yield Picked([pick._replace(score=None) for pick in picks])
