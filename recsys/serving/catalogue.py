"""The in-memory catalogue of a worker: ids ↔ keys, availability, categories. No database, no HTTP."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import compress, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.columns import RECOMMENDATION_WEIGHT
from recsys.errors import InputError
from recsys.ids import is_id
from recsys.serving.ids import ExternalId, JsonType, read_id, read_ids, to_external
from recsys.serving.item_numbers import ItemNumbers

NO_CATEGORY = -1
_NO_NUMBERS: Mapping[str, float] = {}


@dataclass(frozen=True)
class ItemRows:
    """Rows of n items in arrays, each (n,)."""

    item_keys: NDArray[np.int32]
    item_ids: list[str]
    category_keys: NDArray[np.int32]  # NO_CATEGORY where there is none
    available: NDArray[np.bool_]
    numbers: Mapping[str, NDArray[np.float64]]  # by name, NaN where there is none

    def take(self, where: NDArray[np.bool_]) -> ItemRows:
        """Some of them."""
        return ItemRows(
            self.item_keys[where],
            list(compress(self.item_ids, where)),
            self.category_keys[where],
            self.available[where],
            {name: values[where] for name, values in self.numbers.items()},
        )


class ItemDictionary:
    """All items, in arrays indexed by key: 13 bytes per item beside the id itself, and 8 per numeric property.

    Keys are assigned consecutively, so the arrays have few gaps. Items change in place, so that changes take effect at
    once.
    """

    def __init__(self, json_type: JsonType, numbers: ItemNumbers | None = None) -> None:
        self.json_type: JsonType = json_type
        self.numbers = numbers or ItemNumbers()
        self.n_available = 0  # how many items may be recommended
        self.unreadable: set[int] = set()  # keys of items with invalid ids, which are left out
        self.badly_weighted: set[int] = set()  # keys of items whose RECOMMENDATION_WEIGHT is no number from 0 to 1e255
        self.id_by_key: list[ExternalId | None] = []  # None where there is no such item
        self._key_by_id: dict[ExternalId, int] = {}
        self.ids = self._key_by_id.keys()  # of all items, in the catalogue's own type; follows changes
        self.availability = bytearray()  # by key, 1 where the item is known and may be recommended
        self._category_by_key = array("i")
        self._weighted: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None  # until the next change

    def add(
        self,
        item_key: int,
        item_id: str,
        category_key: int | None,
        available: bool,
        numbers: Mapping[str, float] = _NO_NUMBERS,
    ) -> None:
        """Add or update an item. Rows may come in any order; where the key had another id, or the id another key, the
        last row wins.

        Raises InputError for an id not of the catalogue's type; the item is left out then.
        """
        try:
            external = read_id(item_id, self.json_type, "item")
        except InputError:
            self.remove(item_key)
            self.unreadable.add(item_key)
            raise
        self.unreadable.discard(item_key)
        missing = item_key + 1 - len(self.id_by_key)
        if missing > 0:
            self.id_by_key.extend([None] * missing)
            self.availability.extend(bytes(missing))
            self._category_by_key.extend([NO_CATEGORY] * missing)
            self.numbers.extend(missing)
        if self.id_by_key[item_key] != external:
            self.remove(item_key)
            self.remove(self._key_by_id.get(external, -1))
            self.id_by_key[item_key] = external
        self._key_by_id[external] = item_key
        self._weighted = None
        self.n_available += available - self.availability[item_key]
        self.availability[item_key] = available
        self._category_by_key[item_key] = NO_CATEGORY if category_key is None else category_key
        self.numbers.put(item_key, numbers)

    def add_all(self, rows: ItemRows) -> None:
        """As `add` for each row in turn, leaving out those with invalid ids; about ten times as fast where the keys
        ascend beyond all known ones and no id comes twice."""
        keys: list[int] = rows.item_keys.tolist()
        if not keys:
            return
        n_known = len(self.id_by_key)
        is_beyond = keys[0] >= n_known and bool((np.diff(rows.item_keys) > 0).all())
        ids = read_ids(rows.item_ids, self.json_type)
        if ids is None and is_beyond:
            readable = np.array([is_id(text, self.json_type) for text in rows.item_ids])
            self.unreadable.update(rows.item_keys[~readable].tolist())
            self.add_all(rows.take(readable))
            return
        key_by_id = {} if ids is None else dict(zip(ids, keys, strict=True))
        if not is_beyond or len(key_by_id) < len(keys) or not self._key_by_id.keys().isdisjoint(key_by_id):
            self._add_in_turn(rows)
            return

        def spread(values: Any, nothing: Any, dtype: Any) -> NDArray[Any]:  # over all keys from the first unknown one
            column = np.full(keys[-1] + 1 - n_known, nothing, dtype)
            column[rows.item_keys - n_known] = values
            return column

        self._weighted = None
        self.unreadable.difference_update(keys)
        self.id_by_key.extend(spread(ids, None, object).tolist())
        self._key_by_id.update(key_by_id)
        self.n_available += int(np.count_nonzero(rows.available))
        self.availability.extend(spread(rows.available, 0, np.uint8).tobytes())
        self._category_by_key.frombytes(spread(rows.category_keys, NO_CATEGORY, np.int32).tobytes())
        self.numbers.extend(len(self.id_by_key) - n_known)
        self.numbers.put_all(rows.item_keys, rows.numbers)

    def _add_in_turn(self, rows: ItemRows) -> None:
        columns = (rows.item_keys, rows.category_keys, rows.available, *rows.numbers.values())
        for id_, key, category, available, *numbers in zip(rows.item_ids, *(c.tolist() for c in columns), strict=True):
            known = {name: value for name, value in zip(rows.numbers, numbers, strict=True) if value == value}  # no NaN
            with suppress(InputError):  # `unreadable` has it
                self.add(key, id_, category, available, known)

    def remove(self, item_key: int) -> None:
        """Remove an item, known or not: lists skip its key."""
        self.unreadable.discard(item_key)
        self.badly_weighted.discard(item_key)
        external = self.id_or_none(item_key)
        if external is not None:
            self._weighted = None
            del self._key_by_id[external]
            self.id_by_key[item_key] = None
            self.n_available -= self.availability[item_key]
            self.availability[item_key] = False

    def __len__(self) -> int:
        return len(self._key_by_id)

    def key(self, item_id: ExternalId) -> int | None:
        """Key of an id of the catalogue's own type, None where there is no such item."""
        return self._key_by_id.get(item_id)

    def keys(self, item_ids: Sequence[ExternalId]) -> NDArray[np.int64]:
        """Keys of ids of the catalogue's own type, -1 where there is no such item, (n,)."""
        return np.fromiter(map(self._key_by_id.get, item_ids, repeat(-1)), dtype=np.int64, count=len(item_ids))

    def id(self, item_key: int) -> ExternalId:
        """Id of a known key; KeyError for an unknown one. A key may become unknown during any `await`."""
        external = self.id_by_key[item_key] if 0 <= item_key < len(self.id_by_key) else None
        if external is None:
            raise KeyError(item_key)
        return external

    def id_or_none(self, item_key: int) -> ExternalId | None:
        """Id of a key, None for an unknown or removed item."""
        return self.id_by_key[item_key] if 0 <= item_key < len(self.id_by_key) else None

    def is_available(self, item_key: int) -> bool:
        """Whether the item is known and may be recommended."""
        return 0 <= item_key < len(self.availability) and bool(self.availability[item_key])

    def category(self, item_key: int) -> int:
        """Category key of a known item, NO_CATEGORY where it has none."""
        return self._category_by_key[item_key]

    def available_in(self, category_keys: Set[int]) -> list[int]:
        """Keys of the available items of these categories, ascending; a millisecond for 200,000 items."""
        n = len(self.availability)
        available = (
            np.frombuffer(self.availability, dtype=np.uint8, count=n) > 0
        )  # copies: a view would lock the buffer
        fitting = np.isin(np.frombuffer(self._category_by_key, dtype=np.int32, count=n), list(category_keys))
        keys: list[int] = np.flatnonzero(available & fitting).tolist()
        return keys

    def newest_available(self) -> Iterator[int]:
        """Keys of available items, newest first."""
        return (key for key in range(len(self.availability) - 1, -1, -1) if self.availability[key])

    def weighted(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Keys of available items whose RECOMMENDATION_WEIGHT is positive, ascending, and that weight, each (n,);
        made once for all requests between two changes."""
        if self._weighted is None:
            column = self.numbers.column(RECOMMENDATION_WEIGHT)
            weights = np.zeros(0) if column is None else np.array(column)  # a copy: a view would lock the array
            keys = np.flatnonzero((weights > 0) & self.available_by_key()[: len(weights)])
            self._weighted = keys, weights[keys]
        return self._weighted

    def available_by_key(self) -> NDArray[np.bool_]:
        """A mask by key of the items that may be recommended (a copy)."""
        return np.array(self.availability, dtype=bool)

    def categories_of(self, item_keys: Any) -> NDArray[np.int32]:
        """Category keys of known items, given as an array or a slice (a copy); NO_CATEGORY where there is none."""
        return np.array(np.asarray(self._category_by_key)[item_keys])


class CategoryTree:
    """Categories by key, each with its parent; a cycle in the data is traversed once."""

    def __init__(self, json_type: JsonType, ids: Mapping[int, str], parents: Mapping[int, int | None]) -> None:
        self.json_type: JsonType = json_type
        self._parents = dict(parents)
        readable = {key: text for key, text in ids.items() if is_id(text, json_type)}
        self.unreadable = ids.keys() - readable.keys()  # invalid rows, written by hand
        self._key_by_id = {read_id(text, json_type, "category"): key for key, text in readable.items()}
        children: dict[int, list[int]] = {}
        for key, parent in parents.items():
            if parent is not None:
                children.setdefault(parent, []).append(key)
        # Not of bound methods: a former tree is freed at once, without waiting for the garbage collector.
        self.subtree = lru_cache(maxsize=4096)(partial(_subtree, children))
        self.below = lru_cache(maxsize=256)(partial(_below, json_type, self._key_by_id, self.subtree))

    def __len__(self) -> int:
        return len(self._key_by_id)

    def __iter__(self) -> Iterator[ExternalId]:
        return iter(self._key_by_id)

    def key(self, category_id: ExternalId) -> int | None:
        """Key of an id of the catalogue's own type, None where there is no such category."""
        return self._key_by_id.get(category_id)

    def lineage(self, category_key: int) -> list[int]:
        """The category itself and its ancestors, up to a root."""
        line: list[int] = []
        key: int | None = category_key
        while key is not None and key not in line:
            line.append(key)
            key = self._parents.get(key)
        return line


def _subtree(children: Mapping[int, list[int]], category_key: int) -> frozenset[int]:
    """The category and its descendants."""
    found: set[int] = set()
    waiting = [category_key]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting.extend(children.get(key, ()))
    return frozenset(found)


def _below(
    json_type: JsonType,
    key_by_id: Mapping[ExternalId, int],
    subtree: Callable[[int], frozenset[int]],
    category_ids: tuple[ExternalId, ...],
) -> tuple[frozenset[int], tuple[ExternalId, ...]]:
    """Keys of the categories with these ids and of their descendants, and the unknown ids."""
    found: set[int] = set()
    unknown = []
    for id_ in category_ids:
        try:
            key = key_by_id.get(to_external(id_, json_type, "category"))
        except InputError:  # an id of another type is unknown
            key = None
        if key is None:
            unknown.append(id_)
        else:
            found |= subtree(key)
    return frozenset(found), tuple(unknown)
