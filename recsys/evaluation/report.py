"""What an evaluation found: one row for each task, cut, segment and system; a table for people, files for machines."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from recsys.evaluation import metrics
from recsys.evaluation.bootstrap import interval
from recsys.evaluation.metrics import Labels, Values
from recsys.types import MICROSECONDS_PER_DAY, Keys

MEAN = "mean"
ALL = "all"
HEADLINE = "ndcg@10"
_SHOWN = ("ndcg@10", "ndcg@5", "precision@10", "recall@10", "map@10", "novelty@5", "item_coverage", "top_1%_share")
Row = dict[str, Any]


@dataclass(frozen=True)
class Ground:
    """What the lists of one cut and task are measured against."""

    task: str
    cut_at: int  # microseconds
    labels: Labels
    segments: Mapping[str, NDArray[np.bool_]]  # name → mask over the users of `labels`
    n_users_by_item: NDArray[np.int64]  # users who have the item in their history, by item key
    n_users: int  # known users
    n_items: int  # items of the catalogue


@dataclass
class Measured:
    """The lists of one system at one cut, measured; `values` are per user (n_users,)."""

    ground: Ground
    source: str
    lists: Keys  # (n_users, k)
    seconds: float  # fitting included
    recall_of_pool: Values | None = None  # of the two-stage system
    values: dict[str, Values] = field(init=False)

    def __post_init__(self) -> None:
        self.values = metrics.accuracy(self.lists, self.ground.labels)
        self.values["novelty@5"] = metrics.novelty(self.lists, self.ground.n_users_by_item, self.ground.n_users)
        if self.recall_of_pool is not None:
            self.values["pool_recall"] = self.recall_of_pool

    def row(self, segment: str, mask: NDArray[np.bool_], seed: int) -> Row:
        """Means over the users of a segment, with the interval of the headline metric."""
        lists = self.lists[mask]
        low, high = interval(self.values[HEADLINE][mask], seed=seed)
        known = {name: v[mask][~np.isnan(v[mask])] for name, v in self.values.items()}
        return {
            "task": self.ground.task,
            "cut": day(self.ground.cut_at),
            "segment": segment,
            "system": self.source,
            "users": int(mask.sum()),
            **{name: float(v.mean()) if len(v) else None for name, v in known.items()},
            f"{HEADLINE}_low": low,
            f"{HEADLINE}_high": high,
            "item_coverage": metrics.item_coverage(lists, self.ground.n_items),
            "user_coverage": metrics.user_coverage(lists),
            "top_1%_share": metrics.top_item_share(lists, self.ground.n_items),
            "seconds": round(self.seconds, 2),
        }


def rows_of(measured: Sequence[Measured], *, seed: int = 0) -> list[Row]:
    """A row for each measurement and segment, then for each task, segment and system their mean over the cuts.

    The interval of a mean is that of the average of the cuts' means, users resampled within each cut.
    """
    rows: list[Row] = []
    groups: dict[tuple[str, str, str], list[tuple[Row, Values]]] = {}
    for one in measured:
        everyone = np.ones(len(one.ground.labels), dtype=bool)
        for segment, mask in {ALL: everyone, **one.ground.segments}.items():
            if mask.any():
                row = one.row(segment, mask, seed)
                rows.append(row)
                groups.setdefault((row["task"], segment, row["system"]), []).append((row, one.values[HEADLINE][mask]))
    return rows + [
        _mean_row([row for row, _ in group], [values for _, values in group], seed) for group in groups.values()
    ]


def _mean_row(rows: Sequence[Row], values: Sequence[Values], seed: int) -> Row:
    mean: Row = {**rows[0], "cut": MEAN, "users": sum(row["users"] for row in rows)}
    for name in rows[0]:
        numbers = [row[name] for row in rows if isinstance(row[name], float)]
        if isinstance(rows[0][name], float) and numbers:
            mean[name] = float(np.mean(numbers))
    # the width of an average of independent cuts: their widths added in quadrature
    half = [np.subtract(*interval(v, seed=seed)[::-1]) / 2 for v in values]
    spread = float(np.sqrt(np.square(half).sum()) / len(half))
    mean[f"{HEADLINE}_low"], mean[f"{HEADLINE}_high"] = mean[HEADLINE] - spread, mean[HEADLINE] + spread
    return mean


def beaten_everywhere(rows: Iterable[Row], winner: str) -> dict[str, bool]:
    """For each task: is `winner` above every other system in the headline metric, over all users, in each cut?"""
    best: dict[str, bool] = {}
    for row in rows:
        if row["segment"] == ALL and row["cut"] != MEAN and row["system"] == winner:
            rivals = [
                other[HEADLINE]
                for other in rows
                if (other["task"], other["cut"], other["segment"]) == (row["task"], row["cut"], ALL)
                and other["system"] != winner
            ]
            best[row["task"]] = best.get(row["task"], True) and all(row[HEADLINE] > rival for rival in rivals)
    return best


def tables(rows: Sequence[Row]) -> list[Table]:
    """For each task: the headline metric by cut, then everything on average, by segment."""
    found: list[Table] = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        found += [_by_cut(task, own), _by_segment(task, own)]
    return found


def _by_cut(task: str, rows: Sequence[Row]) -> Table:
    cuts = list(dict.fromkeys(row["cut"] for row in rows))
    table = Table(title=f"{task}: NDCG@10 by cut", title_justify="left")
    table.add_column("system")
    for cut in cuts:
        users = next(row["users"] for row in rows if row["cut"] == cut and row["segment"] == ALL)
        table.add_column(f"{cut}\n{users} users", justify="right")
    table.add_column("95 % interval\nof the mean", justify="right")
    for system in dict.fromkeys(row["system"] for row in rows):
        by_cut = {row["cut"]: row for row in rows if row["system"] == system and row["segment"] == ALL}
        mean = by_cut[MEAN]
        cells = [f"{by_cut[cut][HEADLINE]:.4f}" if cut in by_cut else "-" for cut in cuts]
        table.add_row(system, *cells, f"{mean[f'{HEADLINE}_low']:.4f} - {mean[f'{HEADLINE}_high']:.4f}")
    return table


def _by_segment(task: str, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{task}: mean of the cuts, by segment", title_justify="left")
    shown = [*_SHOWN, "user_coverage", "pool_recall", "seconds"]
    table.add_column("segment")
    table.add_column("system")
    for name in shown:
        table.add_column(name.replace("_", "\n"), justify="right")
    for segment in dict.fromkeys(row["segment"] for row in rows):
        for row in rows:
            if row["cut"] == MEAN and row["segment"] == segment:
                table.add_row(segment, row["system"], *[_cell(name, row.get(name)) for name in shown])
        table.add_section()
    return table


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if name in ("seconds", "novelty@5") else f"{value:.4f}"


def show(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the tables; as wide as they need when the output is no terminal."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=180)
    for table in tables(rows):
        console.print(table)


def write(rows: Sequence[Row], folder: Path, facts: Mapping[str, Any]) -> None:
    """`report.json` (facts and rows) and `report.csv` (rows) into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps({**facts, "rows": list(rows)}, indent=1, default=str))
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "report.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def day(at: int) -> str:
    """An instant in microseconds as its UTC date."""
    instant = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=at / MICROSECONDS_PER_DAY)
    return instant.date().isoformat()
