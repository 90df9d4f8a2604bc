"""A serving artifact that is made in a moment: a network of a few ONNX nodes where a real one takes Keras.

Its logit is the item's bias + the taste of the user's latest items · the item's taste + a bias of the part of the day.
Items of even keys have taste 1, those of odd keys -1; the bias falls with the key, or rises with it (`rising`).
Users 1 and 2 have rows of their own, 3 had an event and has none; items 1 to 55 have, and 56 to 60 came later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper

from recsys.artifacts import ArtifactStore
from recsys.features.deepfm_fields import N_USER_FIELDS
from recsys.features.deepfm_spec import FeatureSpec, state_file
from recsys.networks.keras_file import CONFIG, METADATA, OUTLINE, PLACES
from recsys.networks.onnx_files import ITEM_SIDE, ITEMS, NETWORK, OUTPUT, PAIRS, weight_file
from recsys.networks.onnx_parts import parts

N_ITEMS, N_KNOWN = 60, 55
CUT_AT = 1_700_000_000_000_000
_CONSTANTS = {"zero": [0], "one": [1], "two": [2], "three": [3]}
_NODES = [
    ("Gather", ["item", "zero"], "item_column", {"axis": 1}),
    ("Squeeze", ["item_column", "one"], "item_row", {}),
    ("Gather", ["item_fields/table", "item_row"], ITEM_SIDE, {}),  # (n_pairs, 2): taste, bias
    ("Slice", [ITEM_SIDE, "zero", "one", "one"], "taste", {}),
    ("Slice", [ITEM_SIDE, "one", "two", "one"], "bias", {}),
    ("Gather", ["history_bag/table", "history"], "latest", {}),  # (n_users, length, 1)
    ("Unsqueeze", ["history_weight", "one"], "weight", {}),
    ("MatMul", ["weight", "latest"], "bag", {}),  # (n_users, 1, 1)
    ("Squeeze", ["bag", "one"], "user_taste", {}),
    ("Gather", ["user", "three"], "part_column", {"axis": 1}),
    ("Squeeze", ["part_column", "one"], "part", {}),
    ("Gather", ["user_fields/table", "part"], "user_bias", {}),  # (n_users, 1)
    ("Gather", ["user_taste", "user_of_pair"], "taste_of_pair", {}),
    ("Gather", ["user_bias", "user_of_pair"], "bias_of_pair", {}),
    ("Mul", ["taste", "taste_of_pair"], "match", {}),
    ("Sum", ["match", "bias", "bias_of_pair"], "total", {}),
    ("Squeeze", ["total", "one"], OUTPUT, {}),
]


def write(root: Path, version: str, *, rising: bool = False) -> None:
    """Make the artifact `deepfm_serving/<version>` under `root`."""
    with ArtifactStore(str(root)).writing("deepfm_serving", version, made_by="tests") as (folder, _):
        keys = np.arange(N_KNOWN + 1)
        taste = np.where(keys % 2 == 0, 1, -1).astype(np.float32)
        bias = (keys if rising else N_KNOWN - keys).astype(np.float32) / 20
        taste[0], bias[0] = 0, -1  # unknown
        weights = {
            "item_fields/table": np.stack([taste, bias], axis=1),
            "history_bag/table": taste[:, None],
            "user_fields/table": np.linspace(0, 0.8, 9, dtype=np.float32)[:, None],
        }
        _write_network(folder, weights)
        FeatureSpec(CUT_AT, {}, 20, 60.0, 1.0, 1.0, -1.0, 0.5, True).write(folder)
        (folder / "state").mkdir()
        known = np.arange(1, N_KNOWN + 1, dtype=np.int32)
        rows = np.zeros((N_KNOWN, 6), dtype=np.int32)
        rows[:, 0], rows[:, 1] = known, np.where(known <= 50, 1, 2)
        state: dict[str, Any] = {
            "user_vocabulary": np.array([1, 2], dtype=np.int32),
            "item_vocabulary": known,
            "category_vocabulary": np.array([2, 3], dtype=np.int32),
            "parent_category_vocabulary": np.array([1], dtype=np.int32),
            "items": known,
            "item_rows": rows,
            "users": np.array([1, 2, 3], dtype=np.int32),
            "n_events": np.array([3, 1, 1], dtype=np.int32),
            "history_start": np.array([0, 2, 2, 2]),
            "history": np.array([1, 3], dtype=np.int32),  # user 1 looked at odd items
            "history_weight": np.array([0.8, 0.6], dtype=np.float32),
        }
        for name, array in state.items():
            np.save(folder / state_file(name), array)


def in_service(client: httpx.Client) -> str | None:
    """The model that a service has loaded."""
    loaded: str | None = client.get("/model/info").json()["scorer"]["loaded"]
    return loaded


def _write_network(folder: Path, weights: dict[str, np.ndarray]) -> None:
    places = {name: f"{name.partition('/')[0]}/vars/0" for name in weights}
    (folder / OUTLINE).write_text(json.dumps({CONFIG: {}, METADATA: {}, PLACES: places}))
    (folder / "weights").mkdir()
    inputs = [
        helper.make_tensor_value_info("user", TensorProto.INT32, ["n_users", N_USER_FIELDS]),
        helper.make_tensor_value_info("history", TensorProto.INT32, ["n_users", "length"]),
        helper.make_tensor_value_info("history_weight", TensorProto.FLOAT, ["n_users", "length"]),
        helper.make_tensor_value_info("item", TensorProto.INT32, ["n_pairs", 6]),
        helper.make_tensor_value_info("user_of_pair", TensorProto.INT32, ["n_pairs"]),
    ]
    initializers = [helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in _CONSTANTS.items()]
    for name, value in weights.items():
        np.save(folder / weight_file(name), value)
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
        initializers.append(helper.make_tensor(name, TensorProto.FLOAT, value.shape, value.ravel()))
    nodes = [helper.make_node(op, ins, [out], **attributes) for op, ins, out, attributes in _NODES]
    outputs = [
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n_pairs"]),
        helper.make_tensor_value_info(ITEM_SIDE, TensorProto.FLOAT, ["n_pairs", 2]),
    ]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    for file, part in zip((NETWORK, ITEMS, PAIRS), (model, *parts(model)), strict=True):
        onnx.save(part, folder / file)
