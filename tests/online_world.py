"""A world of two tastes with a real DeepFM, for what learns between two nights: users like the items of their own half.

Users have keys 1 to 60 (ids 501 to 560), items 1 to 40 (ids 1001 to 1040); user and item suit each other where both
keys are even or both odd. Items 41 to 60 came after the training.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from recsys.storage import tables
from recsys.types import MICROSECONDS_PER_DAY as DAY
from recsys.types import Catalogue, Interactions, Texts
from tests.integration import serving_shop as shop

N_USERS, N_ITEMS, N_EVENTS = 60, 40, 3000
CUT = 1_790_000_000_000_000  # a night of 2026
CUT_AT = dt.datetime.fromtimestamp(CUT / 1e6, dt.UTC)
CONTEXTS = (  # at even places what goes with even items
    '{"device": "mobile", "stars": 5}',
    '{"device": "desktop", "stars": 1}',
    '{"campaign": "spring", "stars": 5}',
    '{"campaign": "autumn", "stars": 1}',
)
PARAMS: dict[str, Any] = {
    "dim": 8,
    "hidden": (16, 8),
    "n_negatives": 7,
    "batch_rows": 64,
    "learning_rate": 0.01,
    "max_epochs": 6,
    "history_length": 20,
}


def contextual_events() -> Interactions:
    """Whoever it is: on a phone and in the spring campaign even items are taken, elsewhere odd ones. And five stars for
    even items, which nobody knows beforehand."""
    known = events(1)
    random = np.random.default_rng(2)
    code = random.integers(0, len(CONTEXTS), N_EVENTS).astype(np.int32)
    item = 2 * random.integers(0, N_ITEMS // 2, N_EVENTS) + np.where(code % 2 == 0, 2, 1)
    return replace(known, item_key=item.astype(np.int32), parameters=Texts(code, CONTEXTS))


def events(seed: int = 0) -> Interactions:
    """95 of 100 events are of the user's own half; low items are popular."""
    random = np.random.default_rng(seed)
    user = random.integers(1, N_USERS + 1, N_EVENTS)
    popularity = 1.0 / (1 + np.arange(N_ITEMS // 2))
    item = 2 * random.choice(N_ITEMS // 2, N_EVENTS, p=popularity / popularity.sum()) + 2 - user % 2
    item = np.where(random.random(N_EVENTS) < 0.05, random.integers(1, N_ITEMS + 1, N_EVENTS), item)
    at = CUT - (np.sort(random.random(N_EVENTS))[::-1] * 40 * DAY).astype(np.int64) - 1
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        np.zeros(N_EVENTS, dtype=np.int8),
        np.ones(N_EVENTS, dtype=np.float32),
        at,
        np.arange(N_EVENTS),
        np.full(N_EVENTS, np.nan),
        ("view",),
        CUT,
    )


def catalogue() -> Catalogue:
    key = np.arange(1, N_ITEMS + 1, dtype=np.int32)
    return Catalogue(
        key,
        np.ones(N_ITEMS, dtype=bool),
        np.full(N_ITEMS, 2, dtype=np.int32),
        np.full(N_ITEMS, 1, dtype=np.int32),
        np.full(N_ITEMS, CUT - 100 * DAY),
    )


def write_model(root: Path, version: str, seed: int = 42, cut_at: int = CUT, known: Interactions | None = None) -> None:
    """Train, and make the artifact `deepfm_serving/<version>` under `root`; some seconds, with Keras."""
    from recsys.candidates.deepfm import DeepFm
    from recsys.candidates.deepfm_serving import write_for_serving

    known = known or events()
    if cut_at != CUT:
        known = Interactions(**{**known.__dict__, "cut_at": cut_at})
    model = DeepFm(**{**PARAMS, "seed": seed}).fit(known, catalogue())
    with ArtifactStore(str(root)).writing("deepfm_serving", version, made_by="tests") as (folder, _):
        write_for_serving(model, folder)


def stock(engine: sa.Engine, model: str = "deepfm/v1") -> None:
    """The shop of `serving_shop` with all users, published on a model."""
    shop.stock(engine)
    more = [{"user_key": key, "user_id": str(500 + key)} for key in range(4, N_USERS + 1)]
    with engine.begin() as connection:
        connection.execute(sa.insert(tables.users), more)
    shop.publish(engine, model.partition("/")[2], shop.FIRST, {"deepfm": model})


def sample(user: int, item: int, number: int, **more: Any) -> dict[str, Any]:
    """An event of a user and an item by their keys, as clients post it, some seconds after the cut."""
    at = CUT_AT + dt.timedelta(seconds=number)
    sample = {"event_id": f"e{number}", "user_id": 500 + user, "item_id": 1000 + item, "timestamp": at.isoformat()}
    return sample | more


def taste(number: int, random: np.random.Generator, **more: Any) -> dict[str, Any]:
    """An event as the users of this world make it."""
    user = int(random.integers(1, N_USERS + 1))
    return sample(user, 2 * int(random.integers(0, N_ITEMS // 2)) + 2 - user % 2, number, **more)
