"""B3: click probability on Frappe; AUC, log loss and calibration of the test file, which is scored once.

Training negatives are redrawn, so that figures are close to, not equal to, the published protocol. The validation file
stops the trainings; CatBoost with DeepFM's logit is trained on it, since DeepFM knows its own training rows too well.
Intervals draw users whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.candidates.deepfm_calibration import platt
from recsys.errors import InputError
from recsys.evaluation import plots
from recsys.evaluation.binary import auc, auc_draws, log_loss
from recsys.evaluation.bootstrap import ends
from recsys.evaluation.calibration import reliability, sigmoid
from recsys.evaluation.metrics import Values
from recsys.keys import pairs_of
from recsys.settings import Settings
from recsys.steps.benchmarks import published
from recsys.steps.benchmarks.click_data import ITEM, USER, Clicks, Labelled, Rows
from recsys.steps.benchmarks.result import Result

if TYPE_CHECKING:
    from recsys.steps.benchmarks.click_networks import Schedule

logger = logging.getLogger(__name__)

N_SEEDS = 5
QUICK_SEEDS, QUICK_POSITIVES = 2, 8_000
POPULARITY, PAIRS, LINEAR, MACHINE = "app's click rate", "apps of the user, then click rate", "LR", "FM"
FOREST, DEEPFM, MEAN, STACKED = (
    "CatBoost",
    "DeepFM",
    "DeepFM, mean of the seeds, scaled",
    "CatBoost with DeepFM's logit",
)
STACKED_MEAN = "CatBoost with the mean of DeepFM's logits"
FOREST_PARAMS: dict[str, Any] = {"iterations": 200, "learning_rate": 0.15, "depth": 6, "max_ctr_complexity": 2}
_EARLY_STOPPING_ROUNDS = 30
_HELD_OUT = 5  # one of so many rows of the validation file stops the forest that learns from the others
_CHECK_EPOCHS = 2


@dataclass(frozen=True)
class Scored:
    """The logits of one system on the test file, of one or several seeds."""

    system: str
    logits: Values  # (n_seeds, n_test)


def run(loaded: Settings, path: Path, quick: bool) -> Result:
    """Measure all systems on the files in the folder `path`."""
    from recsys.steps.benchmarks import click_networks as networks  # Keras: importing it takes seconds

    clicks = Clicks.read(path)
    if len(np.unique(clicks.test.label)) < 2 or len(np.unique(clicks.validation.label)) < 2:
        raise InputError(f"{path}: validation and test need rows of both kinds")
    if quick:
        clicks = clicks.first(QUICK_POSITIVES)
    epochs = _CHECK_EPOCHS if quick else networks.SCHEDULE.epochs
    schedule = replace(networks.SCHEDULE, epochs=epochs)
    seeds = range(loaded.seed, loaded.seed + (QUICK_SEEDS if quick else N_SEEDS))
    training = clicks.training(loaded.seed)
    of_networks = deep(clicks, training, schedule, seeds)
    found = [*baselines(clicks, training, replace(schedule, l2=networks.L2_SHALLOW), loaded.seed), *of_networks]
    rows = [_row(one, found, clicks.test, loaded.seed) for one in found]
    data = (
        f"{len(training):,} training rows, {len(clicks.validation):,} of validation, {len(clicks.test):,} of the test."
    )
    params = asdict(schedule) | {"l2_shallow": networks.L2_SHALLOW, FOREST: FOREST_PARAMS}
    result = Result("B3: click probability", data, params=params)
    result.tables = {
        "Measured": rows,
        "Each seed": [
            _of_seed(one, at, clicks.test) for one in found if len(one.logits) > 1 for at in range(len(seeds))
        ],
        "Published with other training negatives": published.CLICKS,
    }
    short = replace(schedule, epochs=_CHECK_EPOCHS)
    result.checks = [*_files(clicks, training), *_learned(clicks, training, short, loaded.seed)]
    result.metrics = {
        f"{row['system']}.{metric}": row[title]
        for row in rows
        for title, metric in (("AUC", "auc"), ("log loss", "logloss"), ("ECE", "ece"))
    }
    result.figures = _figures(found, rows, clicks.test)
    by_system = {row["system"]: row for row in rows}
    result.headline = {one: round(by_system[one]["AUC"], 4) for one in (DEEPFM, STACKED, STACKED_MEAN)}
    return result


def baselines(clicks: Clicks, training: Labelled, schedule: Schedule, seed: int) -> list[Scored]:
    """What does without a deep network: two counts, two shallow networks, and CatBoost on the fields."""
    from recsys.steps.benchmarks import click_networks as networks

    found = []
    for name, score in ((POPULARITY, _click_rate(training)), (PAIRS, _own_apps(training))):
        scale, offset = _scaling(score(clicks.validation.rows), clicks.validation.label)
        found.append(Scored(name, scale * score(clicks.test.rows)[None] + offset))
    for name, pairs in ((LINEAR, False), (MACHINE, True)):
        parts = networks.machine(clicks.sizes, schedule, seed, pairs=pairs)
        trained = networks.train(parts, training, clicks.validation, schedule, seed)
        found.append(Scored(name, trained.logits(clicks.test.rows)[None]))
    return [*found, Scored(FOREST, _forest(training, clicks.validation, clicks.test.rows, seed)[None])]


def deep(clicks: Clicks, training: Labelled, schedule: Schedule, seeds: Sequence[int]) -> list[Scored]:
    """DeepFM by seeds, the mean of its logits, and CatBoost with each of these beside the fields."""
    from recsys.steps.benchmarks import click_networks as networks

    logits: dict[str, list[Values]] = {"validation": [], "test": []}
    for seed in seeds:
        parts = networks.deepfm(clicks.sizes, schedule, seed)
        trained = networks.train(parts, training, clicks.validation, schedule, seed)
        logits["validation"].append(trained.logits(clicks.validation.rows))
        logits["test"].append(trained.logits(clicks.test.rows))
    of_validation, of_test = np.stack(logits["validation"]), np.stack(logits["test"])
    both = of_validation.mean(axis=0), of_test.mean(axis=0)
    scale, offset = _scaling(both[0], clicks.validation.label)
    stacked = [
        _stacked(clicks, one, other, seed) for one, other, seed in zip(of_validation, of_test, seeds, strict=True)
    ]
    return [
        Scored(DEEPFM, of_test),
        Scored(MEAN, scale * both[1][None] + offset),
        Scored(STACKED, np.stack(stacked)),
        Scored(STACKED_MEAN, _stacked(clicks, *both, seeds[0])[None]),
    ]


def _click_rate(training: Labelled) -> Callable[[Rows], Values]:
    """Share of an app's training rows that are positive, with one more row of the mean."""
    item = training.rows[:, ITEM]
    n_items = int(item.max()) + 1
    shown, started = np.bincount(item, minlength=n_items), np.bincount(item, training.label, minlength=n_items)
    mean = training.label.mean()
    rate = np.append((started + mean) / (shown + 1), mean)  # the last one: apps without a training row
    return lambda rows: rate[np.minimum(rows[:, ITEM], n_items)]


