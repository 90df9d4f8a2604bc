"""An update of a served model by the updater, as an artifact that any process can apply.

weights.npz     applied by the service (`Update`)
optimizer.npz   the moments of the same weights and rows, and stream.npz: only for the updater

Updates are numbered and chained by checksum: each has the hash of the chain before it. A base is an update with all
changes since the nightly model, so that a process can start from it; any other one has the changes since the last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.artifacts import Manifest
from recsys.errors import ArtifactError
from recsys.features.deepfm_fields import Floats
from recsys.keys import Positions
from recsys.serving.scorer import Scorer

KIND: Final = "deepfm_update"  # of the artifact; version: number of the update, and fence of the updater
WEIGHTS, OPTIMIZER, STREAM = "weights.npz", "optimizer.npz", "stream.npz"


def number_of(version: str) -> int:
    """The number of the update of an artifact version."""
    return int(version.partition("-")[0])


@dataclass(frozen=True)
class Update:
    """New values of weights, by `layer/weight`, and the keys that got spare rows, in row order."""

    dense: Mapping[str, Floats] = field(default_factory=dict)  # whole weights
    rows: Mapping[str, Positions] = field(default_factory=dict)  # of tables: row numbers (n,)
    values: Mapping[str, Floats] = field(default_factory=dict)  # of tables: these rows' values (n, width)
    users: NDArray[np.integer] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # keys
    items: NDArray[np.integer] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def n_rows(self) -> int:
        """The number of changed rows of tables."""
        return sum(len(rows) for rows in self.rows.values())

    def is_finite(self) -> bool:
        return all(np.isfinite(values).all() for values in (*self.dense.values(), *self.values.values()))

    def write(self, path: Path) -> None:
        """One .npz, without pickle."""
        arrays: dict[str, NDArray[Any]] = {f"dense/{name}": value for name, value in self.dense.items()}
        arrays |= {f"rows/{name}": value for name, value in self.rows.items()}
        arrays |= {f"values/{name}": value for name, value in self.values.items()}
        np.savez(path, users=self.users, items=self.items, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> Update:
        """The inverse of `write`; ArtifactError."""
        arrays = read_arrays(path)
        parts: dict[str, dict[str, Any]] = {"dense": {}, "rows": {}, "values": {}}
        try:
            users, items = arrays.pop("users"), arrays.pop("items")
            for name, array in arrays.items():
                part, _, weight = name.partition("/")
                parts[part][weight] = array
        except KeyError as error:
            raise ArtifactError(f"{path} is not an update of a model: {error} is missing or unknown") from error
        return cls(**parts, users=users, items=items)

    def apply(self, scorer: Scorer, *, anew: bool = False) -> None:
        """Apply it to a scorer that has all updates before it, or, `anew`, after a reset. InputError where it does not
        fit; then nothing is changed."""
        for name, values in self.dense.items():
            scorer.check_weights(name, values)
        for name, rows in self.rows.items():
            scorer.check_weights(name, self.values[name], rows)
        scorer.state.rows_of_users.check(self.users.tolist(), anew=anew)
        scorer.state.rows_of_items.check(self.items.tolist(), anew=anew)
        if anew:
            scorer.reset()
        for name, values in self.dense.items():
            scorer.put_weights(name, values)
        for name, rows in self.rows.items():
            scorer.put_weights(name, self.values[name], rows)
        scorer.state.rows_of_users.give(self.users.tolist())
        scorer.state.rows_of_items.give(self.items.tolist())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz; ArtifactError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


def checksum_of(manifest: Manifest) -> str:
    """SHA-256 over the files of an update, by its manifest (which `ArtifactStore.open` verifies)."""
    text = "".join(f"{name}:{entry['sha256']}\n" for name, entry in sorted(manifest.files.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def chained(parent: str | None, base: str, checksum: str) -> str:
    """The hash of the chain after an update: `parent` is that before it, None where it starts on the model `base`."""
    return hashlib.sha256(f"{parent or ''}\n{base}\n{checksum}".encode()).hexdigest()
