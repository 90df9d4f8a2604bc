"""The nightly pipeline without Airflow: the steps of the DAG nightly, one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from recsys import settings
from recsys.steps import (
    default_recommendations,
    i2i_recommendations,
    index_sessions,
    personal_recommendations,
    prepare_dataset,
    publish,
    rank_users,
    similar_items,
    train_als,
    train_deepfm,
    train_ranker,
    train_sequence,
    user_history,
)
from recsys.steps.context import Context

logger = logging.getLogger(__name__)

# What names the main result of a step, the first that it has.
_NAMED = {"publication_id": "publication {}", "ranker": "{}", "serving": "{}", "list_version": "version {}"}

# In topological order.
STEPS: tuple[tuple[str, Callable[..., dict[str, Any]]], ...] = (
    ("default_recommendations", default_recommendations.run),
    ("i2i_recommendations", i2i_recommendations.run),
    ("index_sessions", index_sessions.run),
    ("train_als", train_als.run),
    ("personal_recommendations", personal_recommendations.run),
    ("similar_items", similar_items.run),
    ("train_deepfm", train_deepfm.run),
    ("train_sequence", train_sequence.run),
    ("train_ranker", train_ranker.run),
    ("rank_users", rank_users.run),
    ("user_history", user_history.run),
)


def run(
    as_of: str | None = None,
    force: bool = False,
    *,
    on_step: Callable[[str, float, dict[str, Any]], None] | None = None,
    ctx: Context | None = None,
) -> dict[str, Any]:
    """Prepare, train, rank and publish; the result of each step by name, and under `left_out` step → why it has no
    result: too little data, or a model that the gate refused. The rest is published.

    `on_step` gets the name, the seconds and the result of each step as it ends. A step that fails ends the run; the
    next run resumes there, because every step reuses its own results.
    """
    results: dict[str, Any] = {}
    generators = ctx.settings.generators if ctx else settings.load().generators

    def do(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        started = time.monotonic()
        results[name] = work()
        if on_step:
            on_step(name, time.monotonic() - started, results[name])
        return results[name]

    dataset = do("prepare_dataset", lambda: prepare_dataset.run(as_of=as_of, force=force, ctx=ctx))["dataset"]
    for name, step in STEPS:
        if name == "train_sequence" and "sequence" not in generators:
            continue
        do(name, lambda step=step: step(dataset=dataset, force=force, ctx=ctx))  # type: ignore[misc]
    do("publish", lambda: publish.run(dataset=dataset, ctx=ctx))
    left_out = {name: why for name, result in results.items() if (why := _why_left_out(result))}
    for name, why in left_out.items():
        logger.warning("left out, %s: %s", name, why)
    logger.info("published: %s", ", ".join(results["publish"].get("lists", {})) or "nothing new")
    return {**results, "left_out": left_out}


def line(name: str, seconds: float, result: dict[str, Any]) -> str:
    """Name, seconds and main result of a step, as columns of a table."""
    return f"{name:<24} {seconds:>9,.1f} s  {_in_short(result)}"


def _in_short(result: dict[str, Any]) -> str:
    if why := _why_left_out(result):
        return f"left out: {why}"
    named = (text.format(result[key]) for key, text in _NAMED.items() if result.get(key) is not None)
    counts = result.get("lists", result.get("n_rows", {}))
    counted = ", ".join(
        f"{n:,} {kind}" for kind, n in (counts if isinstance(counts, dict) else {"lists": counts}).items()
    )
    return ": ".join(filter(None, [next(named, result["dataset"]), counted]))


def _why_left_out(result: dict[str, Any]) -> str | None:
    if result.get("accepted") is False:
        return str(result["reason"])
    return result.get("skipped")
