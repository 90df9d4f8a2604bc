"""Which items follow the last clicks, from sessions that share items with them. numpy alone: a request is answered
from flat arrays that may be mapped from files, in less than a millisecond.

    score(j) = (near(j) + near_floor) · (walk(j) + walk_floor)^walk_power · trend(j)

`near` (session neighbours, after Garg et al. 2019, "Sequence and time aware neighborhood for session-based
recommendations", and Kersbergen et al. 2022, "Serenade"): each recent item i, d clicks ago, counts w(i) = decay^d ·
idf(i)^idf_power, where idf = log(sessions / sessions with i). The similarity of a stored session is Σ w of the items
shared, times a weight of its own for its age and length; among the `n_newest` sessions of each recent item, the
`n_neighbours` most similar give each event at place t

    similarity · Σ over places u of recent items, 1 ≤ |t - u| ≤ reach, of w(item at u) / |t - u|,

times `backward` where t < u. `walk` leads two steps from the recent items over items that are clicked beside each other
(`walk_to`, computed at night), so that items in no common session are found: Σ walk_decay^place · walk(i → j). `near`
and `walk` are relative to their best item that is not recent itself, and so is the score in the end. `trend` is the
item's own. To recent items is added Σ over their clicks of again[d]: many clicks return to what was just clicked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from recsys.errors import ArtifactError
from recsys.keys import Positions, positions, runs
from recsys.parameters import Count, Finite, NotNegative, Share, Whole
from recsys.types import Keys, Scores

KIND: Final = "session_index"  # of the artifacts with such an index, and its name in publications
_FORMULA = "formula.json"
Weights = NDArray[np.float64]


@dataclass
class Formula:
    """The parameters that are read at a request; chosen on the last week of RetailRocket's training sessions."""

    max_items: Count = 20  # distinct recent items
    decay: Share = 0.6
    idf_power: Finite = 1.5
    n_newest: Count = 1000
    n_neighbours: Count = 500
    length_power: Finite = 0.25  # a session of n events weighs n^-length_power
    reach: Count = 10
    backward: NotNegative = 0.6
    near_floor: NotNegative = 0.12
    walk_items: Whole = 5  # distinct recent items that the walk starts from
    walk_decay: Share = 0.35
    walk_power: Finite = 0.5
    walk_floor: NotNegative = 0.015
    again: Sequence[NotNegative] = (3.2, 4.8, 1.6, 0.8, 0.6, 0.4, 0.3, 0.25, 0.2, 0.2)  # by clicks ago; 0 beyond

    def __post_init__(self) -> None:
        self.again = tuple(self.again)  # JSON gives a list


@dataclass(frozen=True)
class Rows:
    """Lists of numbers of different lengths: row r is `values[starts[r] : starts[r + 1]]`."""

    starts: NDArray[np.int64]  # (n_rows + 1,)
    values: NDArray[np.int32]

    @classmethod
    def of(cls, lengths: NDArray[Any], values: NDArray[Any]) -> Self:
        starts = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=starts[1:])
        return cls(starts, values.astype(np.int32))

    def places(self, rows: NDArray[Any], newest: int | None = None) -> tuple[Positions, Positions]:
        """Where the values of some rows stand (n,), row after row, and their number in each row; at most the last
        `newest` of each."""
        ends = self.starts[rows + 1]
        begins = self.starts[rows] if newest is None else np.maximum(self.starts[rows], ends - newest)
        lengths = ends - begins
        until = np.cumsum(lengths)
        return np.arange(until[-1] if len(until) else 0) + np.repeat(begins - until + lengths, lengths), lengths


@dataclass(frozen=True)
class Sessions:
    """Sessions in time order, oldest first."""

    items: Rows  # item positions of each session, in time order
    by_item: Rows  # ascending sessions of each item position, each once
    weight: Scores  # (n_sessions,): of age and length

    @classmethod
    def of(cls, items: Rows, weight: Scores, n_items: int) -> Self:
        """With the sessions of each item."""
        session = np.repeat(np.arange(len(weight), dtype=np.int64), np.diff(items.starts))
        item, session = np.divmod(
            np.unique(items.values * np.int64(max(len(weight), 1)) + session), max(len(weight), 1)
        )
        return cls(items, Rows.of(np.bincount(item, minlength=n_items), session), weight)


