"""Training of the sequence network: pieces of histories, packed, epoch by epoch, until held-out users gain no more."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import log
from recsys.candidates.sequence_histories import Batch, Histories, Pieces, batches
from recsys.errors import ModelError
from recsys.networks.sequence_scorer import (
    Floats,
    SequenceScorer,
    network_weights,
    set_network_weights,
    weight_shapes,
)

logger = logging.getLogger(__name__)

Weights = dict[str, Floats]
TABLE = "items/embeddings"
_KERNEL_SCALE = 0.02
_FIRST_SCALE = 12.0  # of the logits
_JUDGED_AT_ONCE = 256  # vectors
_JUDGED_RANKS = 100
_COMPILED_FROM = 150  # steps; compiling takes as long as some hundred small ones
_NEVER = 1e9  # as log q: such a negative does not count
_LEAST_GAIN = 0.005  # of the measure, relative: less is no reason to go on
_LOGGED = ("loss", "validation_ndcg")  # of the curve, in the log


@dataclass(frozen=True)
class Schedule:
    """How a training runs."""

    max_epochs: int
    patience: int
    max_minutes: float
    rows_per_batch: int
    row_length: int
    n_negatives: int
    learning_rate: float


@dataclass(frozen=True)
class HeldOut:
    """What some users did after the histories that are learned."""

    users: NDArray[np.int64]  # (n,): positions in `Histories.users`
    target: NDArray[np.int32]  # (n,): positions of items


def network_config(n_items: int, dim: int, blocks: int, heads: int, max_length: int) -> dict[str, Any]:
    """Arguments of `SequenceNetwork`, dropout and seed aside."""
    return {"n_items": n_items, "dim": dim, "blocks": blocks, "heads": heads, "max_length": max_length}


def initial_weights(config: dict[str, Any], table: Floats, rng: np.random.Generator) -> Weights:
    """Kernels N(0, 0.02²), gains 1, the logits' scale 12, all else 0; the table of items as given."""
    weights: Weights = {}
    for name, shape in weight_shapes(config).items():
        if name == TABLE:
            weights[name] = table
        elif name == "log_scale":
            weights[name] = np.asarray(np.log(_FIRST_SCALE), dtype=np.float32)
        elif name.endswith("/kernel"):
            weights[name] = (rng.standard_normal(shape) * _KERNEL_SCALE).astype(np.float32)
        else:
            weights[name] = np.full(shape, 1.0 if name.endswith("/gamma") else 0.0, dtype=np.float32)
    return weights


def train(
    config: dict[str, Any],
    weights: Weights,
    dropout: float,
    histories: Histories,
    pieces: Callable[[np.random.Generator], Pieces],
    held_out: HeldOut | None,
    schedule: Schedule,
    seed: int,
) -> tuple[Weights, dict[str, list[float]]]:
    """Train from `weights`; gives those of the epoch that ranks the held-out items best, and the learning curve.

    `pieces` draws what an epoch learns. Without held-out users all epochs run, and the last one stands. Training ends
    after the epoch in which `max_minutes` are over; the curve's last `stopped_early` is then 1.
    Raises ModelError when a loss or a weight is not finite.
    """
    rng = np.random.default_rng(seed)
    place = log.place("sequence")
    first = "" if "tensorflow" in sys.modules else "loading TensorFlow, then "
    logger.info("%s: %sup to %d epochs", place, first, schedule.max_epochs)
    n_steps = schedule.max_epochs * len(histories.item) / (schedule.rows_per_batch * schedule.row_length)
    laid_out = {**config, "n_items": _capacity(config["n_items"]), "dropout": dropout, "seed": seed}
    learner = _learner(
        tuple(laid_out.items()), schedule.n_negatives, schedule.learning_rate, compiled=n_steps >= _COMPILED_FROM
    )
    learner.start(weights, rng)
    curve: dict[str, list[float]] = {"loss": [], "minutes": [], "stopped_early": []}
    best, best_ndcg = weights, -np.inf
    gained_from, gained_at = -np.inf, 0  # what patience counts from
    pace, begun = log.Pace(), time.monotonic()
    for epoch in range(1, schedule.max_epochs + 1):
        curve["loss"].append(_run_epoch(learner, histories, pieces(rng), schedule, rng, pace, epoch))
        curve["minutes"].append((time.monotonic() - begun) / 60)
        curve["stopped_early"].append(float(curve["minutes"][-1] > schedule.max_minutes))
        now = learner.weights()
        ndcg = float(epoch)  # without held-out items the last epoch stands
        if held_out is not None:
            ndcg = judge(SequenceScorer(config, now), histories, held_out)
            curve.setdefault("validation_ndcg", []).append(ndcg)
        figures = ", ".join(f"{part.replace('_', ' ')} {curve[part][-1]:.4f}" for part in _LOGGED if part in curve)
        logger.info("%s: epoch %d of at most %d: %s", place, epoch, schedule.max_epochs, figures)
        if ndcg > best_ndcg:
            best, best_ndcg = now, ndcg
        if ndcg > gained_from * (1 + _LEAST_GAIN):
            gained_from, gained_at = ndcg, epoch
        elif held_out is not None and epoch - gained_at >= schedule.patience:
            break
        if curve["stopped_early"][-1] and epoch < schedule.max_epochs:
            logger.warning("%s: stopped after epoch %d: its %g minutes are over", place, epoch, schedule.max_minutes)
            break
    bad = [name for name, value in best.items() if not np.isfinite(value).all()]
    if bad:
        raise ModelError(f"sequence: {', '.join(bad)} not finite after training; lower learning_rate")
    return best, curve


