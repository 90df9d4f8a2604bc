"""Progressive validation: every event is predicted before it is learned, by the updated model and by the frozen one.

Dawid, "Present position and potential developments: the prequential approach", 1984. Both models score the same events
with the same sampled negatives, so that the difference is the effect of the updates.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.candidates.deepfm_samples import EXCLUDED
from recsys.features.deepfm_fields import Floats

COLUMNS: Final = ("auc", "frozen_auc", "logloss", "frozen_logloss", "mean", "frozen_mean", "target")
Judged = NDArray[np.float32]  # (n, len(COLUMNS))


def judge(logits: Floats, frozen: Floats, log_q: Floats, label: Floats, scale: float, offset: float) -> Judged:
    """Metrics of each event: `logits` and `frozen` are (n, 1 + n_negatives), the event's item first.

    AUC: the share of negatives ranked correctly relative to the item. Log loss and mean: of calibrated probabilities,
    the negatives weighted as if drawn uniformly from the catalogue and together as much as the event's item (`scale`
    and `offset` are those of `deepfm_calibration`); for a negative event, of its item alone.
    """
    share = np.where(log_q[:, 1:] < EXCLUDED, np.exp(-np.maximum(log_q[:, 1:].astype(np.float64), -50)), 0.0)
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
    real = log_q[:, 1:] < EXCLUDED
    columns: list[Any] = []
    for part in (logits, frozen):
        part = part.astype(np.float64)
        below = (part[:, 1:] < part[:, :1]) + 0.5 * (part[:, 1:] == part[:, :1])
        auc = (below * real).sum(axis=1) / np.maximum(real.sum(axis=1), 1)
        x = scale * part + offset
        p = 1 / (1 + np.exp(-np.clip(x, -500, 500)))
        minus_log_p, minus_log_not_p = np.logaddexp(0, -x), np.logaddexp(0, x)
        of_item = label * minus_log_p[:, 0] + (1 - label) * minus_log_not_p[:, 0]
        of_others = (share * minus_log_not_p[:, 1:]).sum(axis=1)
        is_positive = label >= 0.5
        loss = np.where(is_positive, 0.5 * (of_item + of_others), of_item)
        mean = np.where(is_positive, 0.5 * (p[:, 0] + (share * p[:, 1:]).sum(axis=1)), p[:, 0])
        columns.append((np.where(is_positive, auc, 1 - auc), loss, mean))
    target = np.where(label >= 0.5, 0.5 * label, label)
    (auc, loss, mean), (frozen_auc, frozen_loss, frozen_mean) = columns
    return np.stack([auc, frozen_auc, loss, frozen_loss, mean, frozen_mean, target], axis=1).astype(np.float32)


class Window:
    """The metrics of the last `size` events."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.judged: Judged = np.zeros((0, len(COLUMNS)), dtype=np.float32)

    def add(self, judged: Judged) -> None:
        """Append the newest."""
        self.judged = np.concatenate([self.judged, judged])[-self.size :]

    def clear(self) -> None:
        self.judged = self.judged[:0]

    @property
    def is_full(self) -> bool:
        return len(self.judged) >= self.size

    def metrics(self) -> dict[str, float]:
        """Means over the window; calibration: predicted over observed, ideally 1."""
        if not len(self.judged):
            return {"n": 0}
        mean = dict(zip(COLUMNS, self.judged.mean(axis=0, dtype=np.float64).tolist(), strict=True))
        target = max(mean.pop("target"), 1e-9)
        return {
            "n": len(self.judged),
            **{name: round(mean[name], 6) for name in ("auc", "frozen_auc", "logloss", "frozen_logloss")},
            "calibration": round(mean["mean"] / target, 6),
            "frozen_calibration": round(mean["frozen_mean"] / target, 6),
        }

    def problem(self, bound: float) -> str | None:
        """Why the guard should act, or None: the AUC of a full window is below the frozen one by more than `bound`."""
        if not self.is_full:
            return None
        auc, frozen = (float(self.judged[:, column].mean()) for column in (0, 1))
        if frozen - auc <= bound:
            return None
        return (
            f"progressive AUC {auc:.3f} over the last {len(self.judged)} events is more than {bound:g} below the "
            f"{frozen:.3f} of the frozen model"
        )
