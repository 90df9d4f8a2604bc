"""Recent events of a user: their weights, and the bought items, which are not recommended again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, overload

from recsys.action import interest_of
from recsys.serving import core
from recsys.serving.config import DEFAULT, ServingConfig
from recsys.serving.core import StoredList
from recsys.serving.core.pure import DAY_MS

N_SEEDS = 20  # items of recent events whose neighbours are recommended
N_FOLLOWED = 50  # stored events that count as recent; older ones only hide bought items
HOUR_MS = 3600e3
DEFAULT_WEIGHTS: Mapping[str, float] = {"view": 1.0, "addtocart": 3.0, "transaction": 5.0}
DEFAULT_BOUGHT = ("transaction",)
_NEVER = float("inf")
Columns = tuple[Sequence[int], Sequence[str], Sequence[int]]


class Recent(NamedTuple):
    """A recent event."""

    item_key: int
    event_type: str
    occurred_ms: int


class Events(Sequence[Recent]):
    """Events as read from Postgres, in three columns of equal length; a `Recent` is created on access."""

    __slots__ = ("_keys", "_ms", "_types")

    def __init__(self, item_keys: Sequence[int], event_types: Sequence[str], occurred_ms: Sequence[int]) -> None:
        self._keys, self._types, self._ms = item_keys, event_types, occurred_ms

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Recent]:
        return map(Recent, self._keys, self._types, self._ms)

    @overload
    def __getitem__(self, at: int) -> Recent: ...
    @overload
    def __getitem__(self, at: slice) -> Events: ...
    def __getitem__(self, at: int | slice) -> Recent | Events:
        if isinstance(at, slice):
            return Events(self._keys[at], self._types[at], self._ms[at])
        return Recent(self._keys[at], self._types[at], self._ms[at])

    @property
    def columns(self) -> Columns:
        """Item keys, types and times; creating a `Recent` of each would take as long as its processing."""
        return self._keys, self._types, self._ms


class History(NamedTuple):
    """A user's events in the nightly data set: the latest one by item and type, with the day, precise to about two
    minutes."""

    events: StoredList
    event_types: Sequence[str]


class Interests(dict[str, float]):
    """Event type → interest (see recsys.action); a dictionary, for it is looked up for each event of a request."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__({type_: interest_of(type_, weights) for type_ in weights})
        self._weights = weights

    def __missing__(self, event_type: str) -> float:
        return interest_of(event_type, self._weights)


@dataclass(frozen=True)
class EventMeaning:
    """Weights of event types, as declared by the pipeline's settings and the data's source."""

    weights: Mapping[str, float] = field(default_factory=lambda: DEFAULT_WEIGHTS)
    bought: Sequence[str] = DEFAULT_BOUGHT
    hides_bought: bool = True  # False: bought items may be recommended again

    @cached_property
    def interests(self) -> Interests:
        """The interests by the weights."""
        return Interests(self.weights)

    @cached_property
    def ever_bought(self) -> dict[str, float]:
        """Event type that counts as bought → since when, see `core.bought`: always."""
        return dict.fromkeys(self.bought, -_NEVER)

    def under(self, config: ServingConfig) -> EventMeaning:
        """The meaning with the weights of the configuration, if it has any."""
        if config.event_weights is None:
            return self
        return replace(self, weights=config.event_weights)


def followed(events: Sequence[Recent], seq: Sequence[Recent] | None) -> Sequence[Recent]:
    """The events whose items are seeds: recent ones, or `seq` if given."""
    if seq is not None:
        return seq
    return events if len(events) <= N_FOLLOWED else events[:N_FOLLOWED]


def merged(*histories: Iterable[Recent]) -> list[Recent]:
    """The distinct events of several histories (a user's and the session's), newest first."""
    return sorted(
        {event for history in histories for event in history}, key=lambda e: (-e.occurred_ms, e.item_key, e.event_type)
    )


def bought(
    events: Iterable[Recent],
    meaning: EventMeaning,
    config: ServingConfig = DEFAULT,
    now_ms: float = 0,
    history: History | None = None,
) -> set[int]:
    """Items that are not recommended again, by posted events and by the nightly data set.

    `now_ms`: milliseconds since the epoch, for rules that end after some days.
    """
    since_ms = _since_ms(meaning, config, now_ms)
    found = core.bought(*_columns(events), since_ms)
    return found if history is None else found | history.events.bought_since(history.event_types, since_ms)


def _since_ms(meaning: EventMeaning, config: ServingConfig, now_ms: float) -> dict[str, float]:
    """Event type → the time since when its events hide their items."""
    if config.bought is None:
        if not meaning.hides_bought:
            return {}
        return meaning.ever_bought
    return {rule.event_type: -_NEVER if rule.days is None else now_ms - rule.days * DAY_MS for rule in config.bought}


def seeds(
    events: Sequence[Recent], meaning: EventMeaning, half_life_hours: float = 24.0, n: int = N_SEEDS
) -> dict[int, float]:
    """Item → its weight as a seed: the sum over its events of weight · 2^(-age / half-life). At most `n` items, those
    of the newest events.

    `events`: newest first; ages count from the newest, so that users who return after a week keep their seeds.
    """
    return core.seeds(*_columns(events), meaning.interests, -1 / (half_life_hours * HOUR_MS), n)


def clicks(events: Sequence[Recent], meaning: EventMeaning) -> list[int]:
    """The items of the events of positive interest, in their order, with repetitions."""
    item_keys, event_types, _ = _columns(events)
    interests = meaning.interests
    return [key for key, event_type in zip(item_keys, event_types, strict=True) if interests[event_type] > 0]


def n_counted(events: Sequence[Recent], meaning: EventMeaning, n: int) -> int:
    """The number of events that `seeds` counts for `n` items."""
    item_keys, event_types, _ = _columns(events)
    return core.n_counted(item_keys, event_types, meaning.interests, n)


def _columns(events: Iterable[Recent]) -> Columns:
    """Item keys, types and times."""
    if isinstance(events, Events):
        return events.columns
    rows = list(events)
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
