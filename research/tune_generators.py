"""Choose the defaults of the candidate generators on windows before the first cut of protocol B4.

    python research/tune_generators.py DATASET_FOLDER [--only als,ease] [--final]

DATASET_FOLDER is a prepared data set (an artifact of kind `dataset`). Each row is one configuration, the mean
NDCG@10 and pool recall at 100 over the label windows that end before the first cut; `--final` measures the
defaults at the four cuts instead, which is no place to choose anything.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recsys.candidates import registry
from recsys.data.dataset import Dataset
from recsys.evaluation.metrics import accuracy, pool_recall
from recsys.evaluation.protocol import Window, labels_of, seen_items, windows
from recsys.types import Task

N_CUTS, DAYS, LIST_LENGTH = 4, 14.0, 100
N_TUNING_WINDOWS = 3

# What was tried around each default; the best stays the default. One change at a time.
TRIED: dict[str, dict[str, list[Any]]] = {
    "popular": {"half_life_days": [3.0, 7.0, 14.0], "all_time_share": [0.0, 0.1, 0.5]},
    "recent": {"half_life_days": [60.0, 90.0, 360.0, 1e6]},
    "als": {
        "factors": [32, 96, 128],
        "regularization": [1.0, 5.0],
        "alpha": [0.3, 2.0, 10.0],
        "half_life_days": [30.0, 45.0, 60.0, 180.0],
        "bm25_k1": [0.0, 100.0],
        "bm25_b": [0.2, 0.8],
        "trend": [0.0, 0.5],
    },
    "covisitation": {
        "max_distance": [30, 150],
        "distance_power": [0.0, 1.0],
        "damping": [0.3, 0.4],
        "half_life_days": [20.0, 60.0],
        "history_half_life_days": [15.0, 30.0],
        "n_neighbours": [50, 300],
    },
    "item_knn": {
        "half_life_days": [20.0, 60.0, 1e6],
        "history_half_life_days": [30.0, 120.0],
        "n_neighbours": [30, 100, 200],
    },
    "ease": {
        "l2": [50.0, 100.0, 400.0],
        "half_life_days": [30.0, 90.0, 1e6],
        "trend": [0.0, 0.5, 1.3],
        "trend_half_life_days": [15.0, 30.0],
    },
}


def measure(data: Dataset, window: Window, task: Task, name: str, params: dict[str, Any]) -> tuple[float, float]:
    """NDCG@10 and recall at 100 of one generator alone at one cut."""
    events, meta = data.interactions(), data.meta
    history = events.before(window.cut_at)
    labels = labels_of(events, window, meta, task)
    seen = None
    if task is Task.DISCOVERY:
        bought = history.of_types(meta.bought_event_types)
        seen = seen_items(bought, labels.user_key, int(events.item_key.max()) + 1)
    model = registry.make(name, params).fit(history, data.catalogue(window.cut_at))
    lists = model.candidates(labels.user_key, LIST_LENGTH, seen=seen).item_key
    return float(accuracy(lists, labels)["ndcg@10"].mean()), float(pool_recall(lists, labels).mean())


def configurations(name: str, final: bool) -> Iterator[dict[str, Any]]:
    """The defaults, then (unless `final`) each of `TRIED` in turn."""
    yield {}
    for parameter, values in TRIED[name].items() if not final else ():
        for value in values:
            yield {parameter: value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--only", default=",".join(TRIED), help="generators, by comma")
    parser.add_argument("--final", action="store_true", help="the defaults at the four cuts, both tasks")
    args = parser.parse_args()
    data = Dataset(args.dataset)
    every = windows(data.meta.as_of, n=N_CUTS + N_TUNING_WINDOWS, days=DAYS)
    chosen = every[N_TUNING_WINDOWS:] if args.final else every[:N_TUNING_WINDOWS]
    print("| generator | parameters | task | NDCG@10 by window | mean | recall@100 | s a window |\n|" + "---|" * 7)
    for name in args.only.split(","):
        tasks = list(Task) if args.final else [Task.ALL if name == "recent" else Task.DISCOVERY]
        for params in configurations(name, args.final):
            for task in tasks:
                start = time.perf_counter()
                ndcg, recall = np.transpose([measure(data, window, task, name, params) for window in chosen])
                seconds = (time.perf_counter() - start) / len(chosen)
                changed = ", ".join(f"{key}={value:g}" for key, value in params.items()) or "defaults"
                by_window = " ".join(f"{value:.4f}" for value in ndcg)
                print(
                    f"| {name} | {changed} | {task} | {by_window} | {ndcg.mean():.4f} | {recall.mean():.3f} "
                    f"| {seconds:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
