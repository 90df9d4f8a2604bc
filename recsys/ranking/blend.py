"""A blend of the generators: logistic regression over what each says of a candidate.

It has a few weights where boosted trees have thousands, so it is what ranks where there are too few labels for trees.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recsys.errors import ArtifactError

FILE = "blend.json"
_RIDGE = 1.0  # on weights of standardised columns, in rows
_SHARE, _RANK = "_share", "_rank"


@dataclass(frozen=True)
class Blend:
    """logit = bias + Σ_g w_g · share_g + v_g / √rank_g, over the generators g of the pool; 0 where g knows nothing."""

    names: tuple[str, ...]  # of the ranker's columns that are read
    columns: tuple[int, ...]  # where they stand
    weight: tuple[float, ...]
    bias: float

    @classmethod
    def fit(cls, names: Sequence[str], matrix: NDArray[np.float32], label: NDArray[np.bool_]) -> Self:
        """Learn from rows (n, n_features) and labels (n,), which hold both kinds.

        Maximum likelihood with a ridge of `_RIDGE`, by L-BFGS; weights of shares and ranks are at least 0: what a
        generator finds good is never a reason against it, however few the labels are.
        """
        from scipy.optimize import minimize

        columns = [place for place, name in enumerate(names) if name.endswith((_SHARE, _RANK))]
        used = [names[place] for place in columns]
        values = _inputs(used, matrix[:, columns])
        scale = np.maximum(values.std(axis=0), 1e-6)
        values = values / scale
        sign = np.where(label, 1.0, -1.0)

        def loss(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight = point[:-1]
            margin = sign * (values @ weight + point[-1])
            missed = -sign * np.exp(-np.logaddexp(0.0, margin))
            gradient = np.append(values.T @ missed + _RIDGE * weight, missed.sum())
            return float(np.logaddexp(0.0, -margin).sum() + _RIDGE * (weight @ weight) / 2), gradient

        start = np.append(np.zeros(len(used)), np.log(label.mean() / (1 - label.mean())))
        bounds = [(0.0, None)] * len(used) + [(None, None)]
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        return cls(tuple(used), tuple(columns), tuple((found[:-1] / scale).tolist()), float(found[-1]))

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits (n,) of rows (n, n_features)."""
        values: NDArray[np.float64] = _inputs(self.names, matrix[:, list(self.columns)]) @ np.array(self.weight)
        return values + self.bias

    def save(self, folder: Path) -> None:
        """Write `blend.json` into an existing folder."""
        (folder / FILE).write_text(json.dumps(vars(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; ArtifactError when it is missing or unreadable."""
        try:
            found: dict[str, Any] = json.loads((folder / FILE).read_text())
            return cls(tuple(found["names"]), tuple(found["columns"]), tuple(found["weight"]), found["bias"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"no blend can be read from {folder}: {error}; train it again") from error


def _inputs(names: Sequence[str], matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shares as they are, ranks as 1/√rank, unknown ones as 0."""
    is_rank = np.array([name.endswith(_RANK) for name in names], dtype=bool)
    values = matrix.astype(np.float64)
    values[:, is_rank] = values[:, is_rank] ** -0.5
    return np.nan_to_num(values, nan=0.0, posinf=0.0)
