"""A sequence network as a candidate generator: what comes next after a user's latest items."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys.candidates.base import (
    Best,
    best_products,
    load_model,
    ranked,
    require_finite,
    save_model,
    scored,
    seen_positions,
    usable_history,
)
from recsys.candidates.sequence_histories import Histories, Pieces
from recsys.candidates.sequence_start import factors, from_neighbours, nearness
from recsys.candidates.sequence_training import (
    TABLE,
    HeldOut,
    Schedule,
    Weights,
    initial_weights,
    network_config,
    train,
)
from recsys.errors import ArtifactError, InputError, ModelError
from recsys.keys import KeyIndex, Positions
from recsys.networks.sequence_scorer import Floats, SequenceScorer
from recsys.parameters import Count, Part, Positive, Seed
from recsys.types import Candidates, Catalogue, Interactions, Keys, Scores

_PAIRS_PER_CHUNK = 1 << 18
_USERS_PER_CHUNK = 4096
_LEAST_HISTORY = 3  # items of a user whose last one can be held out
_DENSE = 100  # events of an item
_LEAST_HELD_OUT, _MOST_HELD_OUT = 50, 10_000  # users; fewer say nothing, more say nothing new


@dataclass
class SequenceModel:
    """SASRec (Kang & McAuley, ICDM 2018) with distances in place of places (`recsys.networks.sequence`).

    Every place of every history predicts the next item, by a softmax over the whole catalogue or, where that is larger
    than `n_negatives`, over a sample that a batch shares. The item vectors start as factors of how often items stand
    near each other (`sequence_start`), which saves most of the epochs. Only the order of events counts: not their
    weights (those above 0 are read, the others are not), and not their times.

    Items are those with an event. Scores are logits; only their differences within a user mean something.
    All draws come from `seed`. `training_curve` holds of each epoch the loss, NDCG@100 of the held-out items
    (the last one of `validation_share` of the users; the best epoch's weights stand), the minutes so far, and whether
    the minutes ended the training.
    """

    dim: Count = 64
    blocks: Count = 2
    heads: Count = 2
    max_length: Count = 100  # latest items of a user that are read
    dropout: Part | None = None  # None: by how many events an item has, see `_dropout_for`
    n_negatives: Count = 2048  # in each step, shared by all of its places
    learning_rate: Positive = 0.001
    batch_events: Count | None = None  # None: by the number of events, see `_batch_for`
    max_epochs: Count = 40
    patience: Count = 8  # epochs without a gain of half a per cent of the held-out measure
    continued_epochs: Count = 8  # with `start_from`, at most; see `_epochs_for`
    max_minutes: Positive = 6.0
    continued_minutes: Positive = 1.0  # the same with `start_from`
    validation_share: Part = 0.05  # of the users; 0 trains all epochs
    seed: Seed = 42
    name: ClassVar[str] = "sequence"

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise InputError(f"sequence.heads should divide sequence.dim; received {self.heads} and {self.dim}")
        self.training_curve: dict[str, list[float]] = {}
        self.cut_at: int | None = None
        self._state: _State | None = None

    def fit(self, interactions: Interactions, catalogue: Catalogue, *, start_from: SequenceModel | None = None) -> Self:
        """Learn from the interactions whose item is in the catalogue.

        `start_from`: a model fitted on an earlier cut of the same data. Its weights are continued on
        the histories with events after its cut and on as many others, the longer the more of the events are new; items
        that are new start at the mean of those that they stand near to.
        Raises InputError when there is nothing to learn from or `start_from` does not fit, ModelError when the
        result is not finite.
        """
        events = usable_history(interactions, catalogue)
        items = KeyIndex.of(events.item_key)
        histories = Histories.of(events, items)
        rng = np.random.default_rng(self.seed)
        config = network_config(len(items), self.dim, self.blocks, self.heads, self.max_length)
        learned, held_out = histories, None
        if start_from is None:
            learned, held_out = self._split(histories, rng)
            weights = initial_weights(config, factors(nearness(learned, len(items)), self.dim, rng), rng)
        else:
            old = self._earlier(start_from, events.cut_at)
            weights = _continued(old, items, nearness(histories, len(items)), rng)
        pieces = Pieces.of(learned, self.max_length)
        new, n_epochs, minutes = np.ones(len(pieces), dtype=bool), self.max_epochs, self.max_minutes
        if start_from is not None:
            is_new = learned.occurred_at >= (start_from.cut_at or 0)
            new = is_new[pieces.end]  # at `end` stands the last target
            n_epochs = _epochs_for(float(is_new.mean()), self.continued_epochs)
            minutes = self.continued_minutes

        def drawn(rng: np.random.Generator) -> Pieces:
            return pieces.take(_with_replay(new, rng))

        self.training_curve = {}
        if new.any():
            dropout = _dropout_for(len(learned.item), len(items)) if self.dropout is None else self.dropout
            schedule = self._schedule(len(learned.item), n_epochs, minutes)
            weights, self.training_curve = train(
                config, weights, dropout, learned, drawn, held_out, schedule, self.seed
            )
        available = catalogue.offers(items.keys)
        self._use(_State(weights, items, available, histories.latest(self.max_length)), events.cut_at)
        return self

    def _schedule(self, n_events: int, n_epochs: int, minutes: float) -> Schedule:
        batch_events = _batch_for(n_events) if self.batch_events is None else self.batch_events
        return Schedule(
            max_epochs=n_epochs,
            patience=self.patience,
            max_minutes=minutes,
            rows_per_batch=max(batch_events // self.max_length, 1),
            row_length=self.max_length,
            n_negatives=self.n_negatives,
            learning_rate=self.learning_rate,
        )

    def _split(self, histories: Histories, rng: np.random.Generator) -> tuple[Histories, HeldOut | None]:
        """What is learned, and the last items of a share of those who have enough, of which nothing may be known to
        what is learned: neither as a target nor in the start vectors."""
        enough = np.flatnonzero(histories.length >= _LEAST_HISTORY)
        n = min(int(len(enough) * self.validation_share), _MOST_HELD_OUT)
        if n < _LEAST_HELD_OUT:
            return histories, None
        users = np.sort(rng.choice(enough, n, replace=False))
        chosen = np.zeros(len(histories.users), dtype=bool)
        chosen[users] = True
        return histories.without_last(chosen), HeldOut(users, histories.item[histories.start[users + 1] - 1])

    def _earlier(self, model: SequenceModel, cut_at: int) -> _State:
        state = model._fitted()
        if model.cut_at is None or model.cut_at > cut_at:
            raise InputError(
                f"start_from was fitted up to {model.cut_at}, after the cut {cut_at}; fit in order of time"
            )
        shape = ("dim", "blocks", "heads", "max_length")
        theirs, ours = ([getattr(each, name) for name in shape] for each in (model, self))
        if theirs != ours:
            raise InputError(
                f"start_from has {', '.join(shape)} {theirs}, this one {ours}; continue with equal sizes or fit from"
                " scratch"
            )
        return state

    def with_histories(self, interactions: Interactions) -> Self:
        """The same network for other histories: a copy that knows the users of `interactions`, and nobody else.

        Nothing is learned; items that were unknown when it was fitted are passed over. Users need not have been known
        then. The copy's cut is that of `interactions`.
        """
        state = self._fitted()
        favour = interactions.in_favour
        histories = Histories.of(favour.take(favour.weight > 0), state.items).latest(self.max_length)
        model = replace(self)
        model.training_curve = self.training_curve
        model._use(replace(state, histories=histories), interactions.cut_at)
        return model

    def candidates(self, user_keys: Keys, n: int, *, seen: Any | None = None) -> Candidates:
        """As the protocol says; users are scored in parallel by implicit's own top-k."""
        state = self._fitted()
        at = state.histories.users.positions(user_keys)
        offered = KeyIndex(state.items.keys[state.available])
        vectors = np.ascontiguousarray(self._item_vectors[state.available])
        mask = seen_positions(seen, offered, len(user_keys))

        def best(rows: Positions) -> Best:
            return best_products(self._user_vectors(at[rows]), vectors, n, None if mask is None else mask[rows])

        return ranked(user_keys, n, at >= 0, offered, best, rows_per_chunk=_USERS_PER_CHUNK)

    def scores(self, user_keys: Keys, item_keys: Keys) -> Scores:
        """Logits of given pairs, (n,) and (n, k) → (n, k); NaN for users without a history and items without an
        event."""
        state = self._fitted()
        table = self._item_vectors

        def score(users: Positions, items: Positions) -> Scores:
            distinct, row = np.unique(users, return_inverse=True)
            vectors = self._user_vectors(distinct)[row]
            return np.einsum("nd,nkd->nk", vectors, table[items], optimize=True).astype(np.float32)

        chunk = min(max(_PAIRS_PER_CHUNK // max(item_keys.shape[-1], 1), 1), _USERS_PER_CHUNK)
        return scored(user_keys, item_keys, state.histories.users, state.items, score, rows_per_chunk=chunk)

    def save(self, folder: Path) -> None:
        """Weights, the latest items of every user, and the curve, as `save_model` of `base` writes them."""
        state = self._fitted()
        curve = {f"curve/{part}": np.asarray(values) for part, values in self.training_curve.items()}
        save_model(folder, self, int(self.cut_at or 0), state.arrays() | curve)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote; needs numpy only. ArtifactError when a file is missing or cannot be read."""
        params, cut_at, arrays = load_model(folder, cls.name)
        model = cls(**params)
        try:
            model._use(_State.from_arrays(arrays), cut_at)
        except (KeyError, ValueError, IndexError) as error:
            raise ArtifactError(f"the sequence model in {folder} is not complete: {error}; train it again") from error
        curve = {part.removeprefix("curve/"): values for part, values in arrays.items() if part.startswith("curve/")}
        model.training_curve = {part: [float(value) for value in values] for part, values in curve.items()}
        return model

    def _fitted(self) -> _State:
        if self._state is None:
            raise ModelError("this sequence model is not fitted; call fit or load first")
        return self._state

    def _use(self, state: _State, cut_at: int) -> None:
        require_finite(self.name, **{"items' vectors": state.weights[TABLE]})
        config = network_config(len(state.items), self.dim, self.blocks, self.heads, self.max_length)
        self._state, self.cut_at, self._scorer = state, cut_at, SequenceScorer(config, state.weights)
        self._item_vectors = self._scorer.item_vectors()

    def _user_vectors(self, users: Positions) -> Floats:
        histories = self._fitted().histories
        return self._scorer.user_vectors(histories.item, histories.start[users], histories.start[users + 1])


@dataclass(frozen=True)
class _State:
    """What scoring reads, and what is saved."""

    weights: Weights
    items: KeyIndex  # those with an event when it was fitted: rows of the table
    available: NDArray[np.bool_]  # (n_items,)
    histories: Histories

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as flat arrays by name."""
        return {
            **{f"weights/{name}": value for name, value in self.weights.items()},
            "items": self.items.keys,
            "available": self.available,
            "users": self.histories.users.keys,
            "history_start": self.histories.start,
            "history": self.histories.item,
            "history_at": self.histories.occurred_at,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """The inverse of `arrays`; KeyError when one is missing."""
        prefix = "weights/"
        return cls(
            {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)},
            KeyIndex(arrays["items"]),
            arrays["available"],
            Histories(KeyIndex(arrays["users"]), arrays["history_start"], arrays["history"], arrays["history_at"]),
        )


def _dropout_for(n_events: int, n_items: int) -> float:
    """0.5, or 0.2 where an item has a hundred events on average: what SASRec's authors chose for sparse sets (Amazon,
    Steam) and for MovieLens 1M."""
    return 0.2 if n_events >= _DENSE * n_items else 0.5


def _batch_for(n_events: int) -> int:
    """Events of a step: a four hundredth of an epoch, within bounds. A network that has seen a small set in few large
    steps ranks worse; large sets need no more steps an epoch than small ones."""
    return min(max(n_events // 400, 500), 4_000)


def _epochs_for(new_share: float, most: int) -> int:
    """An epoch for every fiftieth of the events that is new, within 1 and `most`."""
    return min(max(math.ceil(50 * new_share), 1), most)


def _continued(old: _State, items: KeyIndex, near: Any, rng: np.random.Generator) -> Weights:
    """The older model's weights, its table laid out for `items`."""
    row = old.items.positions(items.keys)
    table = old.weights[TABLE][np.maximum(row, 0)]
    if (row < 0).all():
        table = factors(near, table.shape[1], rng)
    elif (row < 0).any():
        table = from_neighbours(near, row >= 0, table)
    return {**old.weights, TABLE: table}


def _with_replay(new: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The new ones (n,), and as many of the others."""
    old = np.flatnonzero(~new)
    chosen = new.copy()
    chosen[rng.choice(old, min(int(new.sum()), len(old)), replace=False)] = True
    return chosen
