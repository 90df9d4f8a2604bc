"""The inputs of DeepFM at serving: rows of users, items and time, from the nightly state and events since."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.action import interest_of
from recsys.decay import decay
from recsys.errors import ArtifactError, InputError
from recsys.features.context import CONTEXT_FIELDS, context_of
from recsys.features.deepfm_fields import (
    HOURS_PER_PART,
    MICROSECONDS_PER_HOUR,
    N_USER_FIELDS,
    TIME,
    USER_FIELDS,
    Floats,
    Rows,
    Vocabulary,
    activity_rows,
    bag_weights,
    time_rows,
)
from recsys.features.deepfm_spec import LATER_ITEMS, LATER_USERS, STATE, FeatureSpec, state_file
from recsys.keys import Positions
from recsys.serving.recent import Events, Recent
from recsys.types import MICROSECONDS_PER_DAY, Keys

_HOUR_MS = 3_600_000
_MAX_SHOWN = 40  # characters of a client's text in a warning
_PLACE = {name: place for place, name in enumerate(USER_FIELDS)}
IsMet = Callable[[str, int], bool]  # user field, row in it → whether it occurred in a training
CategoryOf = Callable[[int], tuple[int, int]]  # item key → keys of its category and of that one's parent, -1 for none


@dataclass(frozen=True)
class Asker:
    """A user for whom items are scored."""

    user_key: int | None = None  # None for a guest or an unknown user
    recent: Sequence[Recent] = ()  # the latest events, newest first
    features: Mapping[str, int] = field(default_factory=dict)  # as returned by `read_features`


@dataclass(frozen=True)
class Moment:
    """The time of a request, and the weights of events."""

    now_ms: float  # since the epoch; day of the week and part of the day are in UTC
    event_weights: Mapping[str, float]  # a missing type has weight zero


class GrowingRows:
    """Rows of a vocabulary, and spare rows after them that are assigned to keys later."""

    def __init__(self, vocabulary: Vocabulary, size: int, later: Sequence[int] = ()) -> None:
        """`size`: the number of rows in the network, those of the vocabulary and spare ones; `later`: keys that have
        spare rows initially. InputError as `give`."""
        self._vocabulary, self._size = vocabulary, max(size, vocabulary.size)
        self._later: dict[int, int] = {}
        self.give(later)
        self._at_first = dict(self._later)

    @property
    def n_spare(self) -> int:
        """The number of unassigned spare rows."""
        return self._size - self._vocabulary.size - len(self._later)

    @property
    def later(self) -> list[int]:
        """The keys with spare rows, in row order."""
        return list(self._later)

    def rows(self, keys: NDArray[np.integer]) -> Rows:
        """As `Vocabulary.rows`."""
        rows = self._vocabulary.rows(keys)
        if self._later:
            flat = rows.reshape(-1)
            missing = np.flatnonzero(flat == 0)
            flat[missing] = [self._later.get(key, 0) for key in np.ravel(keys)[missing].tolist()]
        return rows

    def give(self, keys: Sequence[int]) -> None:
        """Assign the next rows to keys that have none; InputError as `check`."""
        self.check(keys)
        first = self._vocabulary.size + len(self._later)
        self._later |= {key: first + place for place, key in enumerate(keys)}

    def check(self, keys: Sequence[int], *, anew: bool = False) -> None:
        """InputError where a key has a row, or no spare row is left; `anew`: as after `take_back`."""
        later = self._at_first if anew else self._later
        n_spare = self._size - self._vocabulary.size - len(later)
        has_row = any(key in later for key in keys) or self._vocabulary.rows(np.array(keys, dtype=np.int64)).any()
        if len(set(keys)) < len(keys) or len(keys) > n_spare or has_row:
            raise InputError(f"{len(keys)} keys cannot get rows: some have one, or the {self._size} rows are used up")

    def take_back(self) -> None:
        """Unassign all rows except the initial ones."""
        self._later = dict(self._at_first)


class ModelState:
    """Arrays of a serving artifact, memory-mapped from its files: unused pages take no memory."""

    def __init__(self, folder: Path, spec: FeatureSpec) -> None:
        """ArtifactError when a file is missing or cannot be read."""
        self._spec = spec
        try:
            files = {name: np.load(folder / state_file(name), mmap_mode="r", allow_pickle=False) for name in STATE}
        except (OSError, ValueError) as error:
            raise ArtifactError(f"the state of the model in {folder} cannot be read: {error}") from error
        arrays: dict[str, NDArray[Any]] = {name: np.asarray(array) for name, array in files.items()}
        self._users, self._items = Vocabulary(arrays["users"]), Vocabulary(arrays["items"])
        self._item_rows = arrays["item_rows"]
        n_user_rows, n_item_rows = (spec.network.get(sizes, [0])[0] for sizes in ("user_sizes", "item_sizes"))
        users, items = (_later(folder, name) for name in (LATER_USERS, LATER_ITEMS))
        self.rows_of_users = GrowingRows(Vocabulary(arrays["user_vocabulary"]), n_user_rows, users)
        self.rows_of_items = GrowingRows(Vocabulary(arrays["item_vocabulary"]), n_item_rows, items)
        self._categories = Vocabulary(arrays["category_vocabulary"])
        self._parents = Vocabulary(arrays["parent_category_vocabulary"])
        self._n_events, self._start = arrays["n_events"], arrays["history_start"]
        self._history, self._history_weight = arrays["history"], arrays["history_weight"]

    @property
    def n_users(self) -> int:
        return len(self._users.keys)

    @property
    def n_items(self) -> int:
        return len(self._items.keys)

    @property
    def catalogue(self) -> tuple[Keys, Rows]:
        """Keys and rows (n_items, 6) of all items as of the cutoff."""
        return self._items.keys, self._item_rows

    @property
    def histories(self) -> tuple[Keys, Positions, Rows, Floats]:
        """Users as of the cutoff: keys (n,), start of each history (n + 1,), rows of the items, their weights."""
        return self._users.keys, self._start, self._history, self._history_weight

    def n_events(self, user_keys: Sequence[int]) -> NDArray[np.int64]:
        """Number of events of users as of the cutoff, (n,)."""
        place = self._users.rows(np.array(user_keys, dtype=np.int64)).astype(np.int64)
        return np.where(place > 0, self._n_events[np.maximum(place - 1, 0)], 0) if self.n_users else place

    def sample_keys(self, n: int) -> tuple[list[int], list[int]]:
        """Up to about `n` users and items, evenly spaced."""
        users, items = self._users.keys, self._items.keys
        return users[:: max(1, len(users) // n)][:n].tolist(), items[:: max(1, len(items) // n)][:n].tolist()

    def user_rows(self, user_keys: Sequence[int | None]) -> Rows:
        """Row of each user in the network, 0 for those without one, (n,)."""
        return self.rows_of_users.rows(_keys(user_keys))

    def has_history(self, user_keys: Sequence[int | None]) -> NDArray[np.bool_]:
        """Mask of the users with events as of the cutoff, (n,)."""
        found: NDArray[np.bool_] = self._users.rows(_keys(user_keys)) > 0
        return found

    def item_rows(self, item_keys: Sequence[int | None] | NDArray[np.int64], category_of: CategoryOf) -> Rows:
        """Item, category, parent category, trends and age, (n, 6), as of the cutoff. A newer item has its category, and
        its own row once assigned; an unknown item (None, or -1 in an array) has zeros."""
        keys = item_keys if isinstance(item_keys, np.ndarray) else _keys(item_keys)
        place = self._items.rows(keys)
        rows = self._item_rows[np.maximum(place - 1, 0)] if self.n_items else np.zeros((len(keys), 6), np.int32)
        missing = np.flatnonzero(place == 0)
        if len(missing):
            rows[missing] = 0
            later = [at for at in missing.tolist() if keys[at] >= 0]
            found = np.array([category_of(int(keys[at])) for at in later], dtype=np.int64).reshape(-1, 2)
            rows[later, 1], rows[later, 2] = self._categories.rows(found[:, 0]), self._parents.rows(found[:, 1])
        without = np.flatnonzero(rows[:, 0] == 0)
        if len(without):
            rows[without, 0] = self.rows_of_items.rows(keys[without])
        return rows

    def user_inputs(self, askers: Sequence[Asker], moment: Moment) -> dict[str, Any]:
        """The network's inputs `user`, `history` and `history_weight`, one row per asker.

        Events after the model's cutoff are prepended to the stored history, which decays up to the newest of them (and
        not up to now, so that the history survives years without events).
        """
        keys = _keys([asker.user_key for asker in askers])
        place = self._users.rows(keys) - 1
        known = place >= 0
        at = np.maximum(place, 0)
        n_events = np.where(known, self._n_events[at], 0) if self.n_users else np.zeros(len(keys), np.int64)
        start = self._start[at] if self.n_users else np.zeros(len(keys), np.int64)
        n_stored = np.where(known, self._start[at + 1] - start, 0) if self.n_users else start
        news = [self._since_cutoff(asker, moment) for asker in askers]
        n_new = np.array([len(new) for new in news], dtype=np.int64)
        n_events += n_new
        history, weight = self._stored(start, n_stored, n_new)
        self._prepend(history, weight, news, n_new)
        length = min(max(history.shape[1], 1), self._spec.history_length)
        user = np.zeros((len(keys), N_USER_FIELDS), dtype=np.int32)
        user[:, 0], user[:, 1] = self.rows_of_users.rows(keys), activity_rows(n_events)
        user[:, TIME] = _time_rows(int(moment.now_ms // _HOUR_MS))
        for row, asker in enumerate(askers):
            if asker.features:
                put_features(user[row], asker.features)
        return {
            "user": user,
            "history": history[:, :length],
            "history_weight": bag_weights(weight[:, :length]).astype(np.float32),
        }

    def _since_cutoff(self, asker: Asker, moment: Moment) -> list[tuple[int, float, int]]:
        """The items of events after the cutoff with positive weight, newest first: key, weight, milliseconds.

        An item counts once, with the largest weight of its events: otherwise an item bought many times would dominate
        the history.
        """
        cut_ms, recent, weights = self._spec.cut_at / 1000, asker.recent, moment.event_weights
        found: dict[int, tuple[int, float, int]] = {}
        for key, event_type, at_ms in zip(*recent.columns, strict=True) if isinstance(recent, Events) else recent:
            if at_ms < cut_ms or (worth := interest_of(event_type, weights)) <= 0:
                continue
            _, most, newest_ms = found.get(key, (key, 0.0, at_ms))
            found[key] = (key, max(worth, most), newest_ms)
        return list(found.values())

    def _stored(self, start: Positions, n: Positions, n_new: Positions) -> tuple[Rows, NDArray[np.float64]]:
        """Items and decayed weights as of the cutoff, newest first, after `n_new` empty places in each row."""
        history = np.zeros((len(n), max(int((n + n_new).max(initial=0)), 1)), dtype=np.int32)
        weight = np.zeros(history.shape)
        place = np.arange(history.shape[1]) - n_new[:, None]
        inside = (place >= 0) & (place < n[:, None])
        place = (start[:, None] + place)[inside]
        history[inside], weight[inside] = self._history[place], self._history_weight[place]
        weight *= weight.sum(axis=1, keepdims=True)  # the inverse of `bag_weights`
        return history, weight

    def _prepend(
        self,
        history: Rows,
        weight: NDArray[np.float64],
        news: Sequence[Sequence[tuple[int, float, int]]],
        n_new: Positions,
    ) -> None:
        """Fill the empty places with events, and decay the rows that have some to the newest of them, in place."""
        if not n_new.any():
            return
        half_life_days = self._spec.history_half_life_days
        keys, worth, at_ms = zip(*chain.from_iterable(news), strict=True)
        at = np.array(at_ms, dtype=np.int64) * 1000
        moved = np.flatnonzero(n_new)
        newest = np.maximum.reduceat(at, np.cumsum(n_new)[moved] - n_new[moved])
        weight[moved] *= decay((newest - self._spec.cut_at) / MICROSECONDS_PER_DAY, half_life_days)[:, None]
        new = np.arange(history.shape[1]) < n_new[:, None]
        history[new] = self.rows_of_items.rows(np.array(keys, dtype=np.int64))
        decayed = decay((np.repeat(newest, n_new[moved]) - at) / MICROSECONDS_PER_DAY, half_life_days)
        weight[new] = np.array(worth) / self._spec.mean_event_weight * decayed


def _later(folder: Path, name: str) -> list[int]:
    """Keys that had spare rows when the model was exported; none in a nightly model."""
    try:
        keys: list[int] = np.load(folder / state_file(name), allow_pickle=False).tolist()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the state of the model in {folder} cannot be read: {error}") from error
    return keys


def read_features(
    spec: FeatureSpec, given: Mapping[str, Any], is_met: IsMet | None = None
) -> tuple[dict[str, int], list[str]]:
    """The features of a request that the model uses, and a warning for each name and value that it does not.

    Names not in `request_features` are context (`recsys.features.context`); with `is_met`, values that occurred in no
    training are left out.
    """
    known, context = {}, {}
    warnings = []
    for name, value in given.items():
        bounds = spec.request_features.get(name)
        shown = name[:_MAX_SHOWN]
        if bounds is None:
            context[name] = value
        elif isinstance(value, bool) or not isinstance(value, int | float) or not bounds[0] <= value <= bounds[1]:
            warnings.append(f"user_feats.{shown}: should be an integer from {bounds[0]} to {bounds[1]}")
        elif value != int(value):
            warnings.append(f"user_feats.{shown}: should be an integer")
        else:
            known[name] = int(value)
    if not context:
        return known, warnings
    used, unused = context_of(context, spec.context_names)
    for one in used:
        field = CONTEXT_FIELDS[one.field]
        if is_met is None or is_met(field, one.row):
            known[field] = one.row
        else:
            unused[one.name] = "the model has not met this value, it is taken as unknown"
    warnings.extend(f"user_feats.{name[:_MAX_SHOWN]}: {why}" for name, why in unused.items())
    return known, warnings


def _keys(keys: Sequence[int | None]) -> NDArray[np.int64]:
    return np.array([-1 if key is None else key for key in keys], dtype=np.int64)


def put_features(user: Rows, features: Mapping[str, int]) -> None:
    """Override one row of the user's fields with the features of a request."""
    if "n_events" in features:
        user[1] = activity_rows(np.array([features["n_events"]]))[0]
    if "day_of_week" in features:
        user[2] = features["day_of_week"]
    if "hour" in features:
        user[3] = features["hour"] // HOURS_PER_PART + 1
    if "part_of_day" in features:
        user[3] = features["part_of_day"]
    for name in CONTEXT_FIELDS:
        if name in features:
            user[_PLACE[name]] = features[name]


@lru_cache(maxsize=4)
def _time_rows(hour: int) -> Rows:
    """Day of the week and part of the day of an hour since the epoch, (1, 2)."""
    return time_rows(np.array([hour]) * MICROSECONDS_PER_HOUR)