def _own_apps(training: Labelled) -> Callable[[Rows], Values]:
    """The click rate, and 1 more where the user has started the app in the training part."""
    positives, rate = training.rows[training.label], _click_rate(training)
    used = np.unique(pairs_of(positives[:, USER], positives[:, ITEM]))
    return lambda rows: rate(rows) + np.isin(pairs_of(rows[:, USER], rows[:, ITEM]), used)


def _scaling(score: Values, label: NDArray[np.bool_]) -> tuple[float, float]:
    """Scale and offset that make logits of scores, by Platt's least log loss."""
    scale, offset = platt(score, label, np.full(len(label), 1 / len(label)))
    return float(scale), float(offset)


def _stacked(clicks: Clicks, of_validation: Values, of_test: Values, seed: int) -> Values:
    """Logits of the test by CatBoost on the validation file's fields and DeepFM's logits of it, which are honest."""
    order = np.random.default_rng(seed).permutation(len(clicks.validation))
    held_out, learned = order[::_HELD_OUT], np.delete(order, np.s_[::_HELD_OUT])
    parts = (clicks.validation.take(learned), clicks.validation.take(held_out))
    return _forest(*parts, clicks.test.rows, seed, (of_validation[learned], of_validation[held_out], of_test))


def _forest(
    training: Labelled, held_out: Labelled, rows: Rows, seed: int, logits: tuple[Values, Values, Values] | None = None
) -> Values:
    """Logits of `rows` by CatBoost on the fields, and on `logits` of the three parts where given."""
    from catboost import CatBoostClassifier, Pool

    def pool(at: int, part: Rows, label: NDArray[np.bool_] | None) -> Any:
        frame = pd.DataFrame(part).rename(columns=str)
        names = list(frame.columns)
        if logits is not None:
            frame["logit"] = logits[at]
        return Pool(frame, None if label is None else label.astype(np.int8), cat_features=names)

    model = CatBoostClassifier(
        **FOREST_PARAMS,
        early_stopping_rounds=_EARLY_STOPPING_ROUNDS,
        random_seed=seed,
        allow_writing_files=False,
        verbose=False,
    )
    model.fit(pool(0, training.rows, training.label), eval_set=pool(1, held_out.rows, held_out.label))
    logger.info("CatBoost, seed %d: %d trees", seed, model.tree_count_)
    found: Values = model.predict(pool(2, rows, None), prediction_type="RawFormulaVal")
    return found


