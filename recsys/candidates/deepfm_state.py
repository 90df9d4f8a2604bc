"""What a fitted DeepFM keeps: its weights, and what it knows of users and items as of its cut."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recsys.candidates.deepfm_samples import Samples, Vocabularies
from recsys.candidates.deepfm_training import Weights
from recsys.features.deepfm_fields import N_USER_FIELDS, Floats, Histories, Rows, Vocabulary, activity_rows
from recsys.keys import KeyIndex, Positions
from recsys.types import Catalogue, Interactions

_USERS_AT_ONCE = 65_536


@dataclass(frozen=True)
class DeepFmState:
    """Everything that scoring reads, and that is saved."""

    weights: Weights
    vocabularies: Vocabularies
    items: KeyIndex  # the whole catalogue
    available: NDArray[np.bool_]  # (n_items,)
    item_rows: Rows  # (n_items, n_item_fields)
    popularity: NDArray[np.float64]  # (n_items,): sum of the events' weights
    users: KeyIndex  # everybody with an event
    n_events: Rows  # (n_users,)
    history_start: Positions  # (n_users + 1,)
    history: Rows  # (n,): rows of the latest items, user after user
    history_weight: Floats  # (n,)
    mean_event_weight: NDArray[np.float64]  # (): what weight 1 in a history stands for
    calibration: NDArray[np.float64]  # (2,): scale and offset of the logits, as `deepfm_calibration` fits them

    @classmethod
    def at_cut(cls, samples: Samples, catalogue: Catalogue, weights: Weights, calibration: NDArray[np.float64]) -> Self:
        """The state as of the cut of the events that `samples` holds."""
        return cls(
            weights=weights,
            vocabularies=samples.vocabularies,
            items=KeyIndex(catalogue.item_key),
            available=catalogue.available,
            item_rows=samples.items_at_cut(),
            popularity=np.bincount(samples.item, samples.events.weight, minlength=len(catalogue)).astype(np.float64),
            mean_event_weight=np.asarray(samples.histories.mean_weight),
            calibration=calibration,
            **_users_at_cut(samples.histories),
        )

    def with_histories(self, events: Interactions, length: int, half_life_days: float) -> Self:
        """The same model for users as `events` show them: the latest `length` of each, which decay."""
        rows = self.vocabularies.item.rows(events.item_key)
        histories = Histories(events, rows, length, half_life_days, float(self.mean_event_weight))
        return replace(self, **_users_at_cut(histories))

    def user_inputs(self, user: Positions, length: int) -> tuple[Rows, Rows, Floats]:
        """Rows (n, n_user_fields), history (n, length) and its weights of users at given positions, at no moment."""
        place = self.history_start[user][:, None] + np.arange(length)
        inside = place < self.history_start[user + 1][:, None]
        place = np.where(inside, place, 0)
        rows = np.zeros((len(user), N_USER_FIELDS), dtype=np.int32)
        rows[:, 0] = self.vocabularies.user.rows(self.users.keys[user])
        rows[:, 1] = activity_rows(self.n_events[user])
        if not len(self.history):
            return rows, np.zeros(place.shape, dtype=np.int32), np.zeros(place.shape, dtype=np.float32)
        weight = np.where(inside, self.history_weight[place], np.float32(0))
        return rows, np.where(inside, self.history[place], np.int32(0)), weight

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as flat arrays by name."""
        result: dict[str, NDArray[Any]] = {f"weights/{name}": value for name, value in self.weights.items()}
        result |= {f"vocabulary/{part.name}": getattr(self.vocabularies, part.name).keys for part in _VOCABULARIES}
        result[_NAMES] = np.array(self.vocabularies.context_names, dtype=str)
        result["items"], result["users"] = self.items.keys, self.users.keys
        return result | {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """The inverse of `arrays`; KeyError when one is missing."""
        return cls(
            weights={
                name.removeprefix("weights/"): value for name, value in arrays.items() if name.startswith("weights/")
            },
            vocabularies=Vocabularies(
                **{part.name: Vocabulary(arrays[f"vocabulary/{part.name}"]) for part in _VOCABULARIES},
                context_names=tuple(arrays[_NAMES].tolist()),
            ),
            items=KeyIndex(arrays["items"]),
            users=KeyIndex(arrays["users"]),
            **{name: arrays[name] for name in _ARRAYS},
        )


def _users_at_cut(histories: Histories) -> dict[str, Any]:
    """The fields of `DeepFmState` that say who the users are."""
    parts = []
    for start in range(0, max(len(histories.users), 1), _USERS_AT_ONCE):
        user = np.arange(start, min(start + _USERS_AT_ONCE, len(histories.users)))
        rows, weight, n_events = histories.at_cut(user)
        kept = weight > 0
        parts.append((rows[kept], weight[kept], n_events, kept.sum(axis=1)))
    history, history_weight, n_events, n_kept = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {
        "users": KeyIndex(histories.users),
        "n_events": n_events,
        "history_start": np.concatenate([[0], np.cumsum(n_kept)]),
        "history": history,
        "history_weight": history_weight,
    }


_NAMES = "context_names"
_VOCABULARIES = [part for part in fields(Vocabularies) if part.name != _NAMES]
_ARRAYS = (
    *("available", "item_rows", "popularity", "n_events", "history_start", "history", "history_weight"),
    *("mean_event_weight", "calibration"),
)
