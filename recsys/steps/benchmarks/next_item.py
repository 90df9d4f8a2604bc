"""B1 and B2: the next item of every sequence, leave the last out, the whole catalogue ranked, own items masked.

Columns, which are never mixed:
- *order-blind*: strict, and nothing may use the direction of a pair: rules are made symmetric, networks left out;
- *strict*: everything is learned from all but the last two items; the input is all but the last (published rows);
- *refit*: learned from all but the last, as a night does;
- *time split*, of films, whose times are known: everything before one instant is learned, and everybody's next film
  after it is the label.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.candidates.popular import Popular
from recsys.candidates.registry import NETWORKS
from recsys.data import sequences
from recsys.data.dataset import Dataset
from recsys.data.sequences import PLACE, SequenceTable
from recsys.errors import InputError, TooFewLabelsError
from recsys.evaluation import plots, report
from recsys.evaluation.bootstrap import interval
from recsys.evaluation.metrics import Labels, accuracy
from recsys.evaluation.protocol import seen_items
from recsys.evaluation.report import Measured
from recsys.settings import Settings
from recsys.steps.benchmarks import published
from recsys.steps.benchmarks.leaks import what_leaks
from recsys.steps.benchmarks.result import Result
from recsys.steps.evaluate import TWO_STAGE, Outcome, Plan, measure
from recsys.steps.fits import Fits, FitStore
from recsys.steps.recipe import ranker_params
from recsys.steps.stages import usable
from recsys.types import MICROSECONDS_PER_DAY, Task

logger = logging.getLogger(__name__)

PLACE_DAYS = PLACE / MICROSECONDS_PER_DAY
SPLIT_SHARE, SPLIT_DAYS = 0.9, 30.0  # of the time split
FILM_COLUMNS = ("UserID", "MovieID", "pos_in_user")
FILM_TIMES = ("Timestamp", "timestamp_lo", "timestamp_hi")  # seconds: the instant where it is known, and its bounds
METRICS = {"HR@10": "recall@10", "NDCG@10": "ndcg@10"}
QUICK_USERS, QUICK_EVENTS = 1_500, 60_000  # at most
N_SHUFFLES = 10
QUICK_RANKER: dict[str, Any] = {"iterations": 60, "n_models": 1, "max_rows": 200_000}
SYMMETRIC: Mapping[str, Mapping[str, Any]] = {"covisitation": {"backward": 1.0}, "next_item": {"backward": 1.0}}


Instants = NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """One protocol, and what was measured by it."""

    name: str
    data: Dataset
    outcome: Outcome

    @property
    def by_system(self) -> dict[str, Measured]:
        return {one.source: one for one in self.outcome.measured}


def columns_of(plan: Plan) -> dict[str, Plan]:
    """The plan of each column."""
    strict = replace(plan, lag_days=PLACE_DAYS)
    params = {name: {**plan.generator_params.get(name, {}), **SYMMETRIC.get(name, {})} for name in plan.generators}
    ordered = [name for name in plan.generators if name not in NETWORKS]
    return {
        "order-blind": replace(strict, generators=ordered, generator_params=params),
        published.STRICT: strict,
        published.REFIT: plan,
    }


def sequences_of_a_file(loaded: Settings, path: Path, quick: bool) -> Result:
    """B1."""
    return _run("B1: the next item of sequences", sequences.read(path), loaded, quick)


def movielens_1m(loaded: Settings, path: Path, quick: bool) -> Result:
    """B2; a part of the users has too few events after an instant for the split by time."""
    table, at = films(path)
    return _run("B2: the next film", table, loaded, quick, None if quick else at)


def films(path: Path) -> tuple[SequenceTable, Instants | None]:
    """The sequences of `ratings.parquet`: UserID, MovieID and `pos_in_user`, the order of each user's ratings.

    And when each was (n,), microseconds: the known instant, or the earliest possible one that keeps the order; None
    where the file has no times. Raises InputError.
    """
    try:
        there = set(pq.read_schema(path).names)
        times = [name for name in FILM_TIMES if name in there]
        rows = pq.read_table(path, columns=[*FILM_COLUMNS, *times]).to_pandas()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no Parquet file with {', '.join(FILM_COLUMNS)}: {error}") from error
    rows = rows.sort_values(["UserID", "pos_in_user"], kind="stable")
    users, at_user = np.unique(rows["UserID"], return_inverse=True)
    items, at_item = np.unique(rows["MovieID"], return_inverse=True)
    table = SequenceTable(at_user.astype(np.int32), at_item.astype(np.int32), [*map(str, users)], [*map(str, items)])
    known = rows[times].bfill(axis=1).iloc[:, 0] if times else None
    if known is None or known.isna().any():
        return table, None
    rising = known.groupby(rows["UserID"]).cummax()
    return table, (rising.to_numpy() * 1e6).astype(np.int64)


def _run(title: str, table: SequenceTable, loaded: Settings, quick: bool, at: Instants | None = None) -> Result:
    if int(table.place.max()) < 4:
        raise InputError(
            "no sequence is longer than four items; a training window, a test item and a history need five"
        )
    known = published.recognised(len(table.user_ids), len(table.item_ids), len(table.user))
    if quick:
        n_users = min(QUICK_USERS, QUICK_EVENTS * len(table.user_ids) // len(table.user))
        table = thinned(table, max(n_users, 1), loaded.seed)
    plan = _plan(loaded, len(table.item_ids), quick)
    with tempfile.TemporaryDirectory(prefix="recsys-benchmark-") as folder:
        try:
            columns = measured(table, plan, Path(folder))
        except TooFewLabelsError as error:
            raise InputError(
                "nobody's item at some place from the end is new to them; to leave the last out needs sequences of"
                f" different items, longer than the {plan.training_windows + 2} last places"
            ) from error
        if at is not None:
            columns.append(time_split(table, at, plan, Path(folder)))
        passed = checks(columns, None if quick else known, loaded.seed)
        cheap = [name for name in plan.generators if name not in NETWORKS]
        leaking = what_leaks(table, cheap, Fits(plan.generator_params, {}), Path(folder) / "leaks", loaded.seed)
    text = f"lists and features that change with everybody's last item: {', '.join(leaking) or 'none'}"
    passed.append((text, not leaking))
    counts = f"{len(table.user_ids):,} users, {len(table.item_ids):,} items, {len(table.user):,} interactions."
    rows = rows_of(columns, loaded.seed)
    result = Result(title, f"{known.title}: {counts}" if known else counts, checks=passed, params=asdict(plan))
    result.tables = {
        "Measured": rows,
        "Published": published.rows_of(known),
        "What each generator brings to the pool": [
            {"column": column.name, **row} for column in columns for row in column.outcome.rankers[-1]["pool"]
        ],
    }
    result.metrics = {f"{r['column']}.{r['system']}.{m}": r[t] for r in rows for t, m in METRICS.items()}
    for column in columns:
        own = [row for row in rows if row["column"] == column.name]
        means = {row["system"]: row["NDCG@10"] for row in own}
        intervals = {row["system"]: (row["NDCG@10 low"], row["NDCG@10 high"]) for row in own}
        result.figures[f"ndcg_{column.name}"] = plots.comparison(
            means, metric="NDCG@10", intervals=intervals, title=f"{title}, {column.name}"
        )
        result.headline[column.name] = {t: round(r[t], 4) for t in METRICS for r in own if r["system"] == TWO_STAGE}
    return result


def _plan(loaded: Settings, n_items: int, quick: bool) -> Plan:
    """The settings' plan as this protocol has it: one cut, windows of one place."""
    names = [name for name in loaded.generators if not (quick and name in NETWORKS)]
    ranker = ranker_params(loaded, QUICK_RANKER if quick else {})
    return Plan(
        generators=usable(names, loaded.generator_params, n_items),
        generator_params=loaded.generator_params,
        ranker=ranker,
        training_windows=2 if quick else loaded.n_label_windows,
        cuts=1,
        days=PLACE_DAYS,
        tasks=(Task.DISCOVERY,),
        seed=loaded.seed,
    )