@dataclass(frozen=True)
class SessionIndex:
    """What a request is answered from. A position is a place in `item_keys`."""

    item_keys: Keys  # (n_items,) ascending
    idf: Scores  # (n_items,), > 0
    trend: Scores  # (n_items,), > 0; 0 where the item is not available
    walk_to: Rows  # item positions by item position
    walk_score: Scores  # as `walk_to.values`
    parts: tuple[Sessions, ...]  # those of the night, then those of the day
    formula: Formula

    def extended(self, sessions: Sequence[Sequence[int]]) -> SessionIndex:
        """With the sessions since the night (item keys, oldest first) as a second, small part in place of a former
        one; all else stays, the arrays of the night are shared. Items that the night did not know are left out."""
        known = [at[at >= 0] for at in (positions(self.item_keys, np.asarray(each, np.int32)) for each in sessions)]
        lengths = np.array([len(at) for at in known], dtype=np.int64)
        items = Rows.of(lengths, np.concatenate([np.zeros(0, np.int64), *known]))
        weight = (np.maximum(lengths, 1) ** -self.formula.length_power).astype(np.float32)
        return replace(self, parts=(self.parts[0], Sessions.of(items, weight, len(self.item_keys))))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays of the night by name, see `of_arrays`."""
        night = self.parts[0]
        rows = {"walk": self.walk_to, "items": night.items, "by_item": night.by_item}
        flat: dict[str, NDArray[Any]] = {f"{name}_starts": each.starts for name, each in rows.items()}
        flat |= {f"{name}_values": each.values for name, each in rows.items()}
        own = {"item_keys": self.item_keys, "idf": self.idf, "trend": self.trend, "walk_score": self.walk_score}
        return flat | own | {"weight": night.weight}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], formula: Formula) -> Self:
        """From what `arrays` gave."""
        walk, items, by_item = (
            Rows(arrays[f"{name}_starts"], arrays[f"{name}_values"]) for name in ("walk", "items", "by_item")
        )
        night = Sessions(items, by_item, arrays["weight"])
        keys, idf, trend, walk_score = (arrays[name] for name in ("item_keys", "idf", "trend", "walk_score"))
        return cls(keys, idf, trend, walk, walk_score, (night,), formula)

    def write(self, folder: Path) -> None:
        """A file for each array of the night, and the formula."""
        for name, values in self.arrays().items():
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
        (folder / _FORMULA).write_text(json.dumps(asdict(self.formula)))

    def _require_sound(self) -> None:
        """ValueError where arrays do not fit each other, so that no request reads beyond one."""
        night, n_items = self.parts[0], len(self.item_keys)
        n_sessions = len(night.weight)
        are_rows = [
            _are_rows(self.walk_to, n_items, n_items),
            _are_rows(night.items, n_sessions, n_items),
            _are_rows(night.by_item, n_items, n_sessions),
        ]
        lengths = len(self.idf) == len(self.trend) == n_items and len(self.walk_score) == len(self.walk_to.values)
        if not (all(are_rows) and lengths and (np.diff(self.item_keys) > 0).all()):
            raise ValueError("its arrays are not of one writing")

    @classmethod
    def mapped(cls, folder: Path) -> Self:
        """What `write` wrote, mapped read-only: processes that map it share the memory. ArtifactError without it."""
        try:
            formula = Formula(**json.loads((folder / _FORMULA).read_text()))
            files = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")}
            index = cls.of_arrays({name: np.asarray(values) for name, values in files.items()}, formula)
            index._require_sound()
            return index
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"no index of sessions can be read from {folder}: {error}") from error


def _are_rows(rows: Rows, n_rows: int, n_values: int) -> bool:
    """Whether these are `n_rows` rows of values in [0, n_values)."""
    starts, values = rows.starts, rows.values
    if len(starts) != n_rows + 1 or starts[0] != 0 or starts[-1] != len(values) or (np.diff(starts) < 0).any():
        return False
    return not len(values) or (values.min() >= 0 and values.max() < n_values)


def neighbours_scores(index: SessionIndex, recent_item_keys: Sequence[int] | Keys) -> tuple[Keys, Scores]:
    """Available items that may follow, by ascending key, and their scores > 0, each (n,); the recent ones among them.

    `recent_item_keys`: newest first, as clicked, with repetitions. Unknown items only take their place.
    """
    formula = index.formula
    clicks = positions(index.item_keys, np.asarray(recent_item_keys, dtype=np.int32))
    ago = np.flatnonzero(clicks >= 0)
    clicks = clicks[ago]
    newest = np.sort(np.unique(clicks, return_index=True)[1])[: formula.max_items]
    recent = clicks[newest]
    weight = formula.decay ** ago[newest] * index.idf[recent] ** formula.idf_power
    found = [_near(part, recent, weight, formula) for part in index.parts]
    near_items, gains = (np.concatenate(column) for column in zip(*found, strict=True))
    walk_items, walked = _walked(index, recent[: formula.walk_items])
    items, at = np.unique(np.concatenate([near_items, walk_items, clicks]), return_inverse=True)
    at_near, at_walk, at_clicks = np.split(at, np.cumsum([len(near_items), len(walk_items)]))
    is_other = np.ones(len(items), dtype=np.bool_)
    is_other[at_clicks] = False
    near = _relative(np.bincount(at_near, gains, minlength=len(items)), is_other)
    walk = _relative(np.bincount(at_walk, walked, minlength=len(items)), is_other)
    score = (near + formula.near_floor) * (walk + formula.walk_floor) ** formula.walk_power * index.trend[items]
    again = np.append(formula.again, 0.0)[np.minimum(ago, len(formula.again))]
    score = _relative(score, is_other) + np.bincount(at_clicks, again, minlength=len(items))
    offered = index.trend[items] > 0
    return index.item_keys[items[offered]], score[offered].astype(np.float32)


def _walked(index: SessionIndex, start: Positions) -> tuple[Keys, Weights]:
    """Where the walk from each item of `start` (r,) leads: item positions and what they gain, each (n,)."""
    places, lengths = index.walk_to.places(start)
    weight = np.repeat(index.formula.walk_decay ** np.arange(len(start)), lengths)
    return index.walk_to.values[places], weight * index.walk_score[places]


def _near(part: Sessions, recent: Positions, weight: Weights, formula: Formula) -> tuple[Keys, Weights]:
    """The events of the neighbour sessions that gain by a recent item: item positions and gains, each (n,).

    `recent` (r,): distinct items, `weight` (r,) theirs.
    """
    session, similarity = _neighbours(part, recent, weight, formula)
    places, lengths = part.items.places(session)
    items = part.items.values[places]
    ascending = np.argsort(recent)
    at = positions(recent[ascending], items)
    row = np.repeat(np.arange(len(session)), lengths)
    apart = np.arange(len(items)) + formula.reach * row  # a session ends out of reach of the next one's begin
    spread = np.zeros(len(items) + formula.reach * (len(session) + 2) + 1)
    spread[apart] = np.where(at >= 0, weight[ascending][at], 0.0)
    forward = 1.0 / np.arange(1, formula.reach + 1)
    kernel = np.concatenate([formula.backward * forward[::-1], [0.0], forward])
    gain = np.convolve(spread, kernel, "same")[apart] * similarity[row]
    gained = np.flatnonzero(gain > 0)
    return items[gained], gain[gained]


def _neighbours(
    part: Sessions, recent: Positions, weight: Weights, formula: Formula
) -> tuple[NDArray[np.int32], Weights]:
    """The most similar sessions and their similarities, each (≤ n_neighbours,), in no order."""
    places, lengths = part.by_item.places(recent, formula.n_newest)
    found = part.by_item.values[places]
    order = np.argsort(found, kind="stable")
    found = found[order]
    begins = runs(found)[0]
    session = found[begins]
    shared = np.add.reduceat(np.repeat(weight, lengths)[order], begins) if len(begins) else np.zeros(0)
    similarity: Weights = shared * part.weight[session].astype(np.float64)
    if len(session) > formula.n_neighbours:
        best = np.argpartition(-similarity, formula.n_neighbours - 1)[: formula.n_neighbours]
        session, similarity = session[best], similarity[best]
    return session, similarity


def _relative(values: NDArray[Any], among: NDArray[np.bool_]) -> NDArray[Any]:
    """Values over the greatest `among` them, or over the greatest of all where that is 0."""
    greatest = values[among].max(initial=0.0) or values.max(initial=0.0)
    return values / greatest if greatest > 0 else values
