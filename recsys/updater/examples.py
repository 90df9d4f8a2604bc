"""From events to what DeepFM learns of them, point in time: the same inputs as a request a moment before would give."""

from __future__ import annotations

import dataclasses
import sys
from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from recsys.action import action_of
from recsys.events.event import Event
from recsys.events.recent import N_RECENT, owners_of
from recsys.features.context import REQUEST_FEATURES
from recsys.features.deepfm_fields import N_USER_FIELDS, TIME, Floats, Rows, time_rows
from recsys.features.deepfm_spec import FeatureSpec
from recsys.keys import Positions
from recsys.serving.ids import digest_of
from recsys.serving.model_state import Asker, Moment, put_features, read_features
from recsys.serving.recent import Recent
from recsys.serving.scorer import Scorer
from recsys.updater.pool import ItemPool

_MOST_OWNERS: Final = 50_000  # whose latest events are held in memory, those who were active last
_LARGEST_WEIGHT: Final = 5.0  # of an example, in mean events


class Known(NamedTuple):
    """An event whose item is in the catalogue, with the keys of what it names."""

    event: Event
    user_key: int | None
    item_key: int
    category_key: int  # -1: none
    parent_category_key: int


@dataclass(frozen=True)
class TrainingExamples:
    """Rows to learn from; n of them."""

    user: Rows  # (n, n_user_fields)
    history: Rows  # (n, history_length)
    history_weight: Floats  # (n, history_length)
    item: Positions  # (n,): of the observed item in the pool
    label: Floats  # (n,): 1 for the item, 0 against it
    weight: Floats  # (n,): 1 is the mean event's

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: NDArray[Any] | slice) -> TrainingExamples:
        return TrainingExamples(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    @classmethod
    def joined(cls, *parts: Self) -> Self:
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class Stream:
    """What is known of users and items since the cut: all of it follows from the events that were taken, in order."""

    def __init__(self, scorer: Scorer, pool: ItemPool, weight_by_type: Mapping[str, float]) -> None:
        self.spec, self.state, self.pool = scorer.spec, scorer.state, pool
        self._weights = dict(weight_by_type)
        self._recent: OrderedDict[str, list[Recent]] = OrderedDict()  # digest of the owner → newest first
        # events since the cut of who has no row: of users by owner, those who were active last; of items by key
        self._n_by_user: OrderedDict[str, int] = OrderedDict()
        self._n_by_item: dict[int, int] = {}

    def take(self, known: Sequence[Known]) -> TrainingExamples:
        """What events teach, in their order; afterwards they are part of what is known.

        Events before the cut are left out, the model has learned them at night; so are those that count nothing.
        """
        fresh = self._since_the_cut(known)
        askers, actions, kept = [], [], []
        for one in fresh:
            event = one.event
            owner = _owner(event)
            now_ms = _microseconds(event) // 1000
            before = [recent for recent in self._recent.get(owner, ()) if recent.occurred_ms < now_ms]
            action = action_of(event.event_type, event.label, _object(event.parameters), self._weights)
            if action.weight > 0:
                askers.append(Asker(one.user_key, before, features_of(self.spec, event)))
                actions.append(action)
                kept.append(one)
            self._remember(owner, _recent(one.item_key, event.event_type, now_ms))
        return self._examples(kept, askers, actions)

    def _examples(self, known: list[Known], askers: list[Asker], actions: list[Any]) -> TrainingExamples:
        n, length = len(known), self.spec.history_length
        moment = Moment(0.0, self._weights)
        inputs = self.state.user_inputs(askers, moment) if n else _NOBODY
        at = np.array([_microseconds(one.event) for one in known], dtype=np.int64)
        if n:
            inputs["user"][:, TIME] = time_rows(at)
            for row, asker in enumerate(askers):
                put_features(inputs["user"][row], asker.features)
        categories = {one.item_key: (one.category_key, one.parent_category_key) for one in known}
        weight = np.array([action.weight for action in actions], dtype=np.float32) / self.spec.mean_event_weight
        return TrainingExamples(
            user=inputs["user"],
            history=_padded(inputs["history"], length),
            history_weight=_padded(inputs["history_weight"], length),
            item=self.pool.positions([one.item_key for one in known], categories.__getitem__),
            label=np.array([action.label for action in actions], dtype=np.float32),
            weight=np.minimum(weight, _LARGEST_WEIGHT).astype(np.float32),
        )

    def new_users(self, known: Sequence[Known]) -> list[Known]:
        """An event each of the users without a row who have had enough by these ones to get one, in order of their
        first, as long as there are rows to give. They may have no key yet."""
        first, n = self._without_row(known)
        at_cut = self.state.n_events([_key(one) for one in first]).tolist()
        least = int(self.spec.training["min_user_events"])
        total = [self._n_by_user.get(_owner(one.event), 0) + n[one.event.user_id] for one in first]
        due = [one for one, now, before in zip(first, total, at_cut, strict=True) if now + before >= least]
        return due[: self.state.rows_of_users.n_spare]

    def eligible(self, known: Sequence[Known]) -> tuple[list[int], list[int]]:
        """Keys of users and items that have had enough events by these ones to get a row of their own, as long as
        there are some to give; a user without a key waits for one."""
        users = [one.user_key for one in self.new_users(known) if one.user_key is not None]
        n, least = self._items_without_row(known), int(self.spec.training["min_item_events"])
        items = [key for key in n if self._n_by_item.get(key, 0) + n[key] >= least]
        return users, items[: self.state.rows_of_items.n_spare]

    def count(self, known: Sequence[Known]) -> None:
        """Count the events of who has no row. Users are counted by id: it makes no difference when one gets a key."""
        first, n = self._without_row(known)
        for one in first:
            owner = _owner(one.event)
            self._n_by_user[owner] = self._n_by_user.get(owner, 0) + n[one.event.user_id]
            self._n_by_user.move_to_end(owner)
        while len(self._n_by_user) > _MOST_OWNERS:
            self._n_by_user.popitem(last=False)
        for key, more in self._items_without_row(known).items():
            self._n_by_item[key] = self._n_by_item.get(key, 0) + more

    def _without_row(self, known: Sequence[Known]) -> tuple[list[Known], Counter[str | None]]:
        """The first event since the cut of each user without a row, and how many there are, by user."""
        fresh = [one for one in self._since_the_cut(known) if one.event.user_id is not None]
        n = Counter(one.event.user_id for one in fresh)
        first = list({one.event.user_id: one for one in reversed(fresh)}.values())[::-1]
        rows = self.state.user_rows([one.user_key for one in first]).tolist()
        return [one for one, row in zip(first, rows, strict=True) if not row], n

    def _items_without_row(self, known: Sequence[Known]) -> dict[int, int]:
        """How many events since the cut there are of each item without a row, in order."""
        n = Counter(one.item_key for one in self._since_the_cut(known))
        rows = self.state.rows_of_items.rows(np.array(list(n), dtype=np.int64)).tolist()
        return {key: more for (key, more), row in zip(n.items(), rows, strict=True) if not row}

    def _since_the_cut(self, known: Sequence[Known]) -> list[Known]:
        return [one for one in known if _microseconds(one.event) >= self.spec.cut_at]

    def give_rows(self, users: Sequence[int], items: Sequence[int]) -> None:
        """Give rows of the network to keys."""
        self.state.rows_of_users.give(users)
        self.state.rows_of_items.give(items)
        if items:
            self.pool.refresh()

    def _remember(self, owner: str, recent: Recent) -> None:
        events = self._recent.setdefault(owner, [])
        self._recent.move_to_end(owner)
        insort(events, recent, key=lambda one: -one.occurred_ms)
        del events[N_RECENT:]
        if len(self._recent) > _MOST_OWNERS:
            self._recent.popitem(last=False)

    def to_json(self) -> bytes:
        """What is known, without the rows that were given."""
        return orjson.dumps(
            {
                "recent": {owner: [list(one) for one in events] for owner, events in self._recent.items()},
                "users": list(self._n_by_user.items()),
                "items": list(self._n_by_item.items()),
            }
        )

    def from_json(self, text: bytes) -> None:
        """The inverse."""
        said = orjson.loads(text)
        self._recent = OrderedDict(
            (owner, [_recent(*one) for one in events]) for owner, events in said["recent"].items()
        )
        self._n_by_user = OrderedDict((owner, int(n)) for owner, n in said["users"])
        self._n_by_item = {int(key): int(n) for key, n in said["items"]}


def features_of(spec: FeatureSpec, event: Event) -> dict[str, int]:
    """What was known of an event's moment before it happened: its parameters, less those that tell how it went, and
    its features, which also may name hour and day."""
    if event.parameters == b"{}" and event.features == b"{}":
        return {}
    parameters = {name: value for name, value in _object(event.parameters).items() if name not in REQUEST_FEATURES}
    return read_features(spec, parameters | _object(event.features))[0]


_NOBODY: Final[dict[str, Any]] = {
    "user": np.zeros((0, N_USER_FIELDS), np.int32),
    "history": np.zeros((0, 1), np.int32),
    "history_weight": np.zeros((0, 1), np.float32),
}


def _recent(item_key: int, event_type: str, occurred_ms: int) -> Recent:
    """Millions are held: each has the one string of its type."""
    return Recent(item_key, sys.intern(event_type), occurred_ms)


def _owner(event: Event) -> str:
    """Whose it is, not readable: what is known is written into artifacts."""
    return digest_of(owners_of(event)[0]).hex()[:32]


def _key(one: Known) -> int:
    return -1 if one.user_key is None else one.user_key


def _microseconds(event: Event) -> int:
    return round(event.occurred_at.timestamp() * 1e6)


def _object(text: bytes) -> dict[str, Any]:
    return orjson.loads(text) if text != b"{}" else {}


def _padded(array: NDArray[Any], length: int) -> NDArray[Any]:
    return np.pad(array, ((0, 0), (0, length - array.shape[1])))
