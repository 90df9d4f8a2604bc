"""What one publication is to a service process: what is held in memory, swapped as a whole and never changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.fold_in import FoldIn
from recsys.serving.ids import JsonType
from recsys.serving.item_factors import ItemFactors
from recsys.serving.neighbours import NeighbourIndex
from recsys.serving.recent import EventMeaning

ALL_ITEMS = 0  # owner of the default list over all categories


@dataclass(frozen=True)
class StoredList:
    """One list as stored, best first; the three sequences have equal length."""

    item_keys: Sequence[int]
    scores: Sequence[float]
    sources: Sequence[int]  # positions in the list version's `sources`


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
    default_lists: Mapping[int, StoredList]  # by category key, and ALL_ITEMS
    user_id_type: JsonType
    neighbours: Mapping[str, NeighbourIndex] = field(default_factory=dict)  # by kind: i2i, similar
    meaning: EventMeaning = field(default_factory=EventMeaning)
    factors: ItemFactors | None = None  # of the ALS model behind the lists, for diversity
    fold_in: FoldIn | None = None  # of the same model, for users without a list
    # for the documentation page: somebody who has a list, an item that has neighbours

    @property
    def is_published(self) -> bool:
        """False where there is a catalogue and nothing else yet."""
        return self.publication is not NOT_PUBLISHED
