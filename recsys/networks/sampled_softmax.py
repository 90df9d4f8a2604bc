"""Softmax over one observed item and sampled others, corrected for how they were sampled."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="recsys")
class SampledSoftmax(keras.losses.Loss):
    """−log softmax(logits − log q)[first candidate] (Bengio & Senécal 2008; Yi et al., RecSys 2019).

    `y_true` (batch, n_candidates) holds log q, the log of the probability with which each candidate is drawn as a
    negative (a huge value takes one out: a negative that happens to be the positive); `y_pred` the logits, the
    positive in column 0. The correction makes the logits estimates of log p(item | user) up to a constant of the
    user, whatever the negatives' distribution. Gives (batch,) before reduction.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return -ops.log_softmax(y_pred - y_true, axis=-1)[:, 0]
