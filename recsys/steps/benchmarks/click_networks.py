"""Networks on plain categorical fields: the project's DeepFM, a factorisation machine and logistic regression."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from numpy.typing import NDArray

from recsys.candidates.deepfm_training import initial_weights
from recsys.evaluation.binary import auc, log_loss
from recsys.evaluation.metrics import Values
from recsys.networks.deepfm import DeepFmNetwork
from recsys.networks.deepfm_scorer import set_network_weights
from recsys.networks.factorization_machine import FactorizationMachine
from recsys.steps.benchmarks.click_data import ITEM, Labelled, Rows

logger = logging.getLogger(__name__)

_STEPS_PER_CALL = 16
_ROWS_AT_ONCE = 8_192
_SPREAD = 0.05  # of the embeddings before training


@dataclass(frozen=True)
class Schedule:
    """How a network is trained; chosen on the validation file."""

    epochs: int
    learning_rate: float  # of Adam in the first step; falls to 0 in a line
    batch_rows: int
    l2: float  # of the tables, beside the mean loss of a batch
    dim: int = 16
    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.3


SCHEDULE = Schedule(epochs=14, learning_rate=4e-3, batch_rows=1_024, l2=5e-4)
L2_SHALLOW = 1e-5  # of the factorisation machine and logistic regression, which have less to learn by heart


class Trained:
    """A network with its best weights."""

    def __init__(self, network: Any, inputs: Callable[[Rows], Any], curve: list[dict[str, float]]) -> None:
        self._network, self._inputs = network, inputs
        self.curve = curve  # log loss and AUC of the validation file after each epoch

    def logits(self, rows: Rows) -> Values:
        """(n,)."""
        return _logits(self._network, self._inputs(rows))


def deepfm(sizes: Sequence[int], schedule: Schedule, seed: int) -> tuple[Any, Callable[[Rows], Any], list[Any]]:
    """`DeepFmNetwork` with one candidate and an empty history: the item on one side, all other fields on the other."""
    others = [field for field in range(len(sizes)) if field != ITEM]
    config: dict[str, Any] = {
        "user_sizes": [sizes[field] for field in others],
        "item_sizes": [sizes[ITEM]],
        "history_size": 1,
        "dim": schedule.dim,
        "hidden": list(schedule.hidden),
    }
    network = DeepFmNetwork(**config, dropout=schedule.dropout, seed=seed)
    network.build()
    rng = np.random.default_rng(seed)
    weights = initial_weights(config, rng)
    tables = {"user_fields/table": network.user_fields.table, "item_fields/table": network.item_fields.table}
    for name in tables:
        weights[name][:, : schedule.dim] = rng.standard_normal((len(weights[name]), schedule.dim)) * _SPREAD
    set_network_weights(network, weights)

    def inputs(rows: Rows) -> dict[str, NDArray[Any]]:
        nothing = np.zeros((len(rows), 1))
        history = {"history": nothing.astype(np.int32), "history_weight": nothing.astype(np.float32)}
        return {"user": rows[:, others], "item": rows[:, ITEM][:, None, None], **history}

    return network, inputs, list(tables.values())


def machine(
    sizes: Sequence[int], schedule: Schedule, seed: int, *, pairs: bool
) -> tuple[Any, Callable[[Rows], Any], list[Any]]:
    """A factorisation machine, or without `pairs` logistic regression."""
    network = FactorizationMachine(sizes, schedule.dim, pairs=pairs)
    network.build()
    table = network.fields.table
    values = np.zeros(table.shape, dtype=np.float32)
    values[:, : schedule.dim] = np.random.default_rng(seed).standard_normal((len(values), schedule.dim)) * _SPREAD
    table.assign(values)
    return network, lambda rows: rows, [table]


def train(
    parts: tuple[Any, Callable[[Rows], Any], list[Any]],
    training: Labelled,
    validation: Labelled,
    schedule: Schedule,
    seed: int,
) -> Trained:
    """Binary cross-entropy; the weights are those of the epoch with the greatest AUC of the validation file."""
    network, inputs, tables = parts
    for table in tables:
        table.regularizer = keras.regularizers.L2(schedule.l2)
    n_steps = -(-len(training) // schedule.batch_rows) * schedule.epochs
    rate = keras.optimizers.schedules.PolynomialDecay(schedule.learning_rate, n_steps, 0.0)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(rate), loss=loss, jit_compile=False, steps_per_execution=_STEPS_PER_CALL)
    rng, rows = np.random.default_rng([seed, 1]), inputs(validation.rows)
    curve: list[dict[str, float]] = []
    best, greatest = network.get_weights(), -np.inf
    for epoch in range(1, schedule.epochs + 1):
        part = training.take(rng.permutation(len(training)))
        label = part.label[:, None].astype(np.float32)
        network.fit(inputs(part.rows), label, batch_size=schedule.batch_rows, epochs=1, shuffle=False, verbose=0)
        logits = _logits(network, rows)
        now = {"logloss": float(log_loss(logits, validation.label).mean()), "auc": auc(logits, validation.label)}
        curve.append(now)
        logger.info("%s, seed %d, epoch %d of %d: %s", network.name, seed, epoch, schedule.epochs, now)
        if now["auc"] > greatest:
            best, greatest = network.get_weights(), now["auc"]
    network.set_weights(best)
    return Trained(network, inputs, curve)


def _logits(network: Any, inputs: Any) -> Values:
    found: Values = network.predict(inputs, batch_size=_ROWS_AT_ONCE, verbose=0)[:, 0].astype(np.float64)
    return found
