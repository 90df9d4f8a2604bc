"""The ranker: gradient boosting over the candidates' features (CatBoost; Prokhorenkova et al. 2018).

By default one loss, a classification's (Logloss of "will be bought"): it won each time that a ranking loss (YetiRank;
Gulin et al. 2011) was trained beside it. Where several are set, the one with the best NDCG@10 on the validation users
is kept. A blend of the generators (`blend`) is tried beside them, and ranks where it is better: with few labels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recsys import log
from recsys.errors import ArtifactError, InputError, ModelError, TooFewLabelsError
from recsys.evaluation.metrics import Labels, accuracy
from recsys.keys import runs
from recsys.parameters import Count, NotNegative, Positive, Seed
from recsys.ranking.blend import Blend
from recsys.ranking.frame import Frame
from recsys.types import Scores

logger = logging.getLogger(__name__)

MODEL_FILE = "ranker.cbm"
DESCRIPTION_FILE = "ranker.json"
BLEND = "blend"  # in place of a loss
_AVERAGED_ROWS = 600_000  # of all averaged models together: with many rows each, a second brings nothing
_LOSS_OPTIONS = {"YetiRank": "YetiRank:permutations=3"}  # the default of 10 takes twice as long


@dataclass(frozen=True)
class RankerParams:
    """Hyper-parameters; the defaults were chosen on windows before the first cutoff of protocol B4 and on the second
    last items of B1."""

    # the better on validation is kept
    losses: Annotated[tuple[Literal["Logloss", "YetiRank"], ...], Field(min_length=1)] = ("Logloss",)
    iterations: Count = 1000
    learning_rate: Positive = 0.05
    depth: Annotated[int, Field(ge=1, le=16)] = 6
    l2_leaf_reg: NotNegative = 10.0
    column_share: Annotated[float, Field(gt=0, le=1)] = 0.3  # of the features, sampled for each split
    early_stopping_rounds: Count = 50
    n_models: Count = 3  # averaged, fewer where rows are many; with the chosen loss and number of trees, on all users
    max_negatives: Count = 50  # per user and window, beside all positives
    max_rows: Count = 600_000  # training rows of all windows together; further users are left out
    threads: Literal[-1] | Count = -1  # all cores
    seed: Seed = 42

    def __post_init__(self) -> None:
        object.__setattr__(self, "losses", tuple(self.losses))  # also from a JSON list
        if not self.losses or self.n_models < 1:
            raise InputError("the ranker needs at least one model and one loss, Logloss or YetiRank")


@dataclass(frozen=True)
class Examples:
    """Labelled rows, grouped by user and window."""

    frame: Frame  # (n_rows, n_features)
    label: NDArray[np.bool_]  # (n_rows,)
    group: NDArray[np.int64]  # (n_rows,), ascending: one number for each user and window
    user_key: NDArray[np.int32]  # (n_rows,)

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: NDArray[Any]) -> Examples:
        """The rows selected by a mask."""
        return Examples(self.frame.take(rows), self.label[rows], self.group[rows], self.user_key[rows])

    def thinned(self, max_negatives: int, seed: int) -> Examples:
        """All positives, and at most `max_negatives` random negatives of each group."""
        lottery = np.where(self.label, -1.0, np.random.default_rng(seed).random(len(self)))
        order = np.lexsort((lottery, self.group))  # positives first within each group
        group = self.group[order]
        place = runs(group)[1]
        n_positive = np.bincount(self.group[self.label], minlength=int(self.group.max(initial=-1)) + 1)
        return self.take(np.sort(order[place < n_positive[group] + max_negatives]))

    @staticmethod
    def concatenate(parts: Sequence[Examples]) -> Examples:
        """Examples of several windows as one; group numbers are offset."""
        if not parts:
            raise TooFewLabelsError(
                "no user has a label among the candidates: the ranker has nothing to learn from; load a longer history,"
                " or use longer or more label windows (RECSYS_LABEL_WINDOW_DAYS, RECSYS_N_LABEL_WINDOWS)"
            )
        offsets = np.cumsum([0, *[int(part.group.max(initial=-1)) + 1 for part in parts[:-1]]])
        return Examples(
            Frame(parts[0].frame.names, np.concatenate([part.frame.matrix for part in parts])),
            np.concatenate([part.label for part in parts]),
            np.concatenate([part.group + offset for part, offset in zip(parts, offsets, strict=True)]),
            np.concatenate([part.user_key for part in parts]),
        )


@dataclass
class Ranker:
    """A trained ranker. `report`: loss, validation metrics, number of trees and rows, feature importance."""

    names: tuple[str, ...]
    model: Any  # catboost.CatBoost, or Blend
    report: dict[str, Any] = field(default_factory=dict)

    def score(self, frame: Frame) -> Scores:
        """Scores of candidates (n_rows,), comparable within a user only.

        Raises InputError when the features differ from those of the training, ModelError when a score is not finite.
        """
        if frame.names != self.names:
            missing, new = set(self.names) - set(frame.names), set(frame.names) - set(self.names)
            raise InputError(
                f"the ranker was trained on other features (missing: {sorted(missing)}, new: {sorted(new)},"
                " or in another order); train it again with the current generators and features"
            )
        if not len(frame.matrix):
            return np.zeros(0, dtype=np.float32)
        scores = _logits(self.model, frame.matrix).astype(np.float32)
        if not np.isfinite(scores).all():
            raise ModelError("the ranker gives scores that are not finite; keep the previous one and train again")
        return scores

    def save(self, folder: Path) -> None:
        """Write `ranker.cbm` or `blend.json`, and `ranker.json`, into an existing folder."""
        if isinstance(self.model, Blend):
            self.model.save(folder)
        else:
            self.model.save_model(str(folder / MODEL_FILE))
        description = {"names": self.names, "report": self.report}
        (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """Read what `save` wrote; ArtifactError when it is missing or unreadable."""
        from catboost import CatBoost, CatBoostError

        try:
            description = json.loads((folder / DESCRIPTION_FILE).read_text())
            is_blend = description["report"].get("loss") == BLEND
            model = Blend.load(folder) if is_blend else CatBoost().load_model(str(folder / MODEL_FILE))
        except (OSError, ValueError, CatBoostError) as error:
            raise ArtifactError(f"no ranker can be read from {folder}: {error}; train it again") from error
        return cls(tuple(description["names"]), model, description["report"])


def train(training: Examples, validation: Examples, params: RankerParams) -> Ranker:
    """Train with each loss, and the blend; select the best on `validation`, and train it on all users.

    `validation`: whole pools of other users. Raises TooFewLabelsError when a part has no positive or no negative,
    ModelError when all scores are equal.
    """
    for name, part in (("training", training), ("validation", validation)):
        if not part.label.any() or part.label.all():
            raise TooFewLabelsError(
                f"the ranker's {name} rows need both bought and not bought candidates; load more history"
            )
    # negatives sampled as in training: its probabilities would be miscalibrated on whole pools
    stopping = validation.thinned(params.max_negatives, params.seed)
    tried: dict[str, dict[str, Any]] = {}
    for loss in params.losses:
        logger.info("ranker: trying %s, on %d rows", loss, len(training))
        model = _fit(training, stopping, params, loss, params.iterations)
        tried[loss] = {
            "ndcg@10": float(mean_ndcg(np.asarray(model.predict(validation.frame.matrix)), validation)),
            "trees": int(model.tree_count_),
            "curve": _curve(model),
        }
    blend = Blend.fit(training.frame.names, training.frame.matrix, training.label)
    if any(blend.weight):  # there are columns of generators, and they tell candidates apart
        ndcg = float(mean_ndcg(blend.predict(validation.frame.matrix), validation))
        tried[BLEND] = {"ndcg@10": ndcg, "trees": 0, "curve": []}
    best = max(tried, key=lambda loss: tried[loss]["ndcg@10"])
    found = {
        "loss": best,
        "why": "; ".join(f"{loss}: NDCG@10 {figures['ndcg@10']:.4f} on validation" for loss, figures in tried.items()),
        "validation": tried,
        "n_trees": max(tried[best]["trees"], 1),
        "params": asdict(params),
    }
    return refit(training, validation, params, found)


def refit(training: Examples, validation: Examples, params: RankerParams, found: Mapping[str, Any]) -> Ranker:
    """Train on all users with the loss and the number of trees in `found`, the report of a training: the mean of up to
    `params.n_models` models, or a blend.

    Raises ModelError when all scores are equal.
    """
    stopping = validation.thinned(params.max_negatives, params.seed)
    loss = found["loss"]
    everything = Examples.concatenate([training, stopping])
    chosen: Any
    if loss == BLEND:
        chosen = Blend.fit(everything.frame.names, everything.frame.matrix, everything.label)
    else:
        chosen = _average(everything, params, loss, found["n_trees"])
    ranker = Ranker(training.frame.names, chosen)
    if np.ptp(ranker.score(validation.frame)) == 0:
        raise ModelError("the ranker gives every candidate the same score: its features do not distinguish them")
    ranker.report = {
        **found,
        "n_training_rows": len(training),
        "n_validation_rows": len(validation),
        "importance": _importance(ranker, stopping, loss),
    }
    return ranker


def _importance(ranker: Ranker, examples: Examples, loss: str) -> dict[str, float]:
    """Feature → importance, the greatest first: of trees in per cent, of a blend its weights."""
    if isinstance(ranker.model, Blend):
        pairs = list(zip(ranker.model.names, ranker.model.weight, strict=True))
    else:
        values = ranker.model.get_feature_importance(_data(examples, loss), type="PredictionValuesChange")
        pairs = list(zip(ranker.names, map(float, values), strict=True))
    return dict(sorted(pairs, key=lambda pair: pair[1], reverse=True))


def _logits(model: Any, matrix: NDArray[np.float32]) -> NDArray[Any]:
    if isinstance(model, Blend):
        return model.predict(matrix)
    return np.asarray(model.predict(matrix, prediction_type="RawFormulaVal"))


def mean_ndcg(scores: NDArray[Any], examples: Examples, k: int = 10) -> float:
    """Mean NDCG@k of the groups with a positive, candidates ordered by `scores` (n_rows,)."""
    order = np.lexsort((-scores, examples.group))
    group = examples.group[order]
    place = runs(group)[1]
    positive = np.unique(examples.group[examples.label])
    keep = (place < k) & np.isin(group, positive)
    lists = np.full((len(positive), k), -1, dtype=np.int32)
    lists[np.searchsorted(positive, group[keep]), place[keep]] = order[keep]  # the row number serves as the item
    rows = np.flatnonzero(examples.label)
    labels = Labels.from_pairs(np.searchsorted(positive, examples.group[rows]), rows)
    return float(accuracy(lists, labels, (k,))[f"ndcg@{k}"].mean())


def _data(examples: Examples, loss: str) -> Any:
    from catboost import Pool as CatBoostPool

    groups = None if loss == "Logloss" else examples.group
    return CatBoostPool(
        examples.frame.matrix, examples.label.astype(np.int8), group_id=groups, feature_names=list(examples.frame.names)
    )


def _fit(training: Examples, validation: Examples | None, params: RankerParams, loss: str, iterations: int) -> Any:
    from catboost import CatBoost, CatBoostError

    model = CatBoost(
        {
            "loss_function": _LOSS_OPTIONS.get(loss, loss),
            **({} if loss == "Logloss" else {"eval_metric": "NDCG:top=10;type=Base"}),
            "iterations": iterations,
            "learning_rate": params.learning_rate,
            "depth": params.depth,
            "l2_leaf_reg": params.l2_leaf_reg,
            "rsm": params.column_share,
            "random_seed": params.seed,
            "thread_count": params.threads,
            "allow_writing_files": False,
            "logging_level": "Silent",
        }
    )
    stopping: dict[str, Any] = {}
    if validation is not None:
        stopping = {"eval_set": _data(validation, loss), "use_best_model": True}
        stopping["early_stopping_rounds"] = params.early_stopping_rounds
    try:
        return model.fit(_data(training, loss), callbacks=[_Progress(loss, iterations)], **stopping)
    except CatBoostError as error:
        raise ModelError(f"the ranker cannot be trained ({loss}): {error}") from error


class _Progress:
    """Logs the number of trees at intervals; CatBoost's callback after each."""

    def __init__(self, loss: str, n_trees: int) -> None:
        self._loss, self._n_trees, self._pace = loss, n_trees, log.Pace()

    def after_iteration(self, info: Any) -> bool:
        if self._pace.is_due():
            logger.info("ranker, %s: tree %d of at most %d", self._loss, info.iteration, self._n_trees)
        return True  # continue


def _average(examples: Examples, params: RankerParams, loss: str, n_trees: int) -> Any:
    """One model with the mean score of up to `n_models` that differ in the seed only: less variance."""
    from catboost import sum_models

    n_models = max(min(params.n_models, _AVERAGED_ROWS // max(len(examples), 1)), 1)
    models = []
    for i in range(n_models):
        logger.info("ranker: model %d of %d, of %d trees, from all users", i + 1, n_models, n_trees)
        models.append(_fit(examples, None, replace(params, seed=params.seed + i), loss, n_trees))
    return sum_models(models, weights=[1 / len(models)] * len(models)) if len(models) > 1 else models[0]


def _curve(model: Any) -> list[float]:
    """The validation metric after each tree."""
    values = next(iter(model.get_evals_result()["validation"].values()))
    return [float(value) for value in values]
