"""Adam whose cost per step does not grow with the embedding tables."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="recsys")
class LazyAdam(keras.optimizers.Adam):
    """Adam (Kingma & Ba 2015) that moves only the rows of a table that a batch has read.

    Keras' own Adam reads and writes every row of every table and of both moments in each step, which at a few
    hundred thousand rows costs many times the batch itself. Here rows that got no gradient keep their values and
    moments. Holds for TensorFlow, where the gradient of a look-up comes as rows; other backends give dense
    gradients, and then this is plain Adam.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if keras.backend.backend() != "tensorflow" or not hasattr(gradient, "indices"):
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        index = self._get_variable_index(variable)
        m, v = (moments[index].value for moments in (self._momentums, self._velocities))
        rows, position = tf.unique(tf.reshape(gradient.indices, [-1]))
        values = tf.reshape(gradient.values, [-1, gradient.values.shape[-1]])
        total = tf.math.unsorted_segment_sum(values, position, tf.size(rows))  # (n_rows, dim)
        new_m = self.beta_1 * tf.gather(m, rows) + (1 - self.beta_1) * total
        new_v = self.beta_2 * tf.gather(v, rows) + (1 - self.beta_2) * tf.square(total)
        step = tf.cast(self.iterations + 1, variable.dtype)
        rate = tf.cast(learning_rate, variable.dtype)
        rate *= tf.sqrt(1 - tf.pow(self.beta_2, step)) / (1 - tf.pow(self.beta_1, step))
        m.scatter_update(tf.IndexedSlices(new_m, rows))
        v.scatter_update(tf.IndexedSlices(new_v, rows))
        change = rate * new_m / (tf.sqrt(new_v) + self.epsilon)
        variable.scatter_sub(tf.IndexedSlices(change, rows))
