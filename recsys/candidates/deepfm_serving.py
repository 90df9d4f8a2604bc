"""What the service needs of a fitted DeepFM, as files that it maps into memory; neither Keras nor gigabytes.

network.onnx, weights/*.npy  the network, as `networks.deepfm_onnx` writes it; what is served are its two parts,
items.onnx, pairs.onnx       with the same weights
keras.json                   the same network without its weights, by which exports become .keras files
spec.json                    what its inputs mean (`FeatureSpec` of recsys.features.deepfm_spec)
state/*.npy                  vocabularies, item rows, each user's number of events and latest items, and how popular
                             items are (for the negatives of `recsys updater`)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.candidates.deepfm import DeepFm
from recsys.candidates.deepfm_calibration import PRIOR, UNCALIBRATED
from recsys.candidates.deepfm_spare import n_spare, with_spare_rows
from recsys.candidates.deepfm_training import network_config
from recsys.features.deepfm_spec import POPULARITY, STATE, FeatureSpec, state_file
from recsys.networks.deepfm_onnx import write_network

# Parameters of DeepFm that hold for `recsys updater`, too.
_TRAINING = ("learning_rate", "n_negatives", "uniform_share", "min_user_events", "min_item_events")


def write_for_serving(model: DeepFm, folder: Path) -> None:
    """Write the files into an empty folder. Imports Keras (seconds); ModelError when the exporter loses a weight."""
    state = model.state
    config, weights = with_spare_rows(
        network_config(state.vocabularies, model.dim, model.hidden),
        state.weights,
        n_spare(state.vocabularies.user.size),
        n_spare(state.vocabularies.item.size),
    )
    write_network(config, weights, folder)
    scale, offset = state.calibration
    spec = FeatureSpec(
        cut_at=int(model.cut_at or 0),
        network=config,
        history_length=model.history_length,
        history_half_life_days=model.history_half_life_days,
        mean_event_weight=float(state.mean_event_weight),
        scale=float(scale),
        offset=float(offset),
        prior=PRIOR,
        is_calibrated=not np.array_equal(state.calibration, UNCALIBRATED),
        context_names=list(state.vocabularies.context_names),
        training={name: getattr(model, name) for name in _TRAINING},
    )
    spec.write(folder)
    arrays: dict[str, NDArray[Any]] = {
        "user_vocabulary": state.vocabularies.user.keys,
        "item_vocabulary": state.vocabularies.item.keys,
        "category_vocabulary": state.vocabularies.category.keys,
        "parent_category_vocabulary": state.vocabularies.parent_category.keys,
        "items": state.items.keys,
        "item_rows": state.item_rows,
        "users": state.users.keys,
        "n_events": state.n_events,
        "history_start": state.history_start,
        "history": state.history,
        "history_weight": state.history_weight,
        POPULARITY: state.popularity,
    }
    (folder / state_file("users")).parent.mkdir()
    for name in (*STATE, POPULARITY):
        np.save(folder / state_file(name), arrays[name], allow_pickle=False)
