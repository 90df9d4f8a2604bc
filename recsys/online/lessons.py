"""From events to what DeepFM learns of them, point in time: the same inputs as a request a moment before would give."""

from __future__ import annotations

import dataclasses
import sys
from bisect import insort
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from recsys.features.action import action_of
from recsys.features.deepfm_fields import Floats, Positions, Rows, context_rows
from recsys.online.event import Event
from recsys.online.item_pool import ItemPool
from recsys.online.recent_rows import N_RECENT, owners_of
from recsys.serving.ids import digest_of
from recsys.serving.model_state import Asker, Moment, read_features
from recsys.serving.recent import Recent
from recsys.serving.scorer import Scorer

_MOST_OWNERS: Final = 50_000  # whose latest events are held in memory, those who were active last
_LARGEST_WEIGHT: Final = 5.0  # of a lesson, in mean events


class Known(NamedTuple):
    """An event whose item is in the catalogue, with the keys of what it names."""

    event: Event
    user_key: int | None
    item_key: int
    category_key: int  # -1: none
    parent_category_key: int


@dataclass(frozen=True)
class Lessons:
    """Rows to learn from; n of them."""

    user: Rows  # (n, n_user_fields)
    history: Rows  # (n, history_length)
    history_weight: Floats  # (n, history_length)
    item: Positions  # (n,): of the observed item in the pool
    label: Floats  # (n,): 1 for the item, 0 against it
    weight: Floats  # (n,): 1 is the mean event's

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: NDArray[Any] | slice) -> Lessons:
        return Lessons(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

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
        self._n_by_user: dict[int, int] = {}  # of users without a row, since the cut
        self._n_by_item: dict[int, int] = {}

    def take(self, known: Sequence[Known]) -> Lessons:
        """What events teach, in their order; afterwards they are part of what is known.

        Events before the cut are left out, the model has learned them at night; so are those that count nothing.
        """
        cut_at = self.spec.cut_at
        fresh = [one for one in known if _microseconds(one.event) >= cut_at]
        askers, actions, kept = [], [], []
        for one in fresh:
            event = one.event
            owner = digest_of(owners_of(event)[0]).hex()[:32]  # what is known is written into artifacts
            now_ms = _microseconds(event) // 1000
            before = [recent for recent in self._recent.get(owner, ()) if recent.occurred_ms < now_ms]
            action = action_of(event.event_type, event.label, _object(event.parameters), self._weights)
            if action.weight > 0:
                features = read_features(self.spec, _object(event.features))[0] if event.features != b"{}" else {}
                askers.append(Asker(one.user_key, before, features))
                actions.append(action)
                kept.append(one)
            self._remember(owner, _recent(one.item_key, event.event_type, now_ms))
        return self._lessons(kept, askers, actions)

    def _lessons(self, known: list[Known], askers: list[Asker], actions: list[Any]) -> Lessons:
        n, length = len(known), self.spec.history_length
        moment = Moment(0.0, self._weights)
        inputs = self.state.user_inputs(askers, moment) if n else _NOBODY
        at = np.array([_microseconds(one.event) for one in known], dtype=np.int64)
        told = np.array([bool(asker.features) for asker in askers], dtype=bool)
        if n:
            inputs["user"][~told, 2:] = context_rows(at[~told])
            for row in np.flatnonzero(told).tolist():
                now = Moment(at[row] / 1000, self._weights)
                inputs["user"][row] = self.state.user_inputs([askers[row]], now)["user"][0]
        categories = {one.item_key: (one.category_key, one.parent_category_key) for one in known}
        weight = np.array([action.weight for action in actions], dtype=np.float32) / self.spec.mean_event_weight
        return Lessons(
            user=inputs["user"],
            history=_padded(inputs["history"], length),
            history_weight=_padded(inputs["history_weight"], length),
            item=self.pool.positions([one.item_key for one in known], categories.__getitem__),
            label=np.array([action.label for action in actions], dtype=np.float32),
            weight=np.minimum(weight, _LARGEST_WEIGHT).astype(np.float32),
        )

    def deserving(self, known: Sequence[Known]) -> tuple[list[int], list[int]]:
        """Users and items that have had enough events by these ones to get a row of their own, as long as there are
        some to give; counts the events."""
        at = [one for one in known if _microseconds(one.event) >= self.spec.cut_at]
        users = _counted([one.user_key for one in at if one.user_key is not None], self._n_by_user)
        items = _counted([one.item_key for one in at], self._n_by_item)
        at_cut = dict(zip(users, self.state.n_events(users).tolist(), strict=True))
        least_user, least_item = (int(self.spec.training[f"min_{entity}_events"]) for entity in ("user", "item"))
        due_users = [key for key in users if self._n_by_user[key] + at_cut[key] >= least_user]
        due_items = [key for key in items if self._n_by_item[key] >= least_item]
        return (
            _without_row(self.state.rows_of_users, due_users, self._n_by_user),
            _without_row(self.state.rows_of_items, due_items, self._n_by_item),
        )

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
        self._n_by_user, self._n_by_item = (
            {int(key): int(n) for key, n in said[entity]} for entity in ("users", "items")
        )


_NOBODY: Final[dict[str, Any]] = {
    "user": np.zeros((0, 4), np.int32),
    "history": np.zeros((0, 1), np.int32),
    "history_weight": np.zeros((0, 1), np.float32),
}


def _recent(item_key: int, event_type: str, occurred_ms: int) -> Recent:
    """Millions are held: each has the one string of its type."""
    return Recent(item_key, sys.intern(event_type), occurred_ms)


def _microseconds(event: Event) -> int:
    return round(event.occurred_at.timestamp() * 1e6)


def _object(text: bytes) -> dict[str, Any]:
    return orjson.loads(text) if text != b"{}" else {}


def _padded(array: NDArray[Any], length: int) -> NDArray[Any]:
    return np.pad(array, ((0, 0), (0, length - array.shape[1])))


def _counted(keys: list[int], counts: dict[int, int]) -> list[int]:
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return list(dict.fromkeys(keys))


def _without_row(rows: Any, keys: list[int], counts: dict[int, int]) -> list[int]:
    """Those of `keys` to give a row now; who has one is no longer counted."""
    if not keys:
        return []
    has_one = rows.rows(np.array(keys, dtype=np.int64)) > 0
    due = [key for key, has in zip(keys, has_one.tolist(), strict=True) if not has][: rows.n_spare]
    for key in {*due, *(key for key, has in zip(keys, has_one.tolist(), strict=True) if has)}:
        counts.pop(key, None)
    return due
