"""B5: the online half, replayed. The last 20 % of the events come one after another, in order of time.

Before each event the system predicts, after it the system may learn. Measured twice: the next item by the service's
cascade (lists of the night, blended with the latest events, folded in; HR@10 and NDCG@10 of events drawn evenly), and
how DeepFM predicts each event (progressive AUC, log loss, calibration; equal periods): frozen, updated, trained anew.
Intervals draw customers whole; differences are paired by event. Segments: new customers have no event before the cut,
light ones at most 20 distinct items there.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InputError
from recsys.evaluation import plots
from recsys.evaluation.bootstrap import relative_interval
from recsys.evaluation.metrics import Values
from recsys.keys import parts_of
from recsys.settings import Settings
from recsys.steps.benchmarks import published, replay_lists, replay_models, shop
from recsys.steps.benchmarks.replay_lists import Answered
from recsys.steps.benchmarks.replay_models import Progressive
from recsys.steps.benchmarks.result import Result, Rows
from recsys.types import Catalogue, Interactions

logger = logging.getLogger(__name__)

SHARE = 0.8  # of the events, before the cut
N_PERIODS, QUICK_PERIODS = 10, 2
N_QUERIES, QUICK_QUERIES = 5_000, 300  # events that the service is to predict
QUICK_EVENTS = 20_000
QUICK_PARAMS: Mapping[str, Any] = {"dim": 8, "hidden": (16, 8), "max_epochs": 2, "max_samples_per_epoch": 100_000}
LIGHT = 20  # distinct items before the cut, at most
ALL = "all"
SMALLEST = 30  # events of a segment that is shown


@dataclass(frozen=True)
class Replay:
    """Events in order of time with positive weights, and where they are cut."""

    events: Interactions
    catalogue: Catalogue
    weight_by_type: Mapping[str, float]
    cut_at: int
    starts: Sequence[int]  # of the periods, microseconds; the first is `cut_at`

    @classmethod
    def of(
        cls, events: Interactions, catalogue: Catalogue, weight_by_type: Mapping[str, float], n_periods: int
    ) -> Replay:
        """Cut after SHARE of the events, and into periods of about equally many; InputError where there are too few."""
        kept = events.take((events.weight > 0) & (catalogue.positions(events.item_key) >= 0))
        at = kept.occurred_at
        places = np.linspace(SHARE, 1, n_periods + 1)[:-1] * len(kept)
        starts = np.unique(at[places.astype(np.int64)]).tolist() if len(kept) else []
        if len(starts) < n_periods or starts[0] == int(at[0]):
            raise InputError(f"{len(kept)} events are too few, or too many of one instant, for {n_periods} periods")
        return cls(kept, catalogue, weight_by_type, starts[0], starts)

    @property
    def first(self) -> int:
        """Position of the first event that is replayed."""
        return int(np.searchsorted(self.events.occurred_at, self.cut_at, side="left"))

    def drawn(self, n: int) -> NDArray[np.int64]:
        """Positions of `n` replayed events, evenly spread, ascending."""
        n_replayed = len(self.events) - self.first
        return np.unique(np.linspace(self.first, len(self.events) - 1, min(n, n_replayed)).astype(np.int64))

    def segments(self, rows: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
        """Masks over the events at `rows`, by segment of their users."""
        night = self.events.before(self.cut_at)
        pairs = np.unique(night.pairs)
        n_items = np.bincount(parts_of(pairs)[0], minlength=int(self.events.user_key.max()) + 1)
        of_row = n_items[self.events.user_key[rows]]
        return {
            ALL: np.ones(len(rows), dtype=bool),
            "new": of_row == 0,
            "light": (of_row > 0) & (of_row <= LIGHT),
            "heavy": of_row > LIGHT,
        }


def run(loaded: Settings, path: Path, quick: bool) -> Result:
    """Replay a shop's invoices, MovieLens where `path` is a folder, or a prepared data set (dataset/…)."""
    with shop.prepared(loaded, path, "movielens" if path.is_dir() else "online-retail") as (ctx, ref):
        _, data = ctx.dataset(ref)
        return measured(data.interactions(), data.catalogue(), data.meta.event_weights, loaded.seed, quick)


def measured(
    events: Interactions, catalogue: Catalogue, weight_by_type: Mapping[str, float], seed: int, quick: bool
) -> Result:
    """The whole protocol on events in order of time."""
    if quick:
        events = events.take(np.arange(max(len(events) - QUICK_EVENTS, 0), len(events)))
    whole = Replay.of(events, catalogue, weight_by_type, QUICK_PERIODS if quick else N_PERIODS)
    rows = whole.drawn(QUICK_QUERIES if quick else N_QUERIES)
    arguments = (whole.events, whole.cut_at, whole.starts, catalogue, weight_by_type)
    answers = replay_lists.answered(*arguments, rows)
    params = {"seed": seed, **(QUICK_PARAMS if quick else {})}
    with tempfile.TemporaryDirectory(prefix="recsys-benchmark-") as folder:
        models = replay_models.progressive(*arguments, Path(folder), params)
    n = len(whole.events) - whole.first
    data = f"{whole.first:,} events before the cut, {n:,} replayed in {len(whole.starts)} periods."
    result = Result("B5: the online half, replayed", data, params={"share": SHARE, "deepfm": params})
    lists = _rows_of_lists(answers, whole, rows, seed)
    of_models = _rows_of_models(models, whole, seed)
    periods = _periods(models, whole)
    result.tables = {
        f"Next item of {len(rows):,} events": lists,
        "Progressive prediction by DeepFM": of_models,
        "AUC by period": periods,
        "Published on other data": published.ONLINE,
    }
    result.checks = _checks(answers, models, whole, rows, seed)
    result.metrics = _metrics(lists, of_models)
    curves = {name: [row[name] for row in periods] for name in periods[0] if name != "period"}
    result.figures = {
        "auc": plots.learning_curve(curves, y_label="progressive AUC", x_label="period", title="After the night")
    }
    headline = {row["system"]: row for row in of_models if row["segment"] == ALL}
    result.headline = {name: round(row["AUC"], 4) for name, row in headline.items()}
    return result


