"""The network in training, and the frozen copy that it started from. Imports Keras, which takes seconds."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from recsys.candidates.deepfm_training import make_network
from recsys.features.deepfm_fields import Floats
from recsys.networks.lazy_adam import LazyAdam
from recsys.serving.update import Update

_TABLES = {"user_fields/table": "user", "item_fields/table": "item", "history_bag/table": "history"}
_MOMENTS = ("m", "v")


class Learner:
    """The DeepFM of the nightly training, one step at a time; keeps track of the rows that steps have changed.

    The loss of an event with weight w and label y is w · (-y log p - (1 - y) log(1 - p)), p being the sampled
    softmax of its item: for y = 1 that of the nightly training, for y = 0 the unlikelihood of Welleck et al. 2020.
    """

    def __init__(self, config: dict[str, Any], weights: dict[str, Floats], learning_rate: float) -> None:
        self._frozen_weights = weights
        self._network, self._frozen = make_network(config, weights), make_network(config, weights)
        self._optimizer = LazyAdam(learning_rate)
        self._optimizer.build(self._network.trainable_variables)
        self._variables = {
            f"{layer.name}/{weight.name}": weight for layer in self._network.layers for weight in layer.weights
        }
        self._offsets = {"user": self._network.user_fields.offsets, "item": self._network.item_fields.offsets}
        self._touched = {name: np.zeros(weights[name].shape[0], dtype=bool) for name in _TABLES}
        self._touched_since_base = {name: touched.copy() for name, touched in self._touched.items()}
        ints, floats = tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, None), tf.float32)
        inputs = {
            "user": ints,
            "history": ints,
            "history_weight": floats,
            "item": tf.TensorSpec((None, None, None), tf.int32),
        }
        vector = tf.TensorSpec((None,), tf.float32)
        self._step = tf.function(self._one_step, input_signature=[inputs, floats, vector, vector])
        self._score = tf.function(self._scores, input_signature=[inputs])
        self._step.get_concrete_function()  # traced now, so that the first event need not wait

    def step(
        self, inputs: dict[str, NDArray[Any]], log_q: Floats, label: Floats, weight: Floats
    ) -> tuple[Floats, Floats, float]:
        """One training step: the logits before it (n, n_candidates), those of the frozen network, and the loss.

        `inputs` as `DeepFmNetwork` has them; `log_q` (n, n_candidates), `label` and `weight` (n,).
        """
        for name, part in _TABLES.items():
            rows = inputs[part] + self._offsets.get(part, 0)
            self._touched[name][rows.reshape(-1)] = True
        logits, frozen, loss = self._step(inputs, log_q, label, weight)
        return logits.numpy(), frozen.numpy(), float(loss)

    def shift(self, amount: float) -> None:
        """Add the amount to all logits."""
        self._variables["deep_out/bias"].assign_add([amount])

    def scores(self, inputs: dict[str, NDArray[Any]]) -> Floats:
        """Logits with the current weights, (n, n_candidates)."""
        result: Floats = self._score(inputs).numpy()
        return result

    def changes(self, *, since_base: bool) -> tuple[Update, Update]:
        """Weights and moments changed since the last `committed`, or since the frozen network; without keys."""
        touched = self._touched_since_base if since_base else self._touched
        if since_base:
            for name, now in self._touched.items():
                touched[name] |= now
        rows = {name: np.flatnonzero(mask) for name, mask in touched.items()}
        weights = Update(
            dense={name: v.value.numpy().copy() for name, v in self._variables.items() if name not in _TABLES},
            rows=rows,
            values={name: tf.gather(self._variables[name].value, at).numpy() for name, at in rows.items()},
        )
        dense, moment_rows, values = {"iterations": np.array(self._optimizer.iterations.numpy())}, {}, {}
        for name, variable in self._variables.items():
            for kind, moment in zip(_MOMENTS, self._moments(variable), strict=True):
                if name in _TABLES:
                    moment_rows[f"{kind}/{name}"] = rows[name]
                    values[f"{kind}/{name}"] = tf.gather(moment, rows[name]).numpy()
                else:
                    dense[f"{kind}/{name}"] = moment.numpy().copy()
        return weights, Update(dense, moment_rows, values)

    def committed(self) -> None:
        """The changes up to now are written: the next `changes` starts from here."""
        for name, now in self._touched.items():
            self._touched_since_base[name] |= now
            now[:] = False

    def put(self, weights: Update, moments: Update) -> None:
        """Apply what `changes` returned."""
        for name, values in weights.dense.items():
            self._variables[name].assign(values)
        for name, rows in weights.rows.items():
            self._variables[name].value.scatter_update(tf.IndexedSlices(weights.values[name], rows))
            self._touched_since_base[name][rows] = True
        for key, values in moments.dense.items():
            if key == "iterations":
                self._optimizer.iterations.assign(values)
            else:
                self._moment(key).assign(values)
        for key, rows in moments.rows.items():
            self._moment(key).scatter_update(tf.IndexedSlices(moments.values[key], rows))

    def reset(self) -> None:
        """Reset to the frozen weights, with moments of zero."""
        for name, variable in self._variables.items():
            variable.assign(self._frozen_weights[name])
            for moment in self._moments(variable):
                moment.assign(tf.zeros_like(moment))
        self._optimizer.iterations.assign(0)
        for touched in (*self._touched.values(), *self._touched_since_base.values()):
            touched[:] = False

    def _moments(self, variable: Any) -> tuple[Any, Any]:
        index = self._optimizer._get_variable_index(variable)
        return self._optimizer._momentums[index].value, self._optimizer._velocities[index].value

    def _moment(self, key: str) -> Any:
        kind, _, name = key.partition("/")
        return self._moments(self._variables[name])[_MOMENTS.index(kind)]

    def _one_step(self, inputs: dict[str, Any], log_q: Any, label: Any, weight: Any) -> tuple[Any, Any, Any]:
        with tf.GradientTape() as tape:
            logits = self._network(inputs, training=True)
            log_p = ops.log_softmax(logits - log_q, axis=-1)[:, 0]
            not_p = tf.math.log(tf.maximum(-tf.math.expm1(tf.minimum(log_p, -1e-6)), 1e-6))
            loss = tf.reduce_mean(weight * (-label * log_p - (1 - label) * not_p))
        variables = self._network.trainable_variables
        gradients = tape.gradient(loss, variables)
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return logits, self._frozen(inputs, training=False), loss

    def _scores(self, inputs: dict[str, Any]) -> Any:
        return self._network(inputs, training=False)
