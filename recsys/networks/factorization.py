"""The factorisation part of a factorisation machine, as a Keras layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="recsys")
class Factorization(keras.layers.Layer):
    """Sum of the inner products of all pairs of fields (Rendle, "Factorization Machines", ICDM 2010, equation 5).

        Σ_{i<j} <v_i, v_j>  =  ½ Σ_d [ (Σ_i v_id)² − Σ_i v_id² ]

    which costs O(fields · dim) instead of O(fields² · dim).

    Takes one tensor (…, n_fields, dim), or a list of such tensors, whose leading axes are broadcast against each
    other: the fields of one user (batch, 1, n_user_fields, dim) and those of its candidates
    (batch, n_candidates, n_item_fields, dim) are summed before they meet, so the user's are summed once.
    Gives (…), the leading axes after broadcasting.
    """

    def call(self, embeddings: Any) -> Any:
        groups = embeddings if isinstance(embeddings, list | tuple) else [embeddings]
        total, squares = 0.0, 0.0
        for group in groups:
            total = total + ops.sum(group, axis=-2)  # (…, dim)
            squares = squares + ops.sum(ops.square(group), axis=-2)  # (…, dim)
        return 0.5 * ops.sum(ops.square(total) - squares, axis=-1)  # (…)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shapes: Sequence[Any] = input_shape if isinstance(input_shape[0], list | tuple) else [input_shape]
        for shape in shapes:
            if len(shape) < 2:
                raise ValueError(f"Factorization needs tensors (…, n_fields, dim); received shape {tuple(shape)}")
        leading = [tuple(shape[:-2]) for shape in shapes]
        result = leading[0]
        for shape in leading[1:]:
            result = tuple(b if a == 1 else a for a, b in zip(result, shape, strict=True))
        return result
