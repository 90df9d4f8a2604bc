"""Training of DeepFM: Keras `fit` on arrays, epoch by epoch, until the last slice in time is predicted no better."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import log
from recsys.candidates.deepfm_calibration import UNCALIBRATED, Calibration, calibrate
from recsys.candidates.deepfm_samples import EXCLUDED, Samples, Vocabularies
from recsys.errors import ModelError
from recsys.features.context import CONTEXT_FIELDS, N_SHARED
from recsys.features.deepfm_fields import USER_FIELDS, Vocabulary
from recsys.networks.deepfm_scorer import DeepFmScorer, Floats, network_weights, set_network_weights, weight_shapes

logger = logging.getLogger(__name__)

Weights = dict[str, Floats]
Probability = NDArray[np.float64]
_VALIDATION_ROWS = 10_000
_CURVE_ROWS = 2_000  # of the training, for its AUC
_STEPS_PER_CALL = 16  # steps of `fit` in one call of TensorFlow


@dataclass(frozen=True)
class Schedule:
    """How a training runs. A row is one event with its negatives."""

    rows_per_epoch: int
    max_epochs: int
    patience: int
    batch_rows: int
    learning_rate: float
    seed: int


def network_config(vocabularies: Vocabularies, dim: int, hidden: tuple[int, ...]) -> dict[str, Any]:
    """Arguments of `DeepFmNetwork`."""
    return {
        "user_sizes": vocabularies.user_sizes,
        "item_sizes": vocabularies.item_sizes,
        "history_size": vocabularies.item.size,
        "dim": dim,
        "hidden": list(hidden),
    }


def initial_weights(config: dict[str, Any], rng: np.random.Generator) -> Weights:
    """Embeddings of ids N(0, 0.05²); first-order weights and all other embeddings 0; dense layers Glorot-uniform.

    A trend, age or history that training has never met thus adds nothing, instead of noise.
    """
    shapes, dim = weight_shapes(config), config["dim"]
    first_fan_in = shapes["deep_user/kernel"][0] + shapes["deep_item/kernel"][0]  # two halves of one layer
    n_random = {"user_fields/table": config["user_sizes"][0], "item_fields/table": sum(config["item_sizes"][:3])}
    weights: Weights = {}
    for name, shape in shapes.items():
        if name.endswith("/table"):
            n_rows = n_random.get(name, 0)
            weights[name] = np.zeros(shape, dtype=np.float32)
            weights[name][:n_rows, :dim] = rng.standard_normal((n_rows, dim)) * 0.05
        elif name.endswith("/kernel"):
            fan_in = first_fan_in if name in ("deep_user/kernel", "deep_item/kernel") else shape[0]
            limit = np.sqrt(6.0 / (fan_in + shape[1]))
            weights[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
        else:
            weights[name] = np.zeros(shape, dtype=np.float32)
    return weights


def continued_weights(
    old_weights: Weights, old: Vocabularies, new: Vocabularies, dim: int, hidden: tuple[int, ...]
) -> Weights:
    """The older model's weights, its tables laid out for the new vocabularies.

    A key that is new takes the older row 0 (unknown) of its field.
    """
    to, source = network_config(new, dim, hidden), network_config(old, dim, hidden)
    user, item = _rows_to_take(new.user, old.user), _rows_to_take(new.item, old.item)
    items = [item, *(_rows_to_take(getattr(new, part), getattr(old, part)) for part in ("category", "parent_category"))]
    rows = {
        "user_fields/table": _table_rows([user], to["user_sizes"], source["user_sizes"]),
        "item_fields/table": _table_rows(items, to["item_sizes"], source["item_sizes"]),
        "history_bag/table": item,
    }
    result = {name: value.copy() for name, value in old_weights.items()}
    for name, row in rows.items():
        result[name] = old_weights[name][row]
    starts = np.cumsum([0, *to["user_sizes"]])
    for place in range(N_SHARED):  # another parameter's values teach nothing
        if new.context_names[place : place + 1] != old.context_names[place : place + 1]:
            field = USER_FIELDS.index(CONTEXT_FIELDS[1 + place])
            result["user_fields/table"][starts[field] : starts[field + 1]] = 0
    return result


def _rows_to_take(new: Vocabulary, old: Vocabulary) -> NDArray[np.int64]:
    """For each row of `new` the row of `old` that it continues, or 0."""
    return np.concatenate([[0], old.rows(new.keys)]).astype(np.int64)


def _table_rows(first: list[NDArray[np.int64]], sizes: list[int], old_sizes: list[int]) -> NDArray[np.int64]:
    """The same for a table of several fields: the `first` fields have vocabularies, the rows of the others stay."""
    fields = [*first, *(np.arange(size) for size in sizes[len(first) :])]
    starts = np.concatenate([[0], np.cumsum(old_sizes)[:-1]])
    return np.concatenate([start + rows for start, rows in zip(starts, fields, strict=True)])


def make_network(config: dict[str, Any], weights: Weights) -> Any:
    """A built `DeepFmNetwork` with these weights. Imports Keras and its backend (seconds)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from recsys.networks.deepfm import DeepFmNetwork

    network = DeepFmNetwork(**config)
    network.build()
    set_network_weights(network, weights)
    return network


