"""The items that may be sampled as negatives of an event: those of the nightly catalogue, and newer ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.candidates.deepfm_samples import EXCLUDED, systematic
from recsys.features.deepfm_fields import Floats, Rows
from recsys.features.deepfm_spec import POPULARITY, FeatureSpec, state_file
from recsys.keys import Positions, positions
from recsys.serving.model_state import CategoryOf, ModelState


class ItemPool:
    """Rows of items by position, and their sampling distribution, as in `deepfm_samples.Samples`."""

    def __init__(self, folder: Path, spec: FeatureSpec, state: ModelState) -> None:
        self._state = state
        keys, rows = state.catalogue
        popularity = np.load(folder / state_file(POPULARITY), allow_pickle=False) ** 0.75
        uniform = spec.training["uniform_share"]
        self._least = uniform / len(keys)
        self._q = self._least + (1 - uniform) * popularity / popularity.sum()
        self._rows = rows.copy()
        self._n_at_cut = len(keys)
        self._positions: dict[int, int] = {}  # of items newer than the catalogue
        self._keys = keys

    def __len__(self) -> int:
        return len(self._rows)

    def positions(self, keys: list[int], category_of: CategoryOf) -> Positions:
        """Positions of items (n,). New items are added, with the sampling probability of the least popular one."""
        wanted = np.array(keys, dtype=np.int64)
        found = positions(self._keys, wanted)
        unknown = np.flatnonzero(found < 0)
        new = list(dict.fromkeys(key for key in wanted[unknown].tolist() if key not in self._positions))
        if new:
            self._add(new, category_of)
        found[unknown] = [self._positions[key] for key in wanted[unknown].tolist()]
        return found

    def _add(self, keys: list[int], category_of: CategoryOf) -> None:
        self._positions |= {key: len(self._rows) + place for place, key in enumerate(keys)}
        self._rows = np.concatenate([self._rows, self._state.item_rows(keys, category_of)])
        self._q = np.concatenate([self._q, np.full(len(keys), self._least)])

    def later(self) -> tuple[NDArray[np.int64], Rows]:
        """Keys and rows of the added items, in the order of their positions."""
        return np.array(list(self._positions), dtype=np.int64), self._rows[self._n_at_cut :]

    def restore(self, keys: NDArray[np.int64], rows: Rows) -> None:
        """Replace the added items by what `later` returned."""
        self._positions = {int(key): self._n_at_cut + place for place, key in enumerate(keys)}
        self._rows = np.concatenate([self._rows[: self._n_at_cut], rows])
        self._q = np.concatenate([self._q[: self._n_at_cut], np.full(len(keys), self._least)])

    def refresh(self) -> None:
        """Read the items' rows in the network again, after some were assigned."""
        keys = np.concatenate([self._keys.astype(np.int64), self.later()[0]])
        self._rows[:, 0] = self._state.rows_of_items.rows(keys)

    def rows(self, positions: NDArray[np.int64]) -> Rows:
        """Rows of the items at any positions, (…, 6)."""
        return self._rows[positions]

    def draw(self, observed: Positions, n_negatives: int, rng: np.random.Generator) -> tuple[Positions, Floats]:
        """Candidates and their log q (n, 1 + n_negatives), as `SampledSoftmax` takes them, the observed item first."""
        n = len(observed)
        negative = rng.permutation(systematic(self._q, n * n_negatives, rng)).reshape(n, n_negatives)
        candidate = np.concatenate([observed[:, None], negative], axis=1)
        log_q = np.log(self._q[candidate] * len(self._q)).astype(np.float32)
        log_q[:, 1:][negative == observed[:, None]] = EXCLUDED
        return candidate, log_q
