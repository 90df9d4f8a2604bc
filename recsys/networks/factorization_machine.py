"""A factorisation machine and logistic regression: DeepFM's layers without its deep part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from recsys.networks.factorization import Factorization
from recsys.networks.field_embedding import FieldEmbedding


@keras.saving.register_keras_serializable(package="recsys")
class FactorizationMachine(keras.Model):
    """Logit = bias + Σ_f w_f + Σ_{f<g} <v_f, v_g> over the values of the fields (Rendle, ICDM 2010, equation 1).

    Without `pairs` it is logistic regression on one-hot values. Takes rows (batch, n_fields) int32, each counted within
    its field; gives logits (batch, 1).
    """

    def __init__(self, sizes: Sequence[int], dim: int = 16, *, pairs: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config: dict[str, Any] = {"sizes": [int(size) for size in sizes], "dim": int(dim), "pairs": pairs}
        self.fields = FieldEmbedding(sizes, dim, name="fields")
        self.factorization = Factorization(name="factorization")

    def build(self, input_shape: Any = None) -> None:
        self.fields.build((None, len(self.config["sizes"])))
        self.bias = self.add_weight(shape=(1,), initializer="zeros", name="bias")
        self.built = True

    def call(self, rows: Any) -> Any:
        vectors, first = ops.split(self.fields(rows), [self.config["dim"]], axis=-1)  # (batch, n_fields, dim), (…, 1)
        logit = self.bias + ops.sum(first, axis=1)
        return logit + self.factorization(vectors)[:, None] if self.config["pairs"] else logit

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.config}