class _Learner:
    """A network and what moves its weights, for catalogues of up to `capacity` items.

    Made once per process for all fits of a size (`_learner`): tracing and compiling take seconds, and a night fits once
    per window. Imports Keras and its backend (seconds).
    """

    def __init__(self, config: dict[str, Any], n_negatives: int, learning_rate: float, compiled: bool) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        from recsys.networks.lazy_adam import LazyAdam
        from recsys.networks.sequence import SequenceNetwork, shared_softmax, unit

        self._network = network = SequenceNetwork(**config)
        network.build()
        table = network.items.embeddings
        others = [weight for weight in network.trainable_weights if weight is not table]
        optimizer = LazyAdam(learning_rate)
        optimizer.build([table, *others])

        @tf.function(jit_compile=compiled)
        def gradients(rows: Any, item: Any, segment: Any, target: Any, negative: Any, log_q: Any) -> Any:
            """Loss and gradients; `rows` (n, dim) of the table, in which the others are places."""
            with tf.GradientTape() as tape:
                tape.watch(rows)
                vectors = network.encode(tf.gather(rows, item), segment, training=True)  # (n_rows, length, dim)
                wanted = tf.reshape(target, [-1])  # (n_rows · length,)
                units = unit(rows)
                missed = shared_softmax(
                    tf.reshape(vectors, [-1, vectors.shape[-1]]),
                    tf.gather(units, wanted),
                    tf.gather(units, negative),
                    log_q,
                    wanted[:, None] == negative,
                )
                counts = tf.cast(tf.reshape(segment, [-1]) > 0, tf.float32)
                loss = tf.reduce_sum(missed * counts) / tf.maximum(tf.reduce_sum(counts), 1.0)
            found = tape.gradient(loss, [rows, *(weight.value for weight in others)])
            return loss, [tf.convert_to_tensor(gradient) for gradient in found]

        @tf.function
        def step(distinct: Any, item: Any, segment: Any, target: Any, negative: Any, log_q: Any) -> Any:
            loss, (of_rows, *of_others) = gradients(
                tf.gather(table.value, distinct), item, segment, target, negative, log_q
            )
            optimizer.apply([tf.IndexedSlices(of_rows, distinct), *of_others], [table, *others])
            return loss

        self._step = step
        self._capacity, self._n_negatives = int(config["n_items"]), n_negatives
        self._moving = [*optimizer.variables, *network.non_trainable_variables]  # moments, seeds
        self._moving_at_first = [variable.numpy().copy() for variable in self._moving]

    def start(self, weights: Weights, rng: np.random.Generator) -> None:
        """Begin a fit from `weights`, as if nothing had been learned before."""
        self._rng, self._n_items = rng, len(weights[TABLE])
        spare = np.zeros((self._capacity - self._n_items, weights[TABLE].shape[1]), dtype=np.float32)
        set_network_weights(self._network, {**weights, TABLE: np.concatenate([weights[TABLE], spare])})
        for variable, value in zip(self._moving, self._moving_at_first, strict=True):
            variable.assign(value)

    def weights(self) -> Weights:
        """As they are now."""
        weights = network_weights(self._network)
        return {**weights, TABLE: weights[TABLE][: self._n_items].copy()}

    def learn(self, batch: Batch) -> Any:
        """One step; gives its mean loss, a tensor that may not be computed yet."""
        negative = np.arange(self._n_items)
        if self._n_negatives < self._n_items:
            negative = self._rng.choice(self._n_items, self._n_negatives, replace=False)
        n_drawn, n_negatives = len(negative), min(self._n_negatives, self._capacity)
        log_q = np.full(n_negatives, _NEVER, dtype=np.float32)
        log_q[:n_drawn] = np.log(n_drawn / self._n_items)
        negative = np.concatenate([negative, np.zeros(n_negatives - n_drawn, dtype=negative.dtype)])
        wanted = np.concatenate([batch.item.ravel(), batch.target.ravel(), negative])
        distinct, place = np.unique(wanted, return_inverse=True)
        place = place.astype(np.int32)
        n = batch.item.size
        return self._step(
            np.resize(distinct, len(wanted)).astype(np.int32),  # of one length always: repeats get no gradient
            place[:n].reshape(batch.item.shape),
            batch.segment,
            place[n : 2 * n].reshape(batch.item.shape),
            place[2 * n :],
            log_q,
        )


