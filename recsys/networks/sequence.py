"""A network over histories: what a user has done, in order, as one vector that is near to the next item's."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

_EPSILON = 1e-6
_LEAST_SQUARE = 1e-12  # of a length
_FAR = -1e9  # as a logit of attention: no weight at all


@keras.saving.register_keras_serializable(package="recsys")
class CausalBlock(keras.layers.Layer):
    """Self-attention over the past, then a multi-layer perceptron, each added to its input and normalised
    (Vaswani et al., NeurIPS 2017; in the order of SASRec's successors, normalisation last).

        A_ij = softmax_j(q_i·k_j / √(dim / heads) + b[i − j])   over j ≤ i of the same segment
        x ← LN(x + D(A v));   x ← LN(x + D(W₂ gelu(W₁ x)))

    D is dropout. b, a learned number for each head and distance, is all that is known of places (Raffel et al., "T5",
    JMLR 2020): so places count from the newest backward, and many histories can lie in one row, told apart by their
    segment, without padding. GELU by tanh: its exact form cannot be exported to ONNX.

    Takes x (rows, length, dim) and segments (rows, length) int32; gives (rows, length, dim).
    """

    def __init__(self, dim: int, heads: int, max_length: int, dropout: float = 0.0, **kwargs: Any) -> None:
        seed = kwargs.pop("seed", 0)
        super().__init__(**kwargs)
        if dim < 1 or heads < 1 or dim % heads:
            raise ValueError(f"CausalBlock needs a dim that its heads divide; received dim={dim} and heads={heads}")
        self.dim, self.heads, self.max_length = int(dim), int(heads), int(max_length)
        self.dropout, self.seed = float(dropout), int(seed)
        self.qkv = keras.layers.Dense(3 * dim, name="qkv")
        self.out = keras.layers.Dense(dim, name="out")
        self.up = keras.layers.Dense(4 * dim, name="up")
        self.down = keras.layers.Dense(dim, name="down")
        self.attention_norm = keras.layers.LayerNormalization(epsilon=_EPSILON, name="attention_norm")
        self.dense_norm = keras.layers.LayerNormalization(epsilon=_EPSILON, name="dense_norm")
        self.drop = [keras.layers.Dropout(dropout, seed=self.seed + place) for place in range(3)]

    def build(self, input_shape: Any, segment_shape: Any = None) -> None:
        self.distance_bias = self.add_weight(
            shape=(self.heads, self.max_length), initializer="zeros", name="distance_bias"
        )
        for layer in (self.qkv, self.out, self.up, self.attention_norm, self.dense_norm):
            layer.build((None, None, self.dim))
        self.down.build((None, None, 4 * self.dim))

    def call(self, x: Any, segment: Any, training: bool = False) -> Any:
        length, width = x.shape[1], self.dim // self.heads
        place = ops.arange(length)
        distance = place[:, None] - place[None, :]  # (length, length)
        visible = ops.logical_and(segment[:, :, None] == segment[:, None, :], distance >= 0)
        bias = ops.take(self.distance_bias, ops.maximum(distance, 0), axis=1)  # (heads, length, length)

        qkv = ops.reshape(self.qkv(x), (-1, length, 3, self.heads, width))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)  # each (rows, heads, length, width)
        logits = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / width**0.5 + bias
        logits = logits + ops.where(visible, 0.0, _FAR)[:, None]  # (rows, heads, length, length)
        attention = self.drop[0](ops.softmax(logits, axis=-1), training=training)
        seen = ops.reshape(ops.transpose(ops.matmul(attention, v), (0, 2, 1, 3)), (-1, length, self.dim))

        x = self.attention_norm(x + self.drop[1](self.out(seen), training=training))
        hidden = ops.gelu(self.up(x), approximate=True)  # (rows, length, 4 · dim)
        return self.dense_norm(x + self.drop[2](self.down(hidden), training=training))

    def compute_output_shape(self, input_shape: Any, segment_shape: Any = None) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        names = ("dim", "heads", "max_length", "dropout", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="recsys")
class SequenceNetwork(keras.Model):
    """SASRec (Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018) with distances in place of places.

        x = D(LN(E[item]));   h = blocks(x);   p(next item | history) = softmax(s · h/|h| · (E/|E|)ᵀ)

    E is one table for the items that are read and those that are predicted; s is learned. Cosines in place of inner
    products keep the logits from growing ever surer of themselves: on Amazon Beauty the loss on unseen targets stays
    where it is, where it rose by half a nat in as many epochs, and the ranks are best somewhat sooner.

    Inputs, a dictionary; a row may hold several histories, one after the other:
        item     (rows, length) int32, rows of the table
        segment  (rows, length) int32, equal within a history; padding is a history of its own, whose vectors mean
                 nothing
    Output: vectors s · h/|h| (rows, length, dim) float32, one after each item, which know nothing of later items;
    their products with the rows of `unit(table)` are the logits.

    Weights start at Keras' defaults; `recsys.candidates.sequence` sets all of them by its own seed.
    """

    def __init__(
        self,
        n_items: int,
        dim: int = 64,
        blocks: int = 2,
        heads: int = 2,
        max_length: int = 50,
        dropout: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"name": "sequence", **kwargs})
        if n_items < 1 or blocks < 1 or max_length < 1:
            raise ValueError(
                f"SequenceNetwork needs an item, a block and a length of at least 1; received {n_items}, {blocks} "
                f"and {max_length}"
            )
        self.config: dict[str, Any] = {
            "n_items": int(n_items),
            "dim": int(dim),
            "blocks": int(blocks),
            "heads": int(heads),
            "max_length": int(max_length),
            "dropout": float(dropout),
            "seed": int(seed),
        }
        self.items = keras.layers.Embedding(n_items, dim, name="items")
        self.item_norm = keras.layers.LayerNormalization(epsilon=_EPSILON, name="item_norm")
        self.drop = keras.layers.Dropout(dropout, seed=seed)
        self.blocks = [
            CausalBlock(dim, heads, max_length, dropout, seed=seed + 10 * (place + 1), name=f"block_{place}")
            for place in range(blocks)
        ]

    def build(self, input_shape: Any = None) -> None:
        shape = (None, None, self.config["dim"])
        self.items.build()
        self.item_norm.build(shape)
        for block in self.blocks:
            block.build(shape, (None, None))
        self.log_scale = self.add_weight(shape=(), initializer="zeros", name="log_scale")
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        return self.encode(self.items(inputs["item"]), inputs["segment"], training)

    def encode(self, vectors: Any, segment: Any, training: bool = False) -> Any:
        """As `call`, for rows of the table that were looked up before: (rows, length, dim)."""
        x = self.drop(self.item_norm(vectors), training=training)
        for block in self.blocks:
            x = block(x, segment, training=training)
        return ops.exp(self.log_scale) * unit(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.config}


def unit(vectors: Any) -> Any:
    """The vectors (…, dim), each divided by its length."""
    return vectors * ops.rsqrt(ops.maximum(ops.sum(ops.square(vectors), axis=-1, keepdims=True), _LEAST_SQUARE))


def shared_softmax(vectors: Any, positive: Any, negatives: Any, log_q: Any, is_positive: Any) -> Any:
    """−log p(positive), where the sum over all items is estimated from negatives that all vectors share
    (Bengio & Senécal 2008; Mezentsev et al., RecSys 2024, show that it takes thousands).

        p = e^(h·e⁺) / (e^(h·e⁺) + Σ_j e^(h·e_j − log q_j))

    `vectors` and `positive` (n, dim); `negatives` (k, dim); `log_q` (k,): log of how often each negative is expected
    among the k, 0 for all where the k are the whole catalogue, which gives the full softmax; `is_positive` (n, k):
    which negatives are the positive itself, and do not count. Gives (n,).
    """
    wanted = ops.sum(vectors * positive, axis=-1)  # (n,)
    others = ops.matmul(vectors, ops.transpose(negatives)) - log_q  # (n, k)
    others = ops.where(is_positive, _FAR, others)
    largest = ops.stop_gradient(ops.maximum(ops.max(others, axis=-1), wanted))
    total = ops.exp(wanted - largest) + ops.sum(ops.exp(others - largest[:, None]), axis=-1)
    return largest + ops.log(total) - wanted
