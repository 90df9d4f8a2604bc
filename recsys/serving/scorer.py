"""DeepFM in ONNX Runtime: probabilities of pairs of users and items, one call per request.

A probability is that of "this pair is an event", where an event of the user and a pair of the user with a random item
of the catalogue are equally likely a priori (`FeatureSpec.prior`): 0.5 means that the item suits the user as well as a
random one. It ranks items and is comparable between users and days; it is not a click-through rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.errors import ArtifactError, InputError
from recsys.features.deepfm_fields import USER_FIELDS, Floats, Rows
from recsys.features.deepfm_spec import FeatureSpec
from recsys.networks.onnx_files import ITEM_INPUT, ITEM_SIDE, ITEMS, OUTPUT, PAIRS, weight_file
from recsys.serving.item_sides import ItemSides
from recsys.serving.model_state import Asker, CategoryOf, ModelState, Moment, read_features

_USERS_AT_ONCE: Final = 1024  # bounds the memory of their histories' embeddings


class Scorer:
    """A loaded serving artifact. Scoring is thread-safe.

    The weights are arrays of this process, passed to the network with each call: tables are mapped copy-on-write from
    the artifact, so that processes share unchanged pages, and `put_weights` takes effect with the next call.
    """

    def __init__(self, folder: Path) -> None:
        """ArtifactError when a file is missing or the network cannot be run by this release."""
        import onnxruntime as ort

        self._folder = folder
        self.spec = FeatureSpec.read(folder)
        self.state = ModelState(folder, self.spec)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # workers are processes
        options.log_severity_level = 3
        try:
            parts = (ort.InferenceSession(folder / name, options, ["CPUExecutionProvider"]) for name in (ITEMS, PAIRS))
            self._items, self._pairs = parts
            self._of_items, self._of_pairs = (_weight_names(part) for part in (self._items, self._pairs))
            self._weights = {name: self._read(name) for name in (*self._of_items, *self._of_pairs)}
            (given,), (made,) = self._items.get_inputs(), self._items.get_outputs()
            self._sides = ItemSides(self._item_sides, given.shape[1], made.shape[1])
        except Exception as error:  # ONNX Runtime has many exception classes
            hint = "" if (folder / ITEMS).exists() else "; train_deepfm with --force writes its two parts"
            raise ArtifactError(f"the network in {folder} cannot be run: {error}{hint}") from error

    @property
    def weights(self) -> dict[str, Floats]:
        """The current weights, by `layer/weight`; read-only."""
        return self._weights

    def reset(self) -> None:
        """Undo all updates: weights as in the files, and spare rows as initially assigned."""
        for name in self._weights:
            self._weights[name] = self._read(name)
        self._sides.forget()
        self.state.rows_of_users.take_back()
        self.state.rows_of_items.take_back()

    def _read(self, name: str) -> Floats:
        return np.asarray(np.load(self._folder / weight_file(name), mmap_mode="c", allow_pickle=False))

    def put_weights(self, name: str, values: Floats, rows: NDArray[Any] | slice = slice(None)) -> None:
        """Change a weight in place, whole or some rows. After InputError, as in `check_weights`, nothing is changed."""
        self.check_weights(name, values, rows)
        self._weights[name][rows] = values
        if name in self._of_items:
            self._sides.forget()

    def check_weights(self, name: str, values: Floats, rows: NDArray[Any] | slice = slice(None)) -> None:
        """InputError where values are not finite, or not of the shape of the weight or of these rows."""
        weight = self._weights.get(name)
        if weight is None:
            raise InputError(f"the network has no weight {name!r}; it has {', '.join(self._weights)}")
        try:
            shape = weight[rows].shape
        except IndexError as error:
            raise InputError(f"{name}: {error}") from error
        if np.shape(values) != shape or not np.isfinite(values).all():
            raise InputError(f"{name}: expected finite values of shape {shape}, received {np.shape(values)}")

    def read_features(self, given: Mapping[str, Any]) -> tuple[dict[str, int], list[str]]:
        """As `model_state.read_features`, for requests: values that occurred in no training are left out."""
        return read_features(self.spec, given, self._is_met)

    def _is_met(self, field: str, row: int) -> bool:
        """Whether a context row occurred in training: rows are initialised with zeros."""
        sizes = self.spec.network.get("user_sizes", ())
        place = sum(sizes[: USER_FIELDS.index(field)]) + row
        return bool(len(sizes) == len(USER_FIELDS) and self._weights["user_fields/table"][place].any())

    def probabilities(
        self,
        askers: Sequence[Asker],
        asker_of_pair: NDArray[np.int32],
        item_rows: Rows,
        moment: Moment,
    ) -> Floats:
        """Probabilities in [0, 1], (n_pairs,).

        `asker_of_pair` (n_pairs,): positions in `askers`; `item_rows` (n_pairs, n_item_fields) as returned by
        `state.item_rows`. One call of the network for up to 1,024 askers.
        """
        result = np.empty(len(asker_of_pair), dtype=np.float32)
        for start in range(0, len(askers), _USERS_AT_ONCE):
            part: Any = slice(None)
            if len(askers) > _USERS_AT_ONCE:
                inside = (asker_of_pair >= start) & (asker_of_pair < start + _USERS_AT_ONCE)
                part = np.flatnonzero(inside)
            inputs = self.state.user_inputs(askers[start : start + _USERS_AT_ONCE], moment)
            of_pair = (asker_of_pair[part] - start).astype(np.int32, copy=False)
            result[part] = self.logits({**inputs, "item": item_rows[part], "user_of_pair": of_pair})
        return self.probability_of(result)

    def logits(self, inputs: dict[str, Any]) -> Floats:
        """The network's output for the inputs of `DeepFmPairs`, (n_pairs,)."""
        others = {name: value for name, value in inputs.items() if name != ITEM_INPUT}
        others[ITEM_SIDE] = self._sides.of(inputs[ITEM_INPUT])
        result: Floats = self._pairs.run([OUTPUT], others | {name: self._weights[name] for name in self._of_pairs})[0]
        return result

    def _item_sides(self, rows: Rows) -> Floats:
        """Bitwise independent of the batch: a single row, which ONNX Runtime would compute differently, is doubled."""
        weights = {name: self._weights[name] for name in self._of_items}
        given = rows if len(rows) > 1 else rows.repeat(2, axis=0)
        sides: Floats = self._items.run([ITEM_SIDE], {ITEM_INPUT: given, **weights})[0]
        return sides[: len(rows)]

    def probability_of(self, logits: Floats) -> Floats:
        """Calibrated probabilities."""
        exponent = np.clip(self.spec.scale * logits.astype(np.float64) + self.spec.offset, -60, 60)
        return (1 / (1 + np.exp(-exponent))).astype(np.float32)

    def warm_up(self, category_of: CategoryOf, now_ms: float) -> None:
        """Score some pairs, so that memory is allocated and pages are read before the first request."""
        users, items = self.state.sample_keys(200)
        moment = Moment(now_ms, {})
        rows = self.state.item_rows([*items, None], category_of)
        for askers in ([Asker()], [Asker(key) for key in users] or [Asker()]):
            for n in (1, len(rows)):
                self.probabilities(askers, np.arange(n, dtype=np.int32) % len(askers), rows[:n], moment)


def _weight_names(session: Any) -> list[str]:
    return [one.name for one in session.get_overridable_initializers()]