def _row(one: Scored, found: Sequence[Scored], test: Labelled, seed: int) -> dict[str, Any]:
    """Means over the seeds, intervals over users, and the paired difference to DeepFM."""
    reference = next(other for other in found if other.system == DEEPFM)
    draws, of_reference = (_draws(each, test, seed) for each in (one, reference))
    aucs = np.array([auc(logits, test.label) for logits in one.logits])
    losses = np.array([log_loss(logits, test.label).mean() for logits in one.logits])
    (low, high), (first, last) = ends(draws), ends(draws - of_reference)
    difference = aucs.mean() - np.mean([auc(logits, test.label) for logits in reference.logits])
    return {
        "system": one.system,
        "seeds": len(one.logits),
        **{"AUC": float(aucs.mean()), "AUC low": low, "AUC high": high, "AUC sd": _spread(aucs)},
        **{"AUC - DeepFM": float(difference), "from": first, "to": last},
        **{"log loss": float(losses.mean()), "log loss sd": _spread(losses)},
        "ECE": float(np.mean([_ece(logits, test) for logits in one.logits])),
    }


def _draws(one: Scored, test: Labelled, seed: int) -> Values:
    of_seeds = [auc_draws(logits, test.label, test.rows[:, USER], seed=seed) for logits in one.logits]
    return np.mean(of_seeds, axis=0)


def _spread(values: Values) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _ece(logits: Values, test: Labelled) -> float:
    return reliability(sigmoid(logits), test.label).error


def _of_seed(one: Scored, at: int, test: Labelled) -> dict[str, Any]:
    logits = one.logits[at]
    figures = {"AUC": auc(logits, test.label), "log loss": float(log_loss(logits, test.label).mean())}
    return {"system": one.system, "seed": at, **figures, "ECE": _ece(logits, test)}


def _files(clicks: Clicks, training: Labelled) -> list[tuple[str, bool]]:
    """No test row is a training positive, and hardly a negative that was drawn is a positive of the test."""
    of_test = {row.tobytes() for row in clicks.test.rows}
    repeated = sum(row.tobytes() in of_test for row in clicks.positives)
    started = {row.tobytes() for row in clicks.test.rows[clicks.test.label]}
    drawn = training.rows[~training.label]
    n = sum(row.tobytes() in started for row in drawn)
    return [
        (f"rows of the test among the {len(clicks.positives):,} training positives: {repeated}", repeated == 0),
        (f"positives of the test among the {len(drawn):,} negatives drawn: {n}", n < 0.005 * len(drawn)),
    ]


def _learned(clicks: Clicks, training: Labelled, schedule: Schedule, seed: int) -> list[tuple[str, bool]]:
    """Nothing can be learned of shuffled labels; and rows of the test that are learned are seen in the figures."""
    from recsys.steps.benchmarks import click_networks as networks

    shuffled = Labelled(training.rows, np.random.default_rng(seed).permutation(training.label))
    found = []
    for part in (shuffled, training, training.joined(clicks.test)):
        trained = networks.train(networks.deepfm(clicks.sizes, schedule, seed), part, clicks.validation, schedule, seed)
        found.append(auc(trained.logits(clicks.test.rows), clicks.test.label))
    nothing, clean, leaked = found
    text = f"a leak planted, the test among the training rows, {schedule.epochs} epochs: AUC {leaked:.4f}"
    return [
        (f"training labels shuffled: AUC of DeepFM {nothing:.4f}", abs(nothing - 0.5) < 0.05),
        (f"{text}, without {clean:.4f}", leaked > clean + 0.005),
    ]


def _figures(found: Sequence[Scored], rows: Sequence[dict[str, Any]], test: Labelled) -> dict[str, Any]:
    values = {row["system"]: row["AUC"] for row in rows}
    intervals = {row["system"]: (row["AUC low"], row["AUC high"]) for row in rows}
    bins = {one.system: reliability(sigmoid(one.logits[0]), test.label) for one in found}
    return {
        "auc": plots.comparison(values, metric="AUC", intervals=intervals),
        "calibration": plots.reliability_diagram({"test": bins}),
    }
