"""The nightly pipeline in order, without Airflow: what the DAG nightly does, one step after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from recsys.steps import (
    default_recommendations,
    i2i_recommendations,
    personal_recommendations,
    prepare_dataset,
    publish,
    rank_users,
    similar_items,
    train_als,
    train_deepfm,
    train_ranker,
    user_history,
)

logger = logging.getLogger(__name__)

# In an order in which everything that a step needs is there.
STEPS: tuple[tuple[str, Callable[..., dict[str, Any]]], ...] = (
    ("default_recommendations", default_recommendations.run),
    ("i2i_recommendations", i2i_recommendations.run),
    ("train_als", train_als.run),
    ("personal_recommendations", personal_recommendations.run),
    ("similar_items", similar_items.run),
    ("train_deepfm", train_deepfm.run),
    ("train_ranker", train_ranker.run),
    ("rank_users", rank_users.run),
    ("user_history", user_history.run),
)


def run(
    as_of: str | None = None,
    force: bool = False,
    *,
    on_step: Callable[[str, float, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Prepare, train, rank and publish; the result of each step by its name.

    `on_step` is told the name, the seconds and the result of each step as it ends. A step that fails ends the
    run; run again, it goes on where it stopped, because every step finds its own results.
    """
    results: dict[str, Any] = {}

    def do(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        started = time.monotonic()
        results[name] = work()
        if on_step:
            on_step(name, time.monotonic() - started, results[name])
        return results[name]

    dataset = do("prepare_dataset", lambda: prepare_dataset.run(as_of=as_of, force=force))["dataset"]
    for name, step in STEPS:
        do(name, lambda step=step: step(dataset=dataset, force=force))  # type: ignore[misc]
    do("publish", lambda: publish.run(dataset=dataset))
    return results