def measured(table: SequenceTable, plan: Plan, folder: Path) -> list[Column]:
    """Measure each column; `folder` takes the data set and the fits that several columns share: those of strict, a
    place earlier, are those of refit."""
    (folder / "data").mkdir()
    data, found = sequences.dataset(table, folder / "data"), []
    store = FitStore(folder / "fits")
    for name, one in columns_of(plan).items():
        logger.info("column %s", name)
        found.append(Column(name, data, measure(data, one, store)))
    return found


def time_split(table: SequenceTable, at: Instants, plan: Plan, folder: Path) -> Column:
    """Measure the global split by time, trained on label windows of equal length before it."""
    logger.info("column %s", published.TIME_SPLIT)
    (folder / "split").mkdir()
    kept, instants, end_at = sequences.split_by_time(table, at, SPLIT_SHARE, SPLIT_DAYS)
    data = sequences.timed_dataset(kept, instants, end_at, folder / "split")
    return Column(published.TIME_SPLIT, data, measure(data, replace(plan, days=SPLIT_DAYS)))


def thinned(table: SequenceTable, n_users: int, seed: int) -> SequenceTable:
    """The sequences of a random part of the users, and their items."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(table.user_ids))[:n_users])
    kept = np.isin(table.user, chosen)
    user = np.searchsorted(chosen, table.user[kept]).astype(np.int32)
    items, item = np.unique(table.item[kept], return_inverse=True)
    item_ids = [table.item_ids[at] for at in items.tolist()]
    return SequenceTable(user, item.astype(np.int32), [table.user_ids[at] for at in chosen.tolist()], item_ids)


def rows_of(columns: Sequence[Column], seed: int) -> list[dict[str, Any]]:
    """A row for each column and system: figures with intervals, and the difference to the best single stage."""
    rows = []
    for column in columns:
        singles = {name: one for name, one in column.by_system.items() if name != TWO_STAGE}
        best = max(singles.values(), key=lambda one: one.values[report.HEADLINE].mean())
        for name, one in column.by_system.items():
            row: dict[str, Any] = {"column": column.name, "system": name, "users": len(one.ground.labels)}
            for title, metric in METRICS.items():
                low, high = interval(one.values[metric], seed=seed)
                row |= {title: float(one.values[metric].mean()), f"{title} low": low, f"{title} high": high}
            difference = one.values[report.HEADLINE] - best.values[report.HEADLINE]
            low, high = interval(difference, seed=seed)
            row |= {"best stage": best.source, "difference": float(difference.mean()), "from": low, "to": high}
            rows.append(row | {"seconds": round(one.seconds, 1)})
    return rows


def checks(columns: Sequence[Column], known: published.Known | None, seed: int) -> list[tuple[str, bool]]:
    """What must hold if the harness is right: (what was seen, whether that is right)."""
    found = []
    for column in columns:
        popular, ranked = (column.by_system[name] for name in ("popular", TWO_STAGE))
        shuffled, level = (_on_shuffled_labels(one, seed) for one in (ranked, popular))
        error = 3 * np.sqrt(2 * max(level, 1e-4) / len(popular.ground.labels))  # three standard errors of a difference
        text = (
            f"{column.name}: labels shuffled over users, HR@10 of the two stages {shuffled:.4f}, popularity {level:.4f}"
        )
        found.append((text, shuffled <= level + error))
        if known and known.popularity and column.name == published.STRICT:
            clean = _counts_alone(column)
            right = all(abs(a - b) < 5e-4 for a, b in zip(clean, known.popularity, strict=True))
            text = "strict: popularity by counts of training rows {:.4f}/{:.4f}, published {:.4f}/{:.4f}"
            found.append((text.format(*clean, *known.popularity), right))
    return found


def _on_shuffled_labels(one: Measured, seed: int) -> float:
    """HR@10 with every user's labels given to another, mean of several shuffles."""
    labels, rng = one.ground.labels, np.random.default_rng(seed)
    found = []
    for _ in range(N_SHUFFLES):
        moved = Labels.from_pairs(labels.user_key[labels.row], rng.permutation(labels.item_key))
        found.append(float(accuracy(one.lists, moved)["recall@10"].mean()))
    return float(np.mean(found))


def _counts_alone(column: Column) -> tuple[float, float]:
    """HR@10 and NDCG@10 of items by how many training rows they have, all but everybody's last two."""
    labels = column.by_system[TWO_STAGE].ground.labels
    events, end_at = column.data.interactions(), column.data.meta.as_of
    model = Popular(half_life_days=1e9, all_time_share=0.0)
    model.fit(events.before(end_at - 2 * PLACE), column.data.catalogue())
    history = events.before(end_at - PLACE)
    seen = seen_items(history, labels.user_key, int(events.item_key.max()) + 1)
    values = accuracy(model.candidates(labels.user_key, 10, seen=seen).item_key, labels)
    return float(values["recall@10"].mean()), float(values["ndcg@10"].mean())
