"""DeepFM as a candidate generator: retrieves by its factorisation part, rescores by the whole network."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from threadpoolctl import threadpool_limits

from recsys.candidates.base import (
    Best,
    best_of_dense,
    known_history,
    load_model,
    ranked,
    require_finite,
    save_model,
    scored,
    seen_positions,
    usable_history,
)
from recsys.candidates.deepfm_samples import Samples, Vocabularies
from recsys.candidates.deepfm_state import DeepFmState
from recsys.candidates.deepfm_training import (
    Schedule,
    continued_weights,
    initial_weights,
    make_network,
    network_config,
    train,
)
from recsys.errors import ArtifactError, InputError, ModelError
from recsys.keys import KeyIndex, Positions
from recsys.networks.deepfm_scorer import DeepFmScorer, Floats, Side
from recsys.parameters import Count, Part, Positive, Seed, Share
from recsys.types import Candidates, Catalogue, Interactions, Keys, Scores

_PAIRS_PER_CHUNK = 1 << 18
_USERS_PER_CHUNK = 1 << 14
_CONTINUED_VALIDATION_SHARE = 1 / 3  # of the new events
_RESCORED = 3  # how many times n items are rescored by the whole network


@dataclass
class DeepFm:
    """Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017.

    Fields of the user: id, latest items (a decayed bag), number of events so far, day of the week and part of the
    day, device and other parameters of the context (`recsys.features.context`); of the item: id, category, parent
    category, short and long trend, age. Trained by a softmax over each observed item and sampled others, events drawn
    in proportion to weight and decay. Scores are logits.

    All draws come from `seed` through numpy; Keras' and numpy's global seeds are neither read nor set. Equal
    seeds give equal models as far as the backend's threads add in the same order.

    `training_curve` holds the loss and AUC of each epoch, and those of the validation slice (the last in time);
    the last epoch, in which the slice itself is learned, has no validation.
    """

    dim: Count = 32
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 32)
    half_life_days: Positive = 60.0  # of an event's chance to be drawn
    history_length: Count = 120  # latest events in a user's bag
    history_half_life_days: Positive = 60.0
    n_negatives: Count = 15  # per event
    uniform_share: Share = 0.5  # of the negatives; the others are drawn by popularity^0.75
    mask_share: Share = 0.1  # how often an id is hidden, so that "unknown" is learned
    min_user_events: Count = 5  # users with fewer share row 0 and are known by their history
    min_item_events: Count = 2  # items with fewer share row 0 and are known by category and trend
    learning_rate: Positive = 0.002
    batch_rows: Count = 256  # events; each comes with its negatives
    max_epochs: Count = 10
    patience: Count = 2
    max_samples_per_epoch: Count = 1_600_000  # pairs: events × (1 + n_negatives); more events than fit are sampled
    validation_share: Part = 0.1  # of the events, the last in time; 0 trains all epochs
    seed: Seed = 42
    name: ClassVar[str] = "deepfm"

    def __post_init__(self) -> None:
        self.hidden = tuple(self.hidden)
        self.training_curve: dict[str, list[float]] = {}
        self.cut_at: int | None = None
        self._state: DeepFmState | None = None

    def fit(self, interactions: Interactions, catalogue: Catalogue, *, start_from: DeepFm | None = None) -> Self:
        """Learn from the interactions whose item is in the catalogue.

        `start_from`: a model fitted on an earlier cut of the same data. Its embeddings and layers are continued;
        half of the draws are then events after its cut, half older ones, and an epoch is twice the new events.
        Raises InputError when there is nothing to learn from or `start_from` does not fit, ModelError when the
        result is not finite.
        """
        events = usable_history(interactions, catalogue)
        with np.errstate(over="ignore"):
            require_finite(self.name, **{"the sum of the weights": events.weight.sum(keepdims=True, dtype=np.float32)})
        vocabularies = Vocabularies.of(events, catalogue, self.min_user_events, self.min_item_events)
        config = network_config(vocabularies, self.dim, self.hidden)
        probability = events.decayed_weight(self.half_life_days).astype(np.float64)
        n_rows = len(events)
        if start_from is None:
            weights = initial_weights(config, np.random.default_rng(self.seed))
        else:
            old = self._earlier(start_from, events.cut_at)
            weights = continued_weights(old.weights, old.vocabularies, vocabularies, self.dim, self.hidden)
            probability, n_rows = _with_replay(probability, events.occurred_at >= (start_from.cut_at or 0))
        samples = Samples(
            events,
            catalogue,
            vocabularies,
            history_length=self.history_length,
            history_half_life_days=self.history_half_life_days,
            n_negatives=self.n_negatives,
            uniform_share=self.uniform_share,
            mask_share=self.mask_share,
            against=interactions.against,
        )
        new_from = 0 if start_from is None else start_from.cut_at or 0
        weights, self.training_curve, calibration = train(
            config, weights, samples, probability, self._validation(events, new_from), self._schedule(n_rows)
        )
        self._use(DeepFmState.at_cut(samples, catalogue, weights, calibration), events.cut_at)
        return self

    def with_histories(self, interactions: Interactions) -> Self:
        """As the protocol says. Users keep the rows of their ids; items' trends stay those of the fit."""
        model, state = copy(self), self._fitted()
        events = known_history(interactions, state.items)
        model._state = state.with_histories(events, self.history_length, self.history_half_life_days)
        model.cut_at = interactions.cut_at
        return model

    def _earlier(self, model: DeepFm, cut_at: int) -> DeepFmState:
        state = model._fitted()
        if model.cut_at is None or model.cut_at > cut_at:
            raise InputError(
                f"start_from was fitted up to {model.cut_at}, after the cut {cut_at}; fit in order of time"
            )
        if (model.dim, model.hidden) != (self.dim, self.hidden):
            raise InputError(
                f"start_from has dim {model.dim} and hidden {model.hidden}, this one {self.dim} and {self.hidden};"
                " continue with equal sizes or fit from scratch"
            )
        return state

    def _validation(self, events: Interactions, new_from: int) -> NDArray[np.bool_]:
        """Which events are held out while the number of epochs is found, (n_events,): the last in time, of those from
        `new_from` (microseconds) on, where a model of then is continued: it has learned from all the others."""
        if self.validation_share <= 0:
            return np.zeros(len(events), dtype=bool)
        n_old = int(np.searchsorted(events.occurred_at, new_from, side="left"))
        share = self.validation_share if not n_old else max(self.validation_share, _CONTINUED_VALIDATION_SHARE)
        first = n_old + int((len(events) - n_old) * (1 - share))
        if first >= len(events):
            return np.zeros(len(events), dtype=bool)
        return events.occurred_at >= events.occurred_at[first]

    def _schedule(self, n_rows: int) -> Schedule:
        return Schedule(
            rows_per_epoch=max(min(n_rows, self.max_samples_per_epoch // (1 + self.n_negatives)), 1),
            max_epochs=self.max_epochs,
            patience=self.patience,
            batch_rows=self.batch_rows,
            learning_rate=self.learning_rate,
            seed=self.seed,
        )

    def candidates(self, user_keys: Keys, n: int, *, seen: Any | None = None) -> Candidates:
        """As the protocol says: the best `n` by the whole network among the best 3n by the factorisation part."""
        state = self._fitted()
        at = state.users.positions(user_keys)
        offered = np.flatnonzero(state.available)
        mask = seen_positions(seen, KeyIndex(state.items.keys[offered]), len(user_keys))
        items = self._item_side.take(offered)
        vectors = np.hstack([items.vector, items.bias[:, None]])  # one inner product gives vector and bias

        def best(rows: Positions) -> Best:
            users = self._user_side(at[rows])
            query = np.hstack([users.vector, np.ones((len(rows), 1), dtype=np.float32)])
            pool = _largest_products(query, vectors, _RESCORED * n, None if mask is None else mask[rows])
            logits = self._scorer.logits(users, np.arange(len(rows)), items, np.maximum(pool, 0))
            logits[pool < 0] = -np.inf
            place, score = best_of_dense(logits, n)
            if not pool.shape[1]:
                return place, score
            chosen = offered[np.take_along_axis(pool, np.maximum(place, 0), axis=1)]
            return np.where(place >= 0, chosen, -1), score

        return ranked(user_keys, n, at >= 0, state.items, best)

    def scores(self, user_keys: Keys, item_keys: Keys) -> Scores:
        """The whole network's logits, (n,) and (n, k) → (n, k); only their differences within a user mean something."""
        state = self._fitted()

        def score(users: Positions, items: Positions) -> Scores:
            distinct, row = np.unique(users, return_inverse=True)
            return self._scorer.logits(self._user_side(distinct), row, self._item_side, items)

        chunk = min(max(_PAIRS_PER_CHUNK // max(item_keys.shape[-1], 1), 1), _USERS_PER_CHUNK)
        return scored(user_keys, item_keys, state.users, state.items, score, rows_per_chunk=chunk)

    def save(self, folder: Path) -> None:
        """Weights, what is known of users and items, and the curve, as `save_model` of `base` writes them."""
        state = self._fitted()
        curve = {f"curve/{part}": np.asarray(values) for part, values in self.training_curve.items()}
        save_model(folder, self, int(self.cut_at or 0), state.arrays() | curve)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote; needs numpy only. ArtifactError when a file is missing or cannot be read."""
        params, cut_at, arrays = load_model(folder, cls.name)
        model = cls(**params)
        try:
            model._use(DeepFmState.from_arrays(arrays), cut_at)
        except (KeyError, ValueError, IndexError) as error:
            raise ArtifactError(f"the DeepFM in {folder} is not complete: {error}; train it again") from error
        curve = {part.removeprefix("curve/"): values for part, values in arrays.items() if part.startswith("curve/")}
        model.training_curve = {part: [float(value) for value in values] for part, values in curve.items()}
        return model

    def to_keras(self) -> Any:
        """The network with its weights as a `DeepFmNetwork`: to save as .keras, to export or to train on."""
        state = self._fitted()
        return make_network(network_config(state.vocabularies, self.dim, self.hidden), state.weights)

    @property
    def state(self) -> DeepFmState:
        """What was learned and is saved; ModelError where nothing is fitted."""
        return self._fitted()

    def _fitted(self) -> DeepFmState:
        if self._state is None:
            raise ModelError("this deepfm is not fitted; call fit or load first")
        return self._state

    def _use(self, state: DeepFmState, cut_at: int) -> None:
        scorer = DeepFmScorer(network_config(state.vocabularies, self.dim, self.hidden), state.weights)
        items = scorer.item_side(state.item_rows)
        require_finite(self.name, **{"items' vectors": items.vector, "items' bias": items.bias})
        self._state, self.cut_at, self._scorer, self._item_side = state, cut_at, scorer, items

    def _user_side(self, user: Positions) -> Side:
        return self._scorer.user_side(*self._fitted().user_inputs(user, self.history_length))


def _largest_products(query: Floats, vectors: Floats, n: int, mask: Any | None) -> Positions:
    """Positions of the `n` vectors with the largest product with each query, unordered; -1 for those in `mask`."""
    from implicit.cpu.topk import topk

    n = min(n, len(vectors))
    if not n:
        return np.zeros((len(query), 0), dtype=np.int64)
    with threadpool_limits(1, "blas"):  # implicit brings its own threads
        found, product = topk(vectors, query, n, filter_query_items=mask)
    return np.where(product > np.finfo(np.float32).min / 2, found, -1)


def _with_replay(probability: NDArray[np.float64], is_new: NDArray[np.bool_]) -> tuple[NDArray[np.float64], int]:
    """Half of the mass on new events, half on old ones; and how many rows make an epoch: twice the new events."""
    n_new = int(is_new.sum())
    if n_new == 0 or n_new == len(is_new):
        return probability, len(is_new)
    share = np.where(is_new, probability[is_new].sum(), probability[~is_new].sum())
    return probability / np.maximum(share, 1e-300), min(2 * n_new, len(is_new))
