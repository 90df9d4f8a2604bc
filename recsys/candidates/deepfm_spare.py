"""Spare rows in the tables of a served network: users and items that come after the training get rows of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys.candidates.deepfm_training import Weights

_LEAST, _SHARE, _MOST = 1_000, 0.1, 100_000


def n_spare(n_rows: int) -> int:
    """How many rows are kept free beside the `n_rows` of a vocabulary."""
    return int(min(max(_LEAST, _SHARE * n_rows), _MOST))


def with_spare_rows(
    config: dict[str, Any], weights: Weights, n_users: int, n_items: int
) -> tuple[dict[str, Any], Weights]:
    """The same network with `n_users` and `n_items` further rows behind those of users and items.

    They are copies of row 0 (unknown), so that who gets one is scored as before until something is learned of them.
    The network's logits stay what they are: rows are counted within their field.
    """
    wider = {
        **config,
        "user_sizes": [config["user_sizes"][0] + n_users, *config["user_sizes"][1:]],
        "item_sizes": [config["item_sizes"][0] + n_items, *config["item_sizes"][1:]],
        "history_size": config["history_size"] + n_items,
    }
    made = {name: values for name, values in weights.items() if not name.endswith("/table")}
    for name, n_first, n in (
        ("user_fields/table", config["user_sizes"][0], n_users),
        ("item_fields/table", config["item_sizes"][0], n_items),
        ("history_bag/table", config["history_size"], n_items),
    ):
        table = weights[name]
        made[name] = np.concatenate([table[:n_first], np.repeat(table[:1], n, axis=0), table[n_first:]])
    return wider, made
