"""The candidate generators under contract, and the world that they learn. A new one adds one line to GENERATORS."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.candidates import registry
from recsys.types import MICROSECONDS_PER_DAY, CandidateGenerator, Catalogue, Descriptions, Interactions

SLOW = pytest.mark.slow
DEEPFM = {
    "dim": 8,
    "hidden": (16, 8),
    "n_negatives": 7,
    "batch_rows": 32,
    "learning_rate": 0.01,
    "validation_share": 0.0,
    "max_epochs": 12,
    "history_length": 20,
}
SEQUENCE = {
    "dim": 16,
    "max_length": 20,
    "learning_rate": 0.003,
    "batch_events": 100,
    "validation_share": 0.0,
    "max_epochs": 8,
}
GENERATORS = [
    pytest.param("popular", {}),
    pytest.param("recent", {}),
    pytest.param("als", {"factors": 8, "num_threads": 1}),
    pytest.param("covisitation", {}),
    pytest.param("next_item", {}),
    pytest.param("item_knn", {}),
    pytest.param("content", {}),
    pytest.param("ease", {"l2": 5.0}),
    pytest.param("session_neighbours", {}),
    pytest.param("deepfm", DEEPFM, marks=SLOW),
    pytest.param("sequence", SEQUENCE, marks=SLOW),
]
IMPERSONAL = {"popular"}  # gives the same to everybody, unknown users included
KNOWS_NEIGHBOURS = {"als", "covisitation", "next_item", "item_knn", "content"}
OWN_ITEMS_ONLY = {"recent"}  # proposes nothing but what the user already has

DAY = MICROSECONDS_PER_DAY
CUT_AT = 20_000 * DAY
N_USERS, N_ITEMS = 40, 20
USER_KEYS = np.arange(N_USERS, dtype=np.int32) * 3 + 7  # keys are sparse and do not start at 0
ITEM_KEYS = np.arange(N_ITEMS, dtype=np.int32) * 2 + 11
UNKNOWN_KEY = np.int32(1_000_003)

every_generator = pytest.mark.parametrize(("name", "params"), GENERATORS)
personal_generator = pytest.mark.parametrize(
    ("name", "params"), [each for each in GENERATORS if each.values[0] not in IMPERSONAL]
)
learning_generator = pytest.mark.parametrize(
    ("name", "params"), [each for each in GENERATORS if each.values[0] not in IMPERSONAL | OWN_ITEMS_ONLY]
)
similar_items = pytest.mark.parametrize(
    ("name", "params"), [each for each in GENERATORS if each.values[0] in KNOWS_NEIGHBOURS]
)


def interactions(
    users: NDArray[Any], items: NDArray[Any], age_days: NDArray[Any] | None = None, weight: float = 1.0
) -> Interactions:
    """Events by position of user and item, in time order; one session per user and day."""
    n = len(users)
    age = np.full(n, 1.0) if age_days is None else age_days
    at = (CUT_AT - age * DAY).astype(np.int64)
    order = np.argsort(at, kind="stable")
    at, users, items = at[order], users[order], items[order]
    return Interactions(
        USER_KEYS[users],
        ITEM_KEYS[items],
        np.zeros(n, dtype=np.int8),
        np.full(n, weight, dtype=np.float32),
        at,
        users * 100_000 + at // DAY,
        np.full(n, np.nan),
        ("view",),
        CUT_AT,
    )


def catalogue(available: NDArray[np.bool_] | None = None) -> Catalogue:
    """The properties of an item tell its taste, twice, and whether it is of the first or the last ten."""
    nobody = np.full(N_ITEMS, -1, dtype=np.int32)
    of_taste = [("round", "red"), ("square", "blue")]
    descriptions = [
        json.dumps(dict(zip(("shape", "colour"), of_taste[i % 2], strict=True)) | {"range": i // 10})
        for i in range(N_ITEMS)
    ]
    return Catalogue(
        ITEM_KEYS,
        np.ones(N_ITEMS, dtype=bool) if available is None else available,
        nobody,
        nobody,
        np.zeros(N_ITEMS, dtype=np.int64),
        lambda: Descriptions([None] * N_ITEMS, np.full(N_ITEMS, np.nan), descriptions),
    )


def part_of(whole: Catalogue, first: int, last: int) -> Catalogue:
    """The items from `first` to before `last`."""
    arrays = {name: values[first:last] for name, values in vars(whole).items() if name != "describe"}
    assert whole.describe is not None
    descriptions = {name: values[first:last] for name, values in vars(whole.describe()).items()}
    return replace(whole, **arrays, describe=lambda: Descriptions(**descriptions))


def checkerboard() -> tuple[Interactions, NDArray[np.bool_]]:
    """Even users have a taste for even items, odd users for odd ones; each misses one item of its taste.

    Also the mask (n_users, n_items) of what each user has. Even items are the more popular ones by far, because
    even users come twice: popularity alone would give them to everybody.
    """
    user, item = np.meshgrid(np.arange(N_USERS), np.arange(N_ITEMS), indexing="ij")
    has = (user % 2 == item % 2) & (item // 2 != user // 2 % (N_ITEMS // 2))
    users, items = np.nonzero(has)
    again = users % 2 == 0
    users, items = np.concatenate([users, users[again]]), np.concatenate([items, items[again]])
    age = 1.0 + np.arange(len(users)) % 5
    return interactions(users, items, age), has


def fitted(name: str, params: dict[str, Any], available: NDArray[np.bool_] | None = None) -> CandidateGenerator:
    return registry.make(name, params).fit(checkerboard()[0], catalogue(available))


def seen_matrix(has: NDArray[np.bool_]) -> sp.csr_matrix:
    """What users have, columns are item keys, one row per user of USER_KEYS."""
    users, items = np.nonzero(has)
    return sp.csr_matrix((np.ones(len(users)), (users, ITEM_KEYS[items])), shape=(len(has), ITEM_KEYS[-1] + 1))


def missing_item(user: int) -> np.int32:
    return ITEM_KEYS[user // 2 % (N_ITEMS // 2) * 2 + user % 2]


def assert_well_formed(item_key: NDArray[Any], score: NDArray[Any]) -> None:
    """Distinct items best first; -1 and NaN together, and only at the end."""
    assert item_key.dtype == np.int32
    assert score.dtype == np.float32
    for keys, scores in zip(item_key, score, strict=True):
        n_found = int((keys >= 0).sum())
        assert (keys[:n_found] >= 0).all()
        assert (keys[n_found:] == -1).all()
        assert np.isnan(scores[n_found:]).all()
        assert len(set(keys[:n_found].tolist())) == n_found
        assert np.isfinite(scores[:n_found]).all()
        assert (np.diff(scores[:n_found]) <= 0).all()