def _capacity(n_items: int) -> int:
    """Rows of the table that is laid out for `n_items`: up to an eighth more, so that the next window's fits."""
    room = 1 << max(n_items.bit_length() - 4, 6)
    return -(-n_items // room) * room


@lru_cache(maxsize=1)
def _learner(config: tuple[tuple[str, Any], ...], n_negatives: int, learning_rate: float, compiled: bool) -> _Learner:
    return _Learner(dict(config), n_negatives, learning_rate, compiled)


def _run_epoch(
    learner: _Learner,
    histories: Histories,
    pieces: Pieces,
    schedule: Schedule,
    rng: np.random.Generator,
    pace: log.Pace,
    epoch: int,
) -> float:
    """The mean loss of an epoch."""
    n_all = int((pieces.end - pieces.start).sum())
    losses: list[Any] = []
    learned: list[int] = []
    for batch in batches(histories.item, pieces, schedule.row_length, schedule.rows_per_batch, rng):
        losses.append(learner.learn(batch))
        learned.append(int((batch.segment > 0).sum()))
        if pace.is_due():
            logger.info("%s: epoch %d, %d of %d events", log.place("sequence"), epoch, sum(learned), n_all)
    loss = float(np.average([float(loss) for loss in losses], weights=learned))
    if not np.isfinite(loss):
        raise ModelError("sequence: the training loss is not finite; lower learning_rate")
    return loss


def judge(scorer: SequenceScorer, histories: Histories, held_out: HeldOut) -> float:
    """NDCG@100 of the held-out items among all those that are not in what was read, in [0, 1].

    Not the loss: it is least long before the ranks are best.
    """
    ends = histories.start[held_out.users + 1]
    starts = np.maximum(histories.start[held_out.users], ends - scorer.config["max_length"])
    vectors = scorer.user_vectors(histories.item, starts, ends)
    items, total = scorer.item_vectors(), 0.0
    for start in range(0, len(vectors), _JUDGED_AT_ONCE):
        part = slice(start, start + _JUDGED_AT_ONCE)
        logits = vectors[part] @ items.T
        wanted = logits[np.arange(len(logits)), held_out.target[part]][:, None]
        for row, first, end in zip(logits, starts[part], ends[part], strict=True):
            row[histories.item[first:end]] = -np.inf
        rank = 1 + (logits > wanted).sum(axis=1)
        total += float((1.0 / np.log2(1 + rank[rank <= _JUDGED_RANKS])).sum())
    return total / len(vectors)
