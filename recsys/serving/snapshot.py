"""What one publication is to a service process, swapped as a whole and never changed; what is requested of it, in keys,
and what it knows of who asks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.config import Surface
from recsys.serving.eligibility import Restriction
from recsys.serving.fold_in import FoldIn
from recsys.serving.ids import JsonType
from recsys.serving.item_factors import ItemFactors
from recsys.serving.neighbours import NeighbourIndex
from recsys.serving.recent import EventMeaning, History, Recent

ALL_ITEMS = 0  # owner of the default list over all categories


class StoredList(NamedTuple):
    """One list as stored, best first; the three sequences have equal length."""

    item_keys: NDArray[np.int32]
    scores: NDArray[np.float32]
    sources: NDArray[np.int16]  # positions in the list version's `sources`

    @classmethod
    def of(cls, item_keys: Sequence[int], scores: Sequence[float], sources: Sequence[int]) -> Self:
        """Of numbers."""
        return cls(np.array(item_keys, np.int32), np.array(scores, np.float32), np.array(sources, np.int16))


class ListsByOwner(Protocol):
    """The lists of one kind: a `ListFile`, or a dictionary."""

    def get(self, owner_key: int, /) -> StoredList | None:
        """The list of an owner, None where they have none."""


@dataclass(frozen=True)
class ListVersion:
    """All lists of one kind that one run of a step wrote."""

    list_version_id: int
    kind: str
    version: str
    dataset: str
    made_by: str
    created_at: dt.datetime
    n_rows: int | None
    n_items: int | None
    sources: tuple[str, ...]  # names of the generators that put items into the lists
    file: str | None = None  # artifact that holds them as arrays, see `list_file`; None: they are in Postgres alone


@dataclass(frozen=True)
class Publication:
    """What the pointer points to: one version of each kind of list, and the models behind them."""

    publication_id: int
    fence: int
    created_at: dt.datetime
    status: str
    dataset: str
    models: Mapping[str, Any]
    checks: Mapping[str, Any]
    lists: Mapping[str, ListVersion]  # by kind

    def version_id(self, kind: str) -> int | None:
        """Id of the list version of a kind, None where this publication has none."""
        version = self.lists.get(kind)
        return version.list_version_id if version else None


# What is served from while nothing is published: the catalogue alone.
NOT_PUBLISHED = Publication(0, 0, dt.datetime.fromtimestamp(0, dt.UTC), "none", "none", models={}, checks={}, lists={})


@dataclass(frozen=True)
class Snapshot:
    """A publication with the parts that every answer needs; one answer uses one snapshot from start to end."""

    publication: Publication
    items: ItemDictionary
    categories: CategoryTree
    lists: Mapping[str, ListsByOwner]  # by kind; owners are users, items, or for `default` categories and ALL_ITEMS
    user_id_type: JsonType
    neighbours: Mapping[str, NeighbourIndex] = field(default_factory=dict)  # by kind: i2i, similar
    meaning: EventMeaning = field(default_factory=EventMeaning)
    factors: ItemFactors | None = None  # of the ALS model behind the lists, for diversity
    fold_in: FoldIn | None = None  # of the same model, for users without a list

    @property
    def is_published(self) -> bool:
        """False where there is a catalogue and nothing else yet."""
        return self.publication is not NOT_PUBLISHED

    def list_of(self, kind: str, owner_key: int) -> StoredList | None:
        """The list of a kind for an owner, None where there is none."""
        lists = self.lists.get(kind)
        return None if lists is None else lists.get(owner_key)


Score = Callable[[Sequence[int]], Sequence[float] | None]  # item keys → probabilities; None when it failed


class Query(NamedTuple):
    """What is asked, in keys."""

    top_k: int
    category_key: int | None = None
    excluded: Set[int] = frozenset()
    context_keys: Sequence[int] = ()  # the product or the cart
    candidate_keys: Sequence[int] | None = None  # rank these and no others
    surface: Surface = "homepage"
    now_ms: float = 0  # milliseconds since the epoch
    restriction: Restriction | None = None  # the request's filters; those of the surface are added to them


class UserState(NamedTuple):
    """What is known of who asks."""

    ranked: StoredList | None = None
    personal: StoredList | None = None
    recent: Sequence[Recent] = ()  # the latest events and older ones that tell what was bought, newest first
    seq: Sequence[Recent] | None = None  # what is followed in their place; what was bought is still told by `recent`
    history: History | None = None  # what was done before the lists were made; it is not followed
    score: Score | None = None  # of items for this user, by the model; None where there is none


NOBODY: Final = UserState()
