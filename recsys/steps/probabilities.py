"""The probabilities of the ranker and of DeepFM on the candidates that an evaluation ranks, and what they mean.

The ranker learns "will be bought" from users who buy some of their candidates, with at most `max_negatives` of the
others. Its logits are corrected for the share of negatives that it saw (`calibration.all_negatives`); so its
probability is that a candidate is bought in the window by a user who buys at least one candidate, and it is judged on
the whole pools of those users. What it says without the correction is judged beside it. A ranking loss gives no
probability.

DeepFM's probability has the prior that a pair is as likely observed as drawn evenly from the catalogue (decision 0008).
Here the prior is that of a catalogue item to be bought by a user who buys something, from the labels of the windows
that the ranker learned from; it is judged on all users with labels. It knows events of all types, and repeats too,
where the task is discovery; and it tells users apart no better than its logits, which were learned within users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.candidates.deepfm_calibration import PRIOR, UNCALIBRATED
from recsys.evaluation import calibration
from recsys.evaluation.calibration import Mask, Predicted
from recsys.evaluation.metrics import Labels
from recsys.evaluation.pools import NO_LABELS, PoolCount
from recsys.evaluation.report import AS_LEARNED, TWO_STAGE
from recsys.keys import pairs_of
from recsys.ranking.pool import Pool
from recsys.ranking.ranker import BLEND, Ranker
from recsys.types import CandidateGenerator, Scores

DEEPFM = "deepfm"
MAX_USERS = 2_000  # of a cut whose pairs are kept, drawn at random


@dataclass(frozen=True)
class Meaning:
    """How scores become probabilities; None where a system has none."""

    max_negatives: int | None  # of the ranker's training
    deepfm: tuple[float, float] | None  # scale and offset of its logits, for the prior of the shop

    @classmethod
    def of(
        cls, ranker: Ranker, generators: Sequence[CandidateGenerator], learned: Sequence[PoolCount], n_items: int
    ) -> Meaning:
        """`learned`: of the windows that the ranker learned from; `n_items` of the catalogue."""
        count = sum(learned, NO_LABELS)
        negatives = ranker.report["params"]["max_negatives"] if ranker.report["loss"] in ("Logloss", BLEND) else None
        network: Any = next((one for one in generators if one.name == DEEPFM), None)
        if network is None or np.array_equal(network.state.calibration, UNCALIBRATED) or not count.n_labels:
            return cls(negatives, None)
        prior = min(count.n_labels / count.n_users / n_items, 0.5)
        scale, offset = network.state.calibration
        return cls(negatives, (float(scale), float(calibration.with_prior(np.array(offset), prior, PRIOR))))

    def probabilities(self, pool: Pool, scores: Scores) -> dict[str, NDArray[np.float32]]:
        """System → probability of each row of the pool, (n_rows,), NaN where the system does not know the pair."""
        logits: dict[str, NDArray[Any]] = {}
        if self.max_negatives is not None:
            rate = np.minimum(1.0, self.max_negatives / np.maximum(pool.sizes, 1))[pool.row_of_user]
            logits |= {TWO_STAGE: calibration.all_negatives(scores, rate), AS_LEARNED: scores}
        if self.deepfm is not None:
            scale, offset = self.deepfm
            logits[DEEPFM] = scale * pool.columns[f"{DEEPFM}_score"].astype(np.float64) + offset
        return {name: calibration.sigmoid(values).astype(np.float32) for name, values in logits.items()}


@dataclass
class Watched:
    """Collects probabilities and labels while candidates are ranked: a `two_stage.Watch`."""

    meaning: Meaning
    labels: Labels
    seed: int = 0
    _parts: dict[str, list[tuple[NDArray[np.float32], Mask, NDArray[np.int32]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.labels)
        self._drawn = np.zeros(n, dtype=bool)
        self._drawn[np.random.default_rng(self.seed).permutation(n)[:MAX_USERS]] = True
        self._wanted = pairs_of(self.labels.row, self.labels.item_key)

    def __call__(self, part: slice, pool: Pool, scores: Scores) -> None:
        user = pool.row_of_user + part.start
        came_true = np.isin(pairs_of(user, pool.item_key), self._wanted)
        has_hit = np.zeros(len(self.labels), dtype=bool)
        has_hit[user[came_true]] = True
        for name, values in self.meaning.probabilities(pool, scores).items():
            kept = self._drawn[user] & ~np.isnan(values) & (has_hit[user] | (name == DEEPFM))
            rows = (values[kept], came_true[kept], user[kept].astype(np.int32))
            self._parts.setdefault(name, []).append(rows)

    def predicted(self, task: str, cut: str, segments: Mapping[str, Mask]) -> list[Predicted]:
        """What was collected, by system; segments only of probabilities that anybody would use."""
        found = []
        for name, parts in self._parts.items():
            probability, came_true, user = (np.concatenate(column) for column in zip(*parts, strict=True))
            parts_of_users = {} if name == AS_LEARNED else dict(segments)
            found.append(Predicted(task, cut, name, probability, came_true, user, parts_of_users))
        return found
