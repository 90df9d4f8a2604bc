"""The ALS step and batch lists beside the plain library, in one process.

    python -m research.benchmarks.als [--runs 5]

ML-1M where RECSYS_DATA_DIR holds it, generated ratings of the same size otherwise; 64 factors, 15 iterations.
Both sides of each pair run in turn, `--runs` times; the medians count (processor time stands beside, for machines
that are busy otherwise). To reach: the step (indices, matrix,
weights, fit, checks) at most 1.1 times plain `fit` on the same matrix; lists of 100 for all users, seen items
masked, at least 0.8 times as many users a second as plain `recommend`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from recsys.candidates.als import Als
from recsys.keys import KeyIndex
from recsys.types import MICROSECONDS_PER_DAY, Catalogue, Interactions

LIST_LENGTH = 100


def ratings() -> tuple[str, pd.DataFrame]:
    """What the data is, and its columns user, item, seconds."""
    folder = os.environ.get("RECSYS_DATA_DIR")
    if folder and (path := Path(folder) / "ml-1m" / "ratings.parquet").is_file():
        frame = pd.read_parquet(path)
        seconds = frame["Timestamp"].fillna(frame["timestamp_lo"]).fillna(frame["timestamp_hi"]).astype("int64")
        return "ML-1M", pd.DataFrame({"user": frame["UserID"], "item": frame["MovieID"], "seconds": seconds})
    random = np.random.default_rng(0)
    n_users, n_items, n = 6040, 3706, 1_300_000  # about a million distinct pairs
    items = (n_items * random.random(n) ** 2.5).astype(np.int64)
    pairs = np.unique((n_users * random.random(n) ** 1.5).astype(np.int64) * n_items + items)
    seconds = np.sort(random.integers(956_000_000, 1_046_000_000, len(pairs)))
    return "generated", pd.DataFrame({"user": pairs // n_items, "item": pairs % n_items, "seconds": seconds})


def interactions(frame: pd.DataFrame) -> Interactions:
    frame = frame.sort_values("seconds", kind="stable")
    n = len(frame)
    at = frame["seconds"].to_numpy() * 1_000_000
    user = frame["user"].to_numpy(dtype=np.int32)
    return Interactions(
        user,
        frame["item"].to_numpy(dtype=np.int32),
        np.zeros(n, dtype=np.int8),
        np.ones(n, dtype=np.float32),
        at,
        user.astype(np.int64),
        np.full(n, np.nan),
        ("rating",),
        int(at[-1]) + MICROSECONDS_PER_DAY,
    )


def catalogue(history: Interactions) -> Catalogue:
    keys = np.unique(history.item_key)
    unknown = np.full(len(keys), -1, dtype=np.int32)
    return Catalogue(keys, np.ones(len(keys), dtype=bool), unknown, unknown, np.zeros(len(keys), dtype=np.int64))


def medians(runs: int, *sides: Callable[[], object]) -> list[tuple[float, float]]:
    """Median wall and processor seconds of each side, run in turn; the first round is not counted."""
    wall: list[list[float]] = [[] for _ in sides]
    processor: list[list[float]] = [[] for _ in sides]
    for turn in range(runs + 1):
        for i, side in enumerate(sides):
            start, start_processor = time.perf_counter(), time.process_time()
            side()
            if turn:
                wall[i].append(time.perf_counter() - start)
                processor[i].append(time.process_time() - start_processor)
    return [(statistics.median(w), statistics.median(p)) for w, p in zip(wall, processor, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    name, frame = ratings()
    history = interactions(frame)
    items = catalogue(history)
    ours = Als(factors=64, iterations=15)
    user_index, item_index = KeyIndex.of(history.user_key), KeyIndex.of(history.item_key)
    matrix = ours.confidence(history, user_index, item_index)

    def plain_model() -> AlternatingLeastSquares:
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                factors=64, iterations=15, regularization=ours.regularization, random_state=ours.seed
            )
            model.fit(matrix, show_progress=False)
        return model

    (step_s, step_cpu), (fit_s, fit_cpu) = medians(runs, lambda: ours.fit(history, items), plain_model)
    model = plain_model()
    entries = matrix.tocoo()
    seen_keys = (entries.row, item_index.keys[entries.col])
    seen = sp.csr_matrix((np.ones(matrix.nnz, dtype=np.float32), seen_keys))

    def plain_lists() -> object:
        with threadpool_limits(1, "blas"):
            return model.recommend(np.arange(len(user_index)), matrix, N=LIST_LENGTH)

    (lists_s, lists_cpu), (recommend_s, recommend_cpu) = medians(
        runs, lambda: ours.candidates(user_index.keys, LIST_LENGTH, seen=seen), plain_lists
    )
    n_users = len(user_index)
    print(f"{name}: {n_users:,} users, {len(item_index):,} items, {matrix.nnz:,} pairs; medians of {runs} runs")
    print(
        f"ALS step {step_s:.2f} s, plain fit {fit_s:.2f} s: {step_s / fit_s:.3f} times (at most 1.1); "
        f"processor time {step_cpu / fit_cpu:.3f} times"
    )
    print(
        f"lists of {LIST_LENGTH}: {n_users / lists_s:,.0f} users/s, plain recommend {n_users / recommend_s:,.0f}: "
        f"{recommend_s / lists_s:.3f} times (at least 0.8); processor time {recommend_cpu / lists_cpu:.3f} times"
    )


if __name__ == "__main__":
    main()
