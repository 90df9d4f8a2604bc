"""DeepFM's training and scoring beside plain Keras, both sides in turns in one process; prints one RESULTS.md row.

    python -m research.benchmarks.deepfm [--events 300000] [--runs 5]

- training: one epoch of ours (sampling negatives, histories and trends in numpy, `fit`, the epoch's AUC) over plain
  Keras `fit` of a DeepFM of six embedding fields on arrays that are there already: same dimension, same hidden
  layers, 4,096 pairs a batch, Adam. A sample is one user–item pair, observed or negative.
- scoring: `DeepFm.scores` in numpy over `predict` of the same network, users with 300 candidates each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from recsys.candidates.deepfm import DeepFm
from recsys.candidates.deepfm_samples import Samples, Vocabularies
from recsys.candidates.deepfm_training import (
    compile_network,
    initial_weights,
    make_network,
    network_config,
    run_epoch,
)
from recsys.types import MICROSECONDS_PER_DAY, Catalogue, Interactions

BATCH_PAIRS = 4096
POOL = 300


def shop(n_events: int, seed: int = 0) -> tuple[Interactions, Catalogue]:
    """Events of n/8 users on n/20 items within 120 days, popularity as 1/rank, no taste: only the cost matters."""
    random = np.random.default_rng(seed)
    n_users, n_items = n_events // 8, n_events // 20
    popularity = 1.0 / np.arange(1, n_items + 1)
    cut_at = 20_000 * MICROSECONDS_PER_DAY
    age = np.sort(random.random(n_events))[::-1] * 120 * MICROSECONDS_PER_DAY
    events = Interactions(
        random.integers(0, n_users, n_events).astype(np.int32),
        random.choice(n_items, n_events, p=popularity / popularity.sum()).astype(np.int32),
        np.zeros(n_events, dtype=np.int8),
        np.ones(n_events, dtype=np.float32),
        cut_at - 1 - age.astype(np.int64),
        np.arange(n_events),
        np.full(n_events, np.nan),
        ("view",),
        cut_at,
    )
    category = random.integers(0, 200, n_items).astype(np.int32)
    seen_at = np.full(n_items, cut_at - 200 * MICROSECONDS_PER_DAY)
    known = Catalogue(
        np.arange(n_items, dtype=np.int32),
        np.ones(n_items, dtype=bool),
        category,
        (category // 10).astype(np.int32),
        seen_at,
    )
    return events, known


def plain_keras(sizes: list[int], dim: int, hidden: tuple[int, ...]) -> Any:
    """DeepFM as one writes it by hand: an Embedding per field, one pair per row, binary cross-entropy."""
    import keras
    from keras import ops

    rows = [keras.Input((1,), dtype="int32") for _ in sizes]
    vectors = [keras.layers.Embedding(n, dim)(row) for n, row in zip(sizes, rows, strict=True)]
    first = [keras.layers.Embedding(n, 1)(row) for n, row in zip(sizes, rows, strict=True)]
    stacked = keras.layers.Concatenate(axis=1)(vectors)
    pairs = 0.5 * ops.sum(
        ops.square(ops.sum(stacked, axis=1)) - ops.sum(ops.square(stacked), axis=1), axis=1, keepdims=True
    )
    deep = keras.layers.Flatten()(stacked)
    for units in hidden:
        deep = keras.layers.Dense(units, activation="relu")(deep)
    logit = keras.layers.Add()([*(keras.layers.Flatten()(f) for f in first), pairs, keras.layers.Dense(1)(deep)])
    model = keras.Model(rows, logit)
    model.compile(optimizer="adam", loss=keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def in_turns(runs: int, *sides: Callable[[], object]) -> list[tuple[float, float]]:
    """Median seconds, and median seconds of processor time, of each side; in turns after one warm-up each."""
    taken: list[list[tuple[float, float]]] = [[] for _ in sides]
    for side in sides:
        side()
    for _ in range(runs):
        for one, side in zip(taken, sides, strict=True):
            start = time.perf_counter(), time.process_time()
            side()
            one.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return [(statistics.median(s for s, _ in one), statistics.median(p for _, p in one)) for one in taken]


def training(events: Interactions, known: Catalogue, runs: int) -> tuple[float, float, float]:
    """Samples per second of ours and of plain Keras, and the ratio of their processor times, ours over plain."""
    model = DeepFm()
    vocabularies = Vocabularies.of(events, known, model.min_user_events, model.min_item_events)
    samples = Samples(
        events,
        known,
        vocabularies,
        history_length=model.history_length,
        history_half_life_days=model.history_half_life_days,
        n_negatives=model.n_negatives,
        uniform_share=model.uniform_share,
        mask_share=model.mask_share,
    )
    config = network_config(vocabularies, model.dim, model.hidden)
    random = np.random.default_rng(0)
    network = make_network(config, initial_weights(config, random))
    schedule = model._schedule(len(events))
    compile_network(network, schedule)
    n_pairs = schedule.rows_per_epoch * (1 + model.n_negatives)

    sizes = [vocabularies.user.size, *vocabularies.item_sizes[:3], 8, 16]
    plain = plain_keras(sizes, model.dim, model.hidden)
    arrays = [random.integers(0, size, (n_pairs, 1)).astype(np.int32) for size in sizes]
    labels = (random.random((n_pairs, 1)) < 0.1).astype(np.float32)
    (ours_s, ours_processor_s), (plain_s, plain_processor_s) = in_turns(
        runs,
        lambda: run_epoch(network, samples, np.ones(len(events)), schedule, random),
        lambda: plain.fit(arrays, labels, batch_size=BATCH_PAIRS, epochs=1, verbose=0),
    )
    return n_pairs / ours_s, n_pairs / plain_s, ours_processor_s / plain_processor_s


def scoring(events: Interactions, known: Catalogue, runs: int, n_users: int = 1000) -> tuple[float, float]:
    """Pairs per second of numpy and of Keras' `predict` with 64 users a batch."""
    model = DeepFm(max_epochs=1, validation_share=0.0, max_samples_per_epoch=65_536).fit(events, known)
    random = np.random.default_rng(1)
    users = random.choice(np.unique(events.user_key), n_users, replace=False)
    items = random.choice(known.item_key, (n_users, POOL)).astype(np.int32)
    state, network = model._fitted(), model.to_keras()
    rows, history, weight = state.user_inputs(state.users.positions(users), model.history_length)
    given = {"user": rows, "history": history, "history_weight": weight, "item": state.item_rows[items]}
    (numpy_s, _), (keras_s, _) = in_turns(
        runs, lambda: model.scores(users, items), lambda: network.predict(given, batch_size=64, verbose=0)
    )
    return n_users * POOL / numpy_s, n_users * POOL / keras_s


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--events", type=int, default=300_000)
    options.add_argument("--runs", type=int, default=5)
    given = options.parse_args()
    events, known = shop(given.events)
    ours, plain, processor = training(events, known, given.runs)
    numpy_rate, keras_rate = scoring(events, known, given.runs)
    print(
        f"| DeepFM: training over plain Keras `fit`; numpy scoring over Keras `predict` "
        f"| `python -m research.benchmarks.deepfm --events {given.events} --runs {given.runs}` "
        f"| {ours / plain:.2f} ({ours:,.0f} against {plain:,.0f} samples/s), processor time {processor:.2f}; "
        f"{numpy_rate / keras_rate:.1f} ({numpy_rate:,.0f} against {keras_rate:,.0f} pairs/s) |"
    )


if __name__ == "__main__":
    main()
