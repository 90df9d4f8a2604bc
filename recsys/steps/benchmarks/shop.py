"""B4: a whole shop in time, as `recsys evaluate` measures it: four cuts, both tasks, from the shop's own files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from recsys.candidates.registry import NETWORKS
from recsys.data.dataset import Dataset
from recsys.errors import InputError
from recsys.evaluation import plots, report
from recsys.evaluation.metrics import accuracy, n_users_by_item
from recsys.evaluation.protocol import labels_of, seen_items, windows
from recsys.settings import Settings
from recsys.steps.benchmarks.imported import imported
from recsys.steps.benchmarks.next_item import QUICK_RANKER
from recsys.steps.benchmarks.result import Result, Rows
from recsys.steps.context import Context
from recsys.steps.evaluate import TWO_STAGE, Outcome, measure, plan_of
from recsys.types import Task

TITLE = "B4: a whole shop, in time"
ONLINE_RETAIL = (4_334, 3_660, 396_340)  # users, items and events of its four cuts' data
POPULAR_EVER = 0.030  # NDCG@10 in discovery of popularity of all time there, mean of the cuts
_REF = "dataset/"
_SEGMENT_COLUMNS = (
    *("segment", "system", "users", "precision@10", "recall@10", "ndcg@10", "difference", "difference_low"),
    *("difference_high", "map@10", "novelty@5"),
    *("diversity@10", "serendipity@10", "item_coverage", "top_1%_share", "gini", "user_coverage"),
    *("pool_recall", "missed", "missed_new_items", "missed_tail_items", "seconds"),
)


def run(loaded: Settings, path: Path, quick: bool) -> Result:
    """Measure on a prepared data set where `path` is its reference (dataset/…), else on the invoices of a file."""
    with prepared(loaded, path, "online-retail") as (ctx, ref):
        return _measured(ctx, ref, quick)


@contextmanager
def prepared(loaded: Settings, path: Path, source: str) -> Iterator[tuple[Context, str]]:
    """The data set that `path` refers to (dataset/…), or one of a source's own files, with services of its own."""
    if str(path).startswith(_REF):
        yield Context.open(loaded), str(path)
        return
    if not path.exists():
        raise InputError(f"{path} does not exist; give --input FILE, or the reference of a data set, dataset/…")
    with imported(loaded, source, path) as (ctx, ref):
        yield ctx, ref


def _measured(ctx: Context, ref: str, quick: bool) -> Result:
    _, data = ctx.dataset(ref)
    plan = plan_of(ctx, data)
    if quick:
        plan = replace(
            plan,
            cuts=1,
            training_windows=2,
            ranker=replace(plan.ranker, **QUICK_RANKER),
            generators=[name for name in plan.generators if name not in NETWORKS],
        )
    outcome = measure(data, plan)
    rows = report.rows_of(outcome.measured, seed=plan.seed)
    means = [row for row in rows if row["cut"] == report.MEAN and row["segment"] == report.ALL]
    n = data.meta.n_rows
    result = Result(TITLE, f"{n['users']:,} users, {n['items']:,} items, {n['events']:,} events.")
    for task in plan.tasks:
        of_task = [row for row in rows if row["task"] == str(task)]
        result.tables[f"NDCG@10, {task}"] = _by_cut(of_task)
        result.tables[f"Mean of the cuts, {task}"] = _by_segment(of_task)
        values = {row["system"]: row[report.HEADLINE] for row in means if row["task"] == str(task)}
        low_high = {r["system"]: (r["ndcg@10_low"], r["ndcg@10_high"]) for r in means if r["task"] == str(task)}
        result.figures[f"ndcg_{task}"] = plots.comparison(values, metric=report.HEADLINE, intervals=low_high)
        result.headline[str(task)] = round(values[TWO_STAGE], 4)
    result.headline["above every single stage in each cut"] = report.beaten_everywhere(rows, TWO_STAGE)
    result.tables["What each generator brings to the pool"] = _pools(outcome)
    result.metrics = {f"{row['task']}.{row['system']}": row[report.HEADLINE] for row in means}
    result.params = asdict(plan)
    if (n["users"], n["items"], n["events"]) == ONLINE_RETAIL and not quick:
        ever = popular_ever(data, plan.cuts, plan.days)
        text = f"popularity of all time, by users, discovery: NDCG@10 {ever:.4f}, known {POPULAR_EVER:.4f}"
        result.checks.append((text, abs(ever - POPULAR_EVER) < 1e-3))
    return result


def popular_ever(data: Dataset, cuts: int, days: float) -> float:
    """NDCG@10 in discovery of items by how many users had them before each cut, mean of the cuts; no model is in it."""
    events, found = data.interactions(), []
    n_keys = int(events.item_key.max()) + 1
    for window in windows(events.cut_at, n=cuts, days=days):
        history = events.before(window.cut_at)
        labels = labels_of(events, window, data.meta, Task.DISCOVERY)
        seen = seen_items(history, labels.user_key, n_keys).toarray() > 0
        n_users = np.where(seen, -1, n_users_by_item(history, n_keys))  # (n_labelled, n_keys)
        best = np.argsort(-n_users, axis=1, kind="stable")[:, :10].astype(np.int32)
        found.append(float(accuracy(best, labels)[report.HEADLINE].mean()))
    return sum(found) / len(found)


def _by_cut(rows: Rows) -> Rows:
    """A row for each system: its headline at each cut, the mean and its interval."""
    found = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {row["cut"]: row for row in rows if row["system"] == system and row["segment"] == report.ALL}
        mean = own[report.MEAN]
        cells = {cut: row[report.HEADLINE] for cut, row in own.items()}
        found.append({"system": system, **cells, "from": mean["ndcg@10_low"], "to": mean["ndcg@10_high"]})
    return found


def _by_segment(rows: Rows) -> Rows:
    means = [row for row in rows if row["cut"] == report.MEAN]
    return [{name: row.get(name) for name in _SEGMENT_COLUMNS} for row in means]


def _pools(outcome: Outcome) -> Rows:
    return [{"task": one["task"], "cut": one["cut"], **row} for one in outcome.rankers[-2:] for row in one["pool"]]
