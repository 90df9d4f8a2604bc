"""Train DeepFM for a data set: for the ranker's label windows, and for serving; and export it for the service."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from recsys.artifacts import DEEPFM_SERVING, split_ref
from recsys.candidates.deepfm import DeepFm
from recsys.candidates.deepfm_serving import write_for_serving
from recsys.errors import ModelError
from recsys.serving.model_state import Asker, Moment
from recsys.serving.scorer import Scorer
from recsys.steps.context import Context, may_skip, step
from recsys.steps.train_generator import train_generator

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of a logit, absolute and relative
_N_USERS, _N_ITEMS = 50, 40  # compared


@step
@may_skip
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Train and register; see `train_generator`. `dataset`: a reference, the newest data set when None.

    Raises ModelError when the logits of the exported network differ from those of the trained one.
    """
    ctx = ctx or Context.open()
    result = train_generator(ctx, "deepfm", dataset, force=force)
    return {**result, "served_as": export_for_serving(ctx, result["serving"], force=force)}


def export_for_serving(ctx: Context, ref: str, *, force: bool = False) -> str:
    """The serving artifact of a fitted DeepFM, created and checked unless it exists."""

    def make(folder: Path, meta: dict[str, Any]) -> None:
        model = DeepFm.load(ctx.store.open(ref)[0])
        write_for_serving(model, folder)
        scorer = Scorer(folder)
        meta |= {
            "largest_difference": check_export(model, scorer),
            "n_users": scorer.state.n_users,
            "n_items": scorer.state.n_items,
            "is_calibrated": scorer.spec.is_calibrated,
        }

    manifest, made = ctx.store.get_or_make(
        DEEPFM_SERVING, split_ref(ref)[1], make, made_by="train_deepfm", inputs={"model": ref}, force=force
    )
    logger.info("%s for the service: %s", "exported" if made else "found", manifest.ref)
    return manifest.ref


def check_export(model: DeepFm, scorer: Scorer) -> float:
    """Compare the exported network with the Keras network and with the numpy one, and the rows of users and items with
    those of the training; the largest difference of two logits.

    Raises ModelError when one exceeds `TOLERANCE`.
    """
    state = model.state
    users, items = scorer.state.sample_keys(_N_USERS)[0], scorer.state.sample_keys(_N_ITEMS)[1]
    now = Moment(scorer.spec.cut_at / 1000, {})
    inputs = scorer.state.user_inputs([Asker(key) for key in users], now)
    at, length = state.users.positions(np.array(users)), inputs["history"].shape[1]
    user, history, weight = state.user_inputs(at, model.history_length)
    item = scorer.state.item_rows(items, lambda _: (-1, -1))
    same = (inputs["user"][:, :2] == user[:, :2]).all() and (inputs["history"] == history[:, :length]).all()
    same = same and (item == state.item_rows[state.items.positions(np.array(items))]).all()
    if not same or not np.allclose(inputs["history_weight"], weight[:, :length], rtol=1e-4, atol=1e-6):
        raise ModelError("the exported state has other rows of users or items than the training")

    of_pair, item_of_pair = np.divmod(np.arange(len(users) * len(items), dtype=np.int32), max(len(items), 1))
    pairs = {"user": user, "history": history, "history_weight": weight}
    served = scorer.logits({**pairs, "item": item[item_of_pair], "user_of_pair": of_pair}).reshape(len(users), -1)
    tiled = np.broadcast_to(item, (len(users), *item.shape))
    keras_logits = np.asarray(model.to_keras()({**pairs, "item": tiled}))
    numpy_logits = model.scores(np.array(users), np.tile(np.array(items), (len(users), 1)))
    for expected, whose in ((keras_logits, "the Keras network"), (numpy_logits, "its numpy implementation")):
        if not np.allclose(served, expected, rtol=TOLERANCE, atol=TOLERANCE):
            worst = float(np.abs(served - expected).max())
            raise ModelError(f"the exported network differs from {whose} by up to {worst:.2g}; nothing is exported")
    return float(np.abs(served - keras_logits).max(initial=0.0))
