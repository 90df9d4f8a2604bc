"""Experience replay: older training examples are mixed with the new ones, against catastrophic forgetting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features.deepfm_fields import N_USER_FIELDS, activity_rows
from recsys.serving.model_state import ModelState
from recsys.serving.scorer import Scorer
from recsys.updater.examples import TrainingExamples
from recsys.updater.pool import ItemPool


class ReplayBuffer:
    """A uniform sample of all training examples so far, of bounded size (reservoir sampling, Vitter 1985).

    It starts with examples of the nightly training: an item of a user's stored history and the events before it. The
    trend is that at the cutoff, since the one of that day is not stored.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self.n_seen = 0  # examples offered; it seeds the next draw
        self.examples: TrainingExamples | None = None

    def seed_with(self, scorer: Scorer, pool: ItemPool) -> None:
        """Fill it from the nightly model's state."""
        examples = nightly_examples(scorer, pool, self._size, np.random.default_rng([self._seed, 0]))
        if len(examples):
            self.examples, self.n_seen = examples, len(examples)

    def offer(self, examples: TrainingExamples) -> None:
        """Add new examples, each with the probability that keeps the sample uniform."""
        if not len(examples) or not self._size:
            return
        rng = np.random.default_rng([self._seed, 1, self.n_seen])
        room = min(max(self._size - self.n_seen, 0), len(examples))
        if room:
            first = examples.take(slice(0, room))
            self.examples = first if self.examples is None else TrainingExamples.joined(self.examples, first)
        place = np.floor(rng.random(len(examples) - room) * (self.n_seen + room + 1 + np.arange(len(examples) - room)))
        self.n_seen += len(examples)
        kept = np.flatnonzero(place < self._size)
        if not len(kept):
            return
        target, source = place[kept].astype(np.int64), kept + room
        target, last = np.unique(target[::-1], return_index=True)  # of several for one place the last wins
        source = source[::-1][last]
        assert self.examples is not None  # noqa: S101 - it is full
        for name, array in self.examples.arrays().items():
            array[target] = getattr(examples, name)[source]

    def draw(self, n: int, rng: np.random.Generator) -> TrainingExamples | None:
        """`n` examples drawn uniformly with replacement; None where the buffer is empty."""
        if self.examples is None or not n:
            return None
        return self.examples.take(rng.integers(0, len(self.examples), n))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The contents, for `restore`."""
        return {"n_seen": np.array(self.n_seen), **({} if self.examples is None else self.examples.arrays())}

    def restore(self, arrays: dict[str, NDArray[np.generic]]) -> None:
        """The inverse of `arrays`."""
        self.n_seen = int(arrays["n_seen"])
        columns: Any = {name: array for name, array in arrays.items() if name != "n_seen"}
        self.examples = TrainingExamples(**columns) if columns else None


def nightly_examples(scorer: Scorer, pool: ItemPool, n: int, rng: np.random.Generator) -> TrainingExamples:
    """Up to `n` examples of the stored histories: items of users' events, each with the history before it."""
    state: ModelState = scorer.state
    keys, start, history, history_weight = state.histories
    user_of_event = np.repeat(np.arange(len(keys)), np.diff(start))
    usable = np.flatnonzero(history > 0)
    chosen = usable if len(usable) <= n else np.sort(rng.choice(usable, n, replace=False))
    length = scorer.spec.history_length
    user = user_of_event[chosen]
    place = chosen[:, None] + 1 + np.arange(length)  # newest first: the following places came before it
    inside = place < start[user + 1][:, None]
    place = np.where(inside, place, 0)
    raw = np.where(inside, history_weight[place], 0.0) if len(history) else np.zeros(place.shape)
    total = np.array([history_weight[start[u] : start[u + 1]].sum() for u in user.tolist()])
    weight = raw * total[:, None]  # undo `bag_weights`, then apply it to the shorter history
    weight /= np.sqrt(np.maximum(weight.sum(axis=1, keepdims=True), 1e-12))
    rows = np.zeros((len(chosen), N_USER_FIELDS), dtype=np.int32)
    rows[:, 0] = state.rows_of_users.rows(keys[user])
    n_later = chosen - start[user] + 1
    rows[:, 1] = activity_rows(np.maximum(state.n_events(keys[user].tolist()) - n_later, 0))
    return TrainingExamples(
        user=rows,
        history=np.where(inside, history[place], 0).astype(np.int32) if len(history) else place.astype(np.int32),
        history_weight=weight.astype(np.float32),
        item=_positions_of_rows(state, pool, history[chosen]),
        label=np.ones(len(chosen), dtype=np.float32),
        weight=np.ones(len(chosen), dtype=np.float32),
    )


def _positions_of_rows(state: ModelState, pool: ItemPool, rows: NDArray[np.int32]) -> NDArray[np.int64]:
    """Positions in the pool of the items with these rows of the history table."""
    position_by_row = np.zeros(int(rows.max(initial=0)) + 1, dtype=np.int64)
    at_cut = state.catalogue[1][:, 0]
    position = np.flatnonzero((at_cut > 0) & (at_cut < len(position_by_row)))
    position_by_row[at_cut[position]] = position
    return position_by_row[rows]
