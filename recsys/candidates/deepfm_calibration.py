"""What a logit of DeepFM means as a probability: Platt scaling on events that the network has not learned.

Platt, "Probabilistic Outputs for Support Vector Machines", 1999: P = 1 / (1 + exp(-(scale · logit + offset))).
A sampled softmax fixes differences of logits only, so their sigmoid by itself means nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.networks.deepfm_scorer import Floats

Calibration = NDArray[np.float64]  # (2,): scale > 0 and offset
PRIOR = 0.5  # what half of the pairs are: observed ones
UNCALIBRATED: Calibration = np.array([1.0, 0.0])  # where no events are held out
_LEAST_SCALE = 1e-3  # of a network that predicts nothing: all pairs near the prior, in their order
_STEPS = 50


def calibrate(logits: Floats, log_q: Floats) -> Calibration:
    """Scale and offset for `logits` (n, 1 + n_negatives) of held-out events, the observed item first.

    `log_q` as `Samples.draw` gives it: negatives are weighted by 1/q, so that they stand for items drawn evenly from
    the catalogue, and together they weigh as much as the observed ones. The probability is therefore that of "this
    pair is an observed event" where beforehand an observed pair and one with any item are equally likely (`PRIOR`).
    """
    observed = np.zeros(logits.shape, dtype=bool)
    observed[:, 0] = True
    weight = np.where(observed, 1.0, np.exp(-np.maximum(log_q.astype(np.float64), -50.0)))
    weight[observed] *= PRIOR / weight[observed].sum()
    weight[~observed] *= (1 - PRIOR) / max(weight[~observed].sum(), 1e-300)
    return platt(logits.ravel().astype(np.float64), observed.ravel(), weight.ravel())


def platt(logit: NDArray[np.float64], observed: NDArray[np.bool_], weight: NDArray[np.float64]) -> Calibration:
    """Least weighted log loss by Newton's method on standardised logits; a little ridge keeps separable ones finite."""
    mean = float(np.average(logit, weights=weight))
    spread = max(float(np.sqrt(np.average((logit - mean) ** 2, weights=weight))), 1e-6)
    x = np.stack([(logit - mean) / spread, np.ones_like(logit)], axis=1)  # (n, 2)
    beta, ridge = np.zeros(2), np.diag([1e-4, 1e-9])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -500, 500)))
        gradient = x.T @ (weight * (p - observed)) + ridge @ beta
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + ridge
        step = np.clip(np.linalg.solve(hessian, gradient), -2, 2)
        beta -= step
        if np.abs(step).max() < 1e-9:
            break
    scale = max(beta[0], _LEAST_SCALE) / spread
    return np.array([scale, beta[1] - scale * mean])
