"""What travels between data, candidates, ranking and evaluation: arrays with names, and two protocols.

Keys (`user_key`, `item_key`) are the integers given at import. They are sparse in general: a generator
keeps its own dense index inside. `-1` stands for "no item" in padded arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from recsys.decay import decay
from recsys.keys import Positions, pairs_of, positions

Keys = NDArray[np.int32]
Scores = NDArray[np.float32]
NO_ITEM: np.int32 = np.int32(-1)
MICROSECONDS_PER_DAY = 86_400_000_000


class Task(StrEnum):
    """What is asked of a recommender."""

    DISCOVERY = "discovery"  # items that the user never bought before; bought ones are masked
    ALL = "all"  # whatever they buy next, again or for the first time; nothing is masked


@dataclass(frozen=True)
class Texts:
    """Text of each event, where many have the same one or none."""

    code: NDArray[np.int32]  # (n,): position in `texts`, -1 for none
    texts: Sequence[str]

    def take(self, keep: NDArray[Any]) -> Texts:
        """As `Interactions.take`."""
        return Texts(self.code[keep], self.texts)


@dataclass(frozen=True)
class Interactions:
    """Events strictly before `cut_at`, in time order (ties keep the source's order). All arrays have shape (n,)."""

    user_key: Keys
    item_key: Keys
    event_type: NDArray[np.int8]  # index into `event_types`
    weight: NDArray[np.float32]  # weight of the event type (and value), before any decay
    occurred_at: NDArray[np.int64]  # microseconds since the epoch, UTC, ascending
    session_id: NDArray[np.int64]
    value: NDArray[np.float64]  # price, rating …; NaN where there is none
    event_types: tuple[str, ...]
    cut_at: int  # microseconds since the epoch, UTC
    parameters: Texts | None = None  # a JSON object of each event; None where no event has any
    label: Scores | None = None  # in [0, 1]: 1 speaks for the item, 0 against it; None where all speak for theirs

    def __len__(self) -> int:
        return len(self.user_key)

    @property
    def age_days(self) -> NDArray[np.float64]:
        """Age of each event at the cut, in days, > 0."""
        return (self.cut_at - self.occurred_at) / MICROSECONDS_PER_DAY

    @property
    def pairs(self) -> NDArray[np.int64]:
        """The user and the item of each event as one integer."""
        return pairs_of(self.user_key, self.item_key)

    def decayed_weight(self, half_life_days: float) -> Scores:
        """`weight · 2^(-age / half_life_days)`, float32 (n,)."""
        return (self.weight * decay(self.age_days, half_life_days)).astype(np.float32)

    def take(self, keep: NDArray[Any]) -> Interactions:
        """The events that a boolean mask (n,) or ascending positions select, with the same cut."""
        return Interactions(
            self.user_key[keep],
            self.item_key[keep],
            self.event_type[keep],
            self.weight[keep],
            self.occurred_at[keep],
            self.session_id[keep],
            self.value[keep],
            self.event_types,
            self.cut_at,
            None if self.parameters is None else self.parameters.take(keep),
            None if self.label is None else self.label[keep],
        )

    def before(self, cut_at: int) -> Interactions:
        """The events strictly before `cut_at` (microseconds), seen from there."""
        n = int(np.searchsorted(self.occurred_at, cut_at, side="left"))
        if n == len(self) and cut_at >= self.cut_at:
            return self
        part = self.take(np.arange(n))
        return Interactions(**{**part.__dict__, "cut_at": min(cut_at, self.cut_at)})

    def between(self, start_at: int, end_at: int) -> Interactions:
        """The events in [`start_at`, `end_at`): a label window."""
        first, last = np.searchsorted(self.occurred_at, [start_at, end_at], side="left")
        part = self.take(np.arange(first, last))
        return Interactions(**{**part.__dict__, "cut_at": end_at})

    @property
    def in_favour(self) -> Interactions:
        """The events that speak for their item, each with its weight times its label."""
        if self.label is None:
            return self
        favour = replace(self, weight=self.weight * self.label, label=None)
        return favour.take(self.label > 0)

    @property
    def against(self) -> Interactions:
        """The events that speak against their item."""
        return self.take(np.zeros(0, dtype=np.int64) if self.label is None else (self.label <= 0) & (self.weight > 0))

    def of_types(self, names: Sequence[str]) -> Interactions:
        """The events whose type is one of `names`."""
        wanted = [i for i, name in enumerate(self.event_types) if name in names]
        return self.take(np.isin(self.event_type, wanted))


@dataclass(frozen=True)
class Descriptions:
    """Title, price and properties of the items of a catalogue, each of length n_items."""

    title: Sequence[str | None]
    price: NDArray[np.float64]  # NaN where unknown
    properties: Sequence[str | None]  # JSON objects, property → value


@dataclass(frozen=True)
class Catalogue:
    """The items known before an instant, by ascending key. All arrays have shape (n_items,)."""

    item_key: Keys
    available: NDArray[np.bool_]
    category_key: Keys  # -1 where unknown
    parent_category_key: Keys  # -1 where unknown
    first_seen_at: NDArray[np.int64]  # microseconds since the epoch
    describe: Callable[[], Descriptions] | None = None  # reads them; None where there are none

    def __len__(self) -> int:
        return len(self.item_key)

    def positions(self, item_keys: NDArray[Any]) -> Positions:
        """Position of each key in this catalogue, -1 where it is not known; same shape as `item_keys`."""
        return positions(self.item_key, item_keys)

    def offers(self, item_keys: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of the items it knows as available; same shape as `item_keys`."""
        offered: NDArray[np.bool_] = np.append(self.available, False)[self.positions(item_keys)]
        return offered


@dataclass(frozen=True)
class Candidates:
    """Best items for each owner, best first; rank is position + 1."""

    owner_key: Keys  # (n_owners,): user keys, or item keys for item-to-item lists
    item_key: Keys  # (n_owners, k), padded at the end with -1
    score: Scores  # (n_owners, k), descending; NaN where padded

    @property
    def n_found(self) -> NDArray[np.int64]:
        """How many items each owner got, (n_owners,)."""
        return (self.item_key >= 0).sum(axis=1)


@dataclass(frozen=True)
class Lists:
    """Recommendation lists as they are stored and served: one row per owner, best first, padded at the end with -1."""

    owner_key: Keys  # (n_owners,): user, item or category keys, by kind of list
    item_key: Keys  # (n_owners, k)
    score: Scores  # (n_owners, k), descending; of no meaning where padded
    source: NDArray[np.int16]  # (n_owners, k): position in the list version's names of sources

    def __len__(self) -> int:
        return len(self.owner_key)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many items each list holds, (n_owners,)."""
        return (self.item_key >= 0).sum(axis=1)

    def take(self, rows: NDArray[Any] | slice) -> Lists:
        """The lists that a mask (n_owners,), positions or a slice select."""
        return Lists(self.owner_key[rows], self.item_key[rows], self.score[rows], self.source[rows])


@runtime_checkable
class CandidateGenerator(Protocol):
    """A first stage: learns from interactions before a cut, then proposes and scores items for users.

    `tests/contracts/test_candidate_generators.py` is the full statement of what an implementation promises.
    Hyper-parameters are the fields of the implementing dataclass, with tuned defaults.
    """

    name: ClassVar[str]

    def fit(self, interactions: Interactions, catalogue: Catalogue) -> Self:
        """Learn; raises ModelError if the result is not finite, InputError if there is nothing to learn from."""
        ...

    def candidates(self, user_keys: Keys, n: int, *, seen: Any | None = None) -> Candidates:
        """The best `n` available items for each user of `user_keys` (n_users,), best first.

        `seen`: scipy CSR (n_users, ≥ max item key + 1), rows in the order of `user_keys`, columns are item
        keys; its non-zero entries are never proposed. Users whom the generator does not know get none (-1).
        """
        ...

    def scores(self, user_keys: Keys, item_keys: Keys) -> Scores:
        """Scores of given items: `user_keys` (n,), `item_keys` (n, k) → (n, k), NaN where user or item is unknown."""
        ...

    def with_histories(self, interactions: Interactions) -> Self:
        """The same model for other histories: its users are those of `interactions`, who need not have been in the
        fit, and each is known by these events alone; what was learned about items stays.

        One object so serves nightly lists, users who came later, replays, and evaluations in which the input is newer
        than the model. Of a model's own events it gives the model's own answers.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write everything needed by `load` into an existing empty folder, without pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...


@runtime_checkable
class SimilarItems(Protocol):
    """A model that knows neighbours of items."""

    name: ClassVar[str]

    def similar(self, item_keys: Keys, n: int) -> Candidates:
        """The best `n` available neighbours of each item (itself excluded), best first; -1 where there are fewer."""
        ...