def train(
    config: dict[str, Any],
    weights: Weights,
    samples: Samples,
    probability: Probability,
    is_validation: NDArray[np.bool_],
    schedule: Schedule,
) -> tuple[Weights, dict[str, list[float]], Calibration]:
    """Train from `weights`, give the new ones, the learning curve and what makes probabilities of the logits.

    First on the events before the validation slice, until the loss on the slice has not fallen for
    `schedule.patience` epochs; then, from the best epoch on, one epoch on everything, so that the newest events
    are learned too. The calibration is that of the best epoch, which has not seen the slice.
    `probability` (n_events,): how often each event is drawn; `is_validation` (n_events,).
    Raises ModelError when a loss or a weight is not finite.
    """
    rng = np.random.default_rng(schedule.seed)
    first = "" if "tensorflow" in sys.modules else "loading TensorFlow, then "
    logger.info(
        "%s: %sup to %d epochs of %d rows", log.place("deepfm"), first, schedule.max_epochs, schedule.rows_per_epoch
    )
    network = make_network(config, weights)
    compile_network(network, schedule)
    curve: dict[str, list[float]] = {}
    best, best_loss, best_epoch = network_weights(network), np.inf, 0
    validating = bool(is_validation.any()) and not bool(is_validation.all())
    held_out = None
    if validating:
        n_rows = min(int(is_validation.sum()), _VALIDATION_ROWS)
        held_out = samples.draw(probability * is_validation, n_rows, rng, masked=False)
    learned_from = probability * ~is_validation if validating else probability
    for epoch in range(1, schedule.max_epochs + 1):
        row = run_epoch(network, samples, learned_from, schedule, rng)
        now = network_weights(network)
        if held_out is not None:
            row["validation_loss"], row["validation_auc"] = judge(DeepFmScorer(config, now), *held_out)
        _note(curve, row)
        logger.info("%s: epoch %d of at most %d: %s", log.place("deepfm"), epoch, schedule.max_epochs, _in_words(row))
        loss = row.get("validation_loss", -float(epoch))  # without a validation slice the last epoch stands
        if loss < best_loss:
            best, best_loss, best_epoch = now, loss, epoch
        elif epoch - best_epoch >= schedule.patience:
            break
    calibration = UNCALIBRATED
    if held_out is not None:
        calibration = calibrate(logits_of(DeepFmScorer(config, best), held_out[0]), held_out[1])
        set_network_weights(network, best)
        logger.info("%s: one epoch on everything, after the best one, %d", log.place("deepfm"), best_epoch)
        _note(curve, run_epoch(network, samples, probability, schedule, rng))
        best = network_weights(network)
    bad = [name for name, value in best.items() if not np.isfinite(value).all()]
    if bad:
        raise ModelError(f"deepfm: {', '.join(bad)} not finite after training; lower learning_rate")
    return best, curve, calibration


def _note(curve: dict[str, list[float]], row: dict[str, float]) -> None:
    for name, value in row.items():
        curve.setdefault(name, []).append(value)


def _in_words(row: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in row.items())


def compile_network(network: Any, schedule: Schedule) -> None:
    """The optimizer and the loss that `fit` uses."""
    from recsys.networks.lazy_adam import LazyAdam
    from recsys.networks.sampled_softmax import SampledSoftmax

    network.compile(
        optimizer=LazyAdam(schedule.learning_rate),
        loss=SampledSoftmax(),
        jit_compile=False,
        steps_per_execution=_STEPS_PER_CALL,
    )


def run_epoch(
    network: Any, samples: Samples, probability: Probability, schedule: Schedule, rng: np.random.Generator
) -> dict[str, float]:
    inputs, log_q = samples.draw(probability, schedule.rows_per_epoch, rng)
    history = network.fit(inputs, log_q, batch_size=schedule.batch_rows, epochs=1, shuffle=False, verbose=0)
    loss = float(history.history["loss"][-1])
    if not np.isfinite(loss):
        raise ModelError("deepfm: the training loss is not finite; lower learning_rate or check the event weights")
    scorer = DeepFmScorer(network.config, network_weights(network))
    first = slice(0, _CURVE_ROWS)
    return {"loss": loss, "auc": judge(scorer, {name: value[first] for name, value in inputs.items()}, log_q[first])[1]}


def judge(scorer: DeepFmScorer, inputs: dict[str, Any], log_q: Floats) -> tuple[float, float]:
    """Sampled softmax loss, and AUC (share of the sampled negatives that score below the observed item;
    a half where there is no negative, as where everybody has everything)."""
    logits = logits_of(scorer, inputs)
    corrected = logits.astype(np.float64) - log_q
    corrected -= corrected.max(axis=1, keepdims=True)
    loss = np.log(np.exp(corrected).sum(axis=1)) - corrected[:, 0]
    real = log_q[:, 1:] < EXCLUDED
    below = (logits[:, 1:] < logits[:, :1]) + 0.5 * (logits[:, 1:] == logits[:, :1])
    return float(loss.mean()), float(below[real].mean()) if real.any() else 0.5


def logits_of(scorer: DeepFmScorer, inputs: dict[str, Any]) -> Floats:
    """The logits of the network's inputs, (n, n_candidates)."""
    n, k, _ = inputs["item"].shape
    users = scorer.user_side(inputs["user"], inputs["history"], inputs["history_weight"])
    items = scorer.item_side(inputs["item"].reshape(n * k, -1))
    return scorer.logits(users, np.arange(n), items, np.arange(n * k).reshape(n, k))
