"""From events to training examples of DeepFM, point in time: with the inputs of a request just before the event."""

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

_MAX_OWNERS: Final = 50_000  # with recent events in memory; the least recently active are evicted
_MAX_WEIGHT: Final = 5.0  # of an example; 1 is the mean event


class Known(NamedTuple):
    """An event whose item is in the catalogue, with the keys of its user, item and categories."""

    event: Event
    user_key: int | None
    item_key: int
    category_key: int  # -1: none
    parent_category_key: int


@dataclass(frozen=True)
class TrainingExamples:
    """n rows to train on."""

    user: Rows  # (n, n_user_fields)
    history: Rows  # (n, history_length)
    history_weight: Floats  # (n, history_length)
    item: Positions  # (n,): position of the observed item in the pool
    label: Floats  # (n,): 1 positive, 0 negative
    weight: Floats  # (n,): 1 is the mean event

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
    """State of users and items since the cutoff, a deterministic function of the events taken, in order."""

    def __init__(self, scorer: Scorer, pool: ItemPool, weight_by_type: Mapping[str, float]) -> None:
        self.spec, self.state, self.pool = scorer.spec, scorer.state, pool
        self._weights = dict(weight_by_type)
        self._recent: OrderedDict[str, list[Recent]] = OrderedDict()  # digest of the owner → newest first
        # event counts since the cutoff, without a row: users by owner, least recently active first; items by key
        self._n_by_user: OrderedDict[str, int] = OrderedDict()
        self._n_by_item: dict[int, int] = {}

    def take(self, known: Sequence[Known]) -> TrainingExamples:
        """Training examples of events, in order; the events then become part of the state.

        Skips events before the cutoff, which the nightly training has used, and those of weight zero.
        """
        fresh = self._since_cutoff(known)
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
        inputs = self.state.user_inputs(askers, moment) if n else _NO_USERS
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
            weight=np.minimum(weight, _MAX_WEIGHT).astype(np.float32),
        )

    def new_users(self, known: Sequence[Known]) -> list[Known]:
        """The first event of each user without a row who reaches `min_user_events` with these, in order of first
        appearance, limited by the spare rows. The users may have no key yet."""
        first, n = self._without_row(known)
        at_cut = self.state.n_events([_key(one) for one in first]).tolist()
        least = int(self.spec.training["min_user_events"])
        total = [self._n_by_user.get(_owner(one.event), 0) + n[one.event.user_id] for one in first]
        due = [one for one, now, before in zip(first, total, at_cut, strict=True) if now + before >= least]
        return due[: self.state.rows_of_users.n_spare]

    def eligible(self, known: Sequence[Known]) -> tuple[list[int], list[int]]:
        """Keys of users and items that have enough events, with these, for a row of their own, limited by the spare
        rows. Users without a key are left out."""
        users = [one.user_key for one in self.new_users(known) if one.user_key is not None]
        n, least = self._items_without_row(known), int(self.spec.training["min_item_events"])
        items = [key for key in n if self._n_by_item.get(key, 0) + n[key] >= least]
        return users, items[: self.state.rows_of_items.n_spare]

    def count(self, known: Sequence[Known]) -> None:
        """Count the events of users and items without a row; users by id, since they may get a key in between."""
        first, n = self._without_row(known)
        for one in first:
            owner = _owner(one.event)
            self._n_by_user[owner] = self._n_by_user.get(owner, 0) + n[one.event.user_id]
            self._n_by_user.move_to_end(owner)
        while len(self._n_by_user) > _MAX_OWNERS:
            self._n_by_user.popitem(last=False)
        for key, more in self._items_without_row(known).items():
            self._n_by_item[key] = self._n_by_item.get(key, 0) + more

    def _without_row(self, known: Sequence[Known]) -> tuple[list[Known], Counter[str | None]]:
        """The first event since the cutoff of each user without a row, and the number of events by user id."""
        fresh = [one for one in self._since_cutoff(known) if one.event.user_id is not None]
        n = Counter(one.event.user_id for one in fresh)
        first = list({one.event.user_id: one for one in reversed(fresh)}.values())[::-1]
        rows = self.state.user_rows([one.user_key for one in first]).tolist()
        return [one for one, row in zip(first, rows, strict=True) if not row], n

    def _items_without_row(self, known: Sequence[Known]) -> dict[int, int]:
        """Number of events since the cutoff of each item without a row, by key, in order of first appearance."""
        n = Counter(one.item_key for one in self._since_cutoff(known))
        rows = self.state.rows_of_items.rows(np.array(list(n), dtype=np.int64)).tolist()
        return {key: more for (key, more), row in zip(n.items(), rows, strict=True) if not row}

    def _since_cutoff(self, known: Sequence[Known]) -> list[Known]:
        return [one for one in known if _microseconds(one.event) >= self.spec.cut_at]

    def give_rows(self, users: Sequence[int], items: Sequence[int]) -> None:
        """Assign spare rows of the network to keys."""
        self.state.rows_of_users.give(users)
        self.state.rows_of_items.give(items)
        if items:
            self.pool.refresh()

    def _remember(self, owner: str, recent: Recent) -> None:
        events = self._recent.setdefault(owner, [])
        self._recent.move_to_end(owner)
        insort(events, recent, key=lambda one: -one.occurred_ms)
        del events[N_RECENT:]
        if len(self._recent) > _MAX_OWNERS:
            self._recent.popitem(last=False)

    def to_json(self) -> bytes:
        """The state, without the rows that were assigned."""
        return orjson.dumps(
            {
                "recent": {owner: [list(one) for one in events] for owner, events in self._recent.items()},
                "users": list(self._n_by_user.items()),
                "items": list(self._n_by_item.items()),
            }
        )

    def from_json(self, text: bytes) -> None:
        """The inverse of `to_json`."""
        loaded = orjson.loads(text)
        self._recent = OrderedDict(
            (owner, [_recent(*one) for one in events]) for owner, events in loaded["recent"].items()
        )
        self._n_by_user = OrderedDict((owner, int(n)) for owner, n in loaded["users"])
        self._n_by_item = {int(key): int(n) for key, n in loaded["items"]}


def features_of(spec: FeatureSpec, event: Event) -> dict[str, int]:
    """The context features known before the event: its parameters, less those that describe the outcome, and its
    features, which may also override hour and day."""
    if event.parameters == b"{}" and event.features == b"{}":
        return {}
    parameters = {name: value for name, value in _object(event.parameters).items() if name not in REQUEST_FEATURES}
    return read_features(spec, parameters | _object(event.features))[0]


_NO_USERS: Final[dict[str, Any]] = {
    "user": np.zeros((0, N_USER_FIELDS), np.int32),
    "history": np.zeros((0, 1), np.int32),
    "history_weight": np.zeros((0, 1), np.float32),
}


def _recent(item_key: int, event_type: str, occurred_ms: int) -> Recent:
    """Interned types: millions of these are in memory."""
    return Recent(item_key, sys.intern(event_type), occurred_ms)


def _owner(event: Event) -> str:
    """The owner of an event, hashed: the state is written into artifacts."""
    return digest_of(owners_of(event)[0]).hex()[:32]


def _key(one: Known) -> int:
    return -1 if one.user_key is None else one.user_key


def _microseconds(event: Event) -> int:
    return round(event.occurred_at.timestamp() * 1e6)


def _object(text: bytes) -> dict[str, Any]:
    return orjson.loads(text) if text != b"{}" else {}


def _padded(array: NDArray[Any], length: int) -> NDArray[Any]:
    return np.pad(array, ((0, 0), (0, length - array.shape[1])))
