"""What an evaluation found: one row for each task, cut, segment and system, and files of them.

Rows of a cut have the interval of the headline metric; those of the mean of the cuts that of every mean over users, and
the difference to the best single stage. Shares of the catalogue and concentration belong to all lists together and have
none: with users drawn twice they would be others.
"""

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
from scipy.sparse import csr_array

from recsys.evaluation import beyond, metrics
from recsys.evaluation.bootstrap import ends, interval, resampled_means
from recsys.evaluation.metrics import Labels, Values
from recsys.evaluation.pools import PoolHits
from recsys.types import MICROSECONDS_PER_DAY, Keys

MEAN = "mean"
ALL = "all"
HEADLINE = "ndcg@10"
TWO_STAGE = "two-stage"  # every other system is a single stage
AS_LEARNED = f"{TWO_STAGE} as learned"  # its probabilities, without any correction
BEYOND = (
    *("novelty@5", "diversity@10", "category_diversity@10", "serendipity@10", "item_coverage", "top_1%_share", "gini"),
    "personalisation",
)
POOL = ("pool_recall", "missed", "missed_new_items", "missed_tail_items", "unknown_items")  # of the two-stage system
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
    expected: Keys | None = None  # (n_users, k): what popularity proposes
    owners: csr_array | None = None  # `beyond.owners_of` the history
    category: NDArray[np.integer] | None = None  # by item key, -1 where unknown; None where no item has one


@dataclass
class Measured:
    """The lists of one system at one cut, measured; `values` are per user (n_users,)."""

    ground: Ground
    source: str
    lists: Keys  # (n_users, k)
    seconds: float  # fitting included
    pool: PoolHits | None = None  # of the two-stage system
    values: dict[str, Values] = field(init=False)

    def __post_init__(self) -> None:
        ground, lists = self.ground, self.lists
        self.values = metrics.accuracy(lists, ground.labels)
        self.values["novelty@5"] = metrics.novelty(lists, ground.n_users_by_item, ground.n_users)
        if ground.owners is not None:
            self.values["diversity@10"] = beyond.diversity(lists, ground.owners)
        if ground.category is not None:
            self.values["category_diversity@10"] = beyond.category_diversity(lists, ground.category)
        if ground.expected is not None:
            self.values["serendipity@10"] = beyond.serendipity(lists, ground.expected, ground.labels)
        if self.pool is not None:
            self.values["pool_recall"] = self.pool.recall

    def row(self, segment: str, mask: NDArray[np.bool_], seed: int) -> Row:
        """Means over the users of a segment, with the interval of the headline metric."""
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
            **self._of_all_lists(self.lists[mask]),
            **(self.pool.missed(mask) if self.pool is not None else {}),
            "seconds": round(self.seconds, 2),
        }

    def _of_all_lists(self, lists: Keys) -> Row:
        n_items, personal = self.ground.n_items, beyond.personalisation(lists)
        return {
            "item_coverage": metrics.item_coverage(lists, n_items),
            "user_coverage": metrics.user_coverage(lists),
            "top_1%_share": metrics.top_item_share(lists, n_items),
            "gini": beyond.gini(lists, n_items),
            "personalisation": None if np.isnan(personal) else personal,
        }


@dataclass(frozen=True)
class _Part:
    """A system on the users of a segment at one cut."""

    one: Measured
    mask: NDArray[np.bool_]
    row: Row


def rows_of(measured: Sequence[Measured], *, seed: int = 0) -> list[Row]:
    """A row for each measurement and segment, then for each task, segment and system their mean over the cuts.

    The intervals of a mean are those of the average of the cuts' means, users drawn whole over all cuts. All rows have
    the same columns, None where there is nothing to say.
    """
    groups: dict[tuple[str, str], dict[str, list[_Part]]] = {}
    for one in measured:
        everyone = np.ones(len(one.ground.labels), dtype=bool)
        for segment, mask in {ALL: everyone, **one.ground.segments}.items():
            if mask.any():
                by_system = groups.setdefault((one.ground.task, segment), {})
                by_system.setdefault(one.source, []).append(_Part(one, mask, one.row(segment, mask, seed)))
    rows = [part.row for by_system in groups.values() for parts in by_system.values() for part in parts]
    for by_system in groups.values():
        rows += _mean_rows(by_system, seed)
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def _mean_rows(by_system: Mapping[str, Sequence[_Part]], seed: int) -> list[Row]:
    """The means of all systems of a task on a segment, with intervals, and paired differences to the best single one.

    The best is chosen by the same users: its mean is a little too high, and the differences to it a little too low.
    """
    found = {name: _mean_row(parts, seed) for name, parts in by_system.items()}
    single = [name for name in found if name != TWO_STAGE]
    if single:
        best, drawn_of_best = found[max(single, key=lambda name: found[name][0][HEADLINE])]
        for row, drawn in found.values():
            row["best_stage"], row["difference"] = best["system"], row[HEADLINE] - best[HEADLINE]
            row["difference_low"], row["difference_high"] = ends(drawn - drawn_of_best)
    return [row for row, _ in found.values()]


def _mean_row(parts: Sequence[_Part], seed: int) -> tuple[Row, Values]:
    """The mean of the cuts, and the resampled means of the headline metric, (n_resamples,)."""
    rows = [part.row for part in parts]
    mean: Row = {**rows[0], "cut": MEAN, "users": sum(row["users"] for row in rows)}
    for name in dict.fromkeys(name for row in rows for name in row):
        numbers = [row[name] for row in rows if isinstance(row.get(name), float)]
        if numbers:
            mean[name] = float(np.mean(numbers))
    names = list(dict.fromkeys(name for part in parts for name in part.one.values))
    drawn = resampled_means(
        [_columns(part, names) for part in parts],
        [part.one.ground.labels.user_key[part.mask] for part in parts],
        seed=seed,
    )
    for name, means in zip(names, drawn.T, strict=True):
        low, high = ends(means)
        mean[f"{name}_low"], mean[f"{name}_high"] = (low, high) if mean.get(name) is not None else (None, None)
    return mean, drawn[:, names.index(HEADLINE)]


def _columns(part: _Part, names: Sequence[str]) -> Values:
    unknown = np.full(int(part.mask.sum()), np.nan)
    values = part.one.values
    return np.stack([values[name][part.mask] if name in values else unknown for name in names], axis=1)


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
