"""The immutable snapshot of a publication that a worker serves from, swapped atomically; and the input of the cascade:
the request in keys, and the user's state."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.config import Surface
from recsys.serving.core import StoredList
from recsys.serving.eligibility import Restriction
from recsys.serving.fold_in import FoldIn
from recsys.serving.ids import JsonType
from recsys.serving.item_factors import ItemFactors
from recsys.serving.neighbours import NeighbourIndex
from recsys.serving.recent import EventMeaning, History, Recent
from recsys.session_index import SessionIndex

ALL_ITEMS = 0  # owner of the default list over all categories


class ListsByOwner(Protocol):
    """The lists of one kind: a `ListFile`, or a dictionary."""

    def get(self, owner_key: int, /) -> StoredList | None:
        """The list of an owner; None without one."""


@dataclass(frozen=True)
class ListVersion:
    """All lists of one kind, written by one run of a step."""

    list_version_id: int
    kind: str
    version: str
    dataset: str
    made_by: str
    created_at: dt.datetime
    n_rows: int | None
    n_items: int | None
    sources: tuple[str, ...]  # names of the generators that put items into the lists
    file: str | None = None  # artifact with the lists as arrays, see `list_file`; None: they are in Postgres only


@dataclass(frozen=True)
class Publication:
    """A publication: one version of each kind of list, and their models."""

    publication_id: int
    fence: int
    created_at: dt.datetime
    status: str
    dataset: str
    models: Mapping[str, Any]
    checks: Mapping[str, Any]
    lists: Mapping[str, ListVersion]  # by kind

    def version_id(self, kind: str) -> int | None:
        """Id of the list version of a kind; None without one."""
        version = self.lists.get(kind)
        return version.list_version_id if version else None


# In service while nothing is published: the catalogue only.
NOT_PUBLISHED = Publication(0, 0, dt.datetime.fromtimestamp(0, dt.UTC), "none", "none", models={}, checks={}, lists={})


@dataclass(frozen=True)
class Snapshot:
    """A publication with the data that every request needs; a request uses one snapshot from start to end."""

    publication: Publication
    items: ItemDictionary
    categories: CategoryTree
    lists: Mapping[str, ListsByOwner]  # by kind; owners are users, items, or for `default` categories and ALL_ITEMS
    user_id_type: JsonType
    neighbours: Mapping[str, NeighbourIndex] = field(default_factory=dict)  # by kind: i2i, similar
    meaning: EventMeaning = field(default_factory=EventMeaning)
    factors: ItemFactors | None = None  # of the publication's ALS model, for diversity
    fold_in: FoldIn | None = None  # of the same model, for users without a list
    sessions: SessionIndex | None = None  # of the publication: what follows recent events

    @property
    def is_published(self) -> bool:
        """False while there is only a catalogue."""
        return self.publication is not NOT_PUBLISHED

    def list_of(self, kind: str, owner_key: int) -> StoredList | None:
        """The list of a kind for an owner; None without one."""
        lists = self.lists.get(kind)
        return None if lists is None else lists.get(owner_key)


Score = Callable[[Sequence[int]], Sequence[float] | None]  # item keys → probabilities; None when it failed


class Query(NamedTuple):
    """A request for recommendations, in keys."""

    top_k: int
    category_key: int | None = None
    excluded: Set[int] = frozenset()
    context_keys: Sequence[int] = ()  # the product or the cart
    candidate_keys: Sequence[int] | None = None  # rank only these
    surface: Surface = "homepage"
    now_ms: float = 0  # milliseconds since the epoch
    who: str = ""  # user or session, by whom items are drawn; empty: anonymous
    restriction: Restriction | None = None  # the request's filters, to which those of the surface are added


class UserState(NamedTuple):
    """The lists and events of a user or guest."""

    ranked: StoredList | None = None
    personal: StoredList | None = None
    recent: Sequence[Recent] = ()  # recent events, and older purchases, newest first
    seq: Sequence[Recent] | None = None  # used instead of recent events, except for hiding bought items
    history: History | None = None  # events before the lists were built, to hide bought items
    score: Score | None = None  # scores items for this user by the model; None without one


NOBODY: Final = UserState()