def _rows_of_lists(answers: Sequence[Answered], whole: Replay, rows: NDArray[np.int64], seed: int) -> Rows:
    users, found = whole.events.user_key[rows], []
    frozen = next(one for one in answers if one.system == replay_lists.FROZEN)
    for segment, mask in whole.segments(rows).items():
        for one in answers if mask.sum() >= SMALLEST else ():
            row: dict[str, Any] = {"segment": segment, "system": one.system, "events": int(mask.sum())}
            for title, values, reference in (
                ("HR@10", one.hits, frozen.hits),
                ("NDCG@10", one.ndcg, frozen.ndcg),
            ):
                low, high = _interval(values[mask], users[mask], seed)
                row |= {title: float(values[mask].mean()), f"{title} low": low, f"{title} high": high}
                if title == "NDCG@10":
                    row |= _difference(values[mask], reference[mask], users[mask], seed, "frozen lists")
            found.append(row)
    return found


def _rows_of_models(models: Sequence[Progressive], whole: Replay, seed: int) -> Rows:
    rows = np.arange(whole.first, len(whole.events))
    users, found = whole.events.user_key[rows], []
    frozen, anew = (_named(models, name) for name in (replay_models.FROZEN, replay_models.RETRAINED))
    for segment, mask in whole.segments(rows).items():
        for one in models if mask.sum() >= SMALLEST else ():
            low, high = _interval(one.auc[mask], users[mask], seed)
            found.append(
                {
                    "segment": segment,
                    "system": one.system,
                    "events": int(mask.sum()),
                    **{"AUC": float(one.auc[mask].mean()), "AUC low": low, "AUC high": high},
                    **_difference(one.auc[mask], frozen.auc[mask], users[mask], seed, "frozen"),
                    **_difference(one.auc[mask], anew.auc[mask], users[mask], seed, "anew"),
                    "log loss": float(one.logloss[mask].mean()),
                    "calibration": float(one.predicted[mask].sum() / one.observed[mask].sum()),
                    "CPU s": one.seconds if segment == ALL else None,
                }
            )
    return found


def _periods(models: Sequence[Progressive], whole: Replay) -> Rows:
    at = whole.events.occurred_at[whole.first :]
    period = np.searchsorted(np.asarray(whole.starts), at, side="right") - 1
    return [
        {"period": place + 1, **{one.system: float(one.auc[period == place].mean()) for one in models}}
        for place in range(len(whole.starts))
    ]


def _named(models: Sequence[Progressive], name: str) -> Progressive:
    return next(one for one in models if one.system == name)


def _difference(values: Values, reference: Values, users: NDArray[np.int32], seed: int, title: str) -> dict[str, float]:
    """The mean paired difference and its interval."""
    low, high = _interval(values - reference, users, seed)
    return {f"- {title}": float((values - reference).mean()), f"from {title}": low, f"to {title}": high}


def _interval(values: Values, users: NDArray[np.int32], seed: int) -> tuple[float, float]:
    """95 % interval of the mean over events, by drawing whole users: the sum of their values over their number."""
    _, owner = np.unique(users, return_inverse=True)
    n = np.bincount(owner).astype(np.float64)
    low, high = relative_interval(np.bincount(owner, values).astype(np.float64), n, seed=seed, level=0.95)
    return 1 + low, 1 + high


def _checks(
    answers: Sequence[Answered], models: Sequence[Progressive], whole: Replay, rows: NDArray[np.int64], seed: int
) -> list[tuple[str, bool]]:
    """All models judge all events; with the items shuffled over users, following their events is worth nothing."""
    n = len(whole.events) - whole.first
    item = whole.events.item_key.copy()
    item[whole.first :] = np.random.default_rng(seed).permutation(item[whole.first :])
    part = rows[:: max(len(rows) // 500, 1)]
    other = replace(whole.events, item_key=item)
    shuffled = replay_lists.answered(
        other, whole.cut_at, whole.starts, whole.catalogue, whole.weight_by_type, part, only=(replay_lists.SESSIONS,)
    )
    true = next(one for one in answers if one.system == replay_lists.SESSIONS)
    level, without = float(true.hits.mean()), float(shuffled[0].hits.mean())
    text = f"items of the replayed events shuffled: HR@10 of the blend {without:.4f}, else {level:.4f}"
    return [
        (f"events that every model predicted: {n:,}", all(len(one.auc) == n for one in models)),
        (text, without < level),
    ]


def _metrics(lists: Rows, models: Rows) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in lists:
        found |= {f"{row['segment']}.{row['system']}.{name}": row[title] for title, name in _OF_LISTS.items()}
    for row in models:
        found |= {f"{row['segment']}.deepfm {row['system']}.{name}": row[title] for title, name in _OF_MODELS.items()}
    return {name.replace(",", "").replace("'", ""): value for name, value in found.items()}


_OF_LISTS = {"HR@10": "hr@10", "NDCG@10": "ndcg@10"}
_OF_MODELS = {"AUC": "auc", "log loss": "logloss", "calibration": "calibration"}
