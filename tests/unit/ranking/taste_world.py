"""A shop whose answer is known: each user has one of two tastes, buys new items of it every few days, and items come
into and go out of fashion. 240 users (or as many as asked for), 240 items, 100 days."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.data.dataset import INSTANT, Dataset, DatasetMeta, write_dataset
from recsys.types import MICROSECONDS_PER_DAY as DAY

N_USERS, N_ITEMS, N_DAYS = 240, 240, 100
WINDOW_DAYS = 14
CUT_AT = (N_DAYS - WINDOW_DAYS) * DAY
SURGE = np.arange(4)  # items of the first taste that hardly anybody buys before the cut


def events(seed: int, *, surge: bool = False, fashion: float = 1.0, n_users: int = N_USERS) -> dict[str, np.ndarray]:
    """Purchases; with `surge` nearly everybody buys the items of SURGE after CUT_AT, and before it all is the same.

    `fashion`: 0 for an appeal of items that never changes, up to 1.
    """
    rng = np.random.default_rng(seed)
    taste = np.arange(n_users) % 2
    appeal = 1 / np.arange(1, N_ITEMS // 2 + 1) ** 0.7
    rows: list[tuple[float, int, int]] = []
    for user in range(n_users):
        at = rng.uniform(0, 8)
        while at < N_DAYS:
            wave = np.cos(2 * np.pi * (np.arange(N_ITEMS // 2) / 40 - at / 60))
            chance = appeal * (1 + fashion * wave)
            if taste[user] == 0:
                chance[SURGE] = 1e-3
            bought = rng.choice(N_ITEMS // 2, size=3, replace=False, p=chance / chance.sum())
            rows += [(at, user, int(item) + taste[user] * N_ITEMS // 2) for item in bought]
            at += rng.uniform(4, 12)
    rows += [(1.0, user, int(item)) for user, item in zip(range(len(SURGE)), SURGE, strict=True)]
    if surge:
        rows += [(N_DAYS - WINDOW_DAYS + 1.0, user, int(item)) for user in range(0, n_users, 2) for item in SURGE]
    rows.sort()
    return {
        "day": np.array([row[0] for row in rows]),
        "user": np.array([row[1] for row in rows], dtype=np.int32),
        "item": np.array([row[2] for row in rows], dtype=np.int32),
    }


def dataset(
    folder: Path,
    seed: int = 1,
    *,
    surge: bool = False,
    fashion: float = 1.0,
    n_users: int = N_USERS,
    days: tuple[float, float] = (0, N_DAYS),
) -> Dataset:
    """The world as a prepared data set in `folder`, which is made; `days`: what of it is known, [from, until)."""
    folder.mkdir(parents=True, exist_ok=True)
    made = events(seed, surge=surge, fashion=fashion, n_users=n_users)
    known = (made["day"] >= days[0]) & (made["day"] < days[1])
    made = {name: values[known] for name, values in made.items()}
    as_of = round(days[1] * DAY)
    at = (made["day"] * DAY).astype(np.int64)
    n = len(at)
    first = np.full(N_ITEMS, as_of - 1, dtype=np.int64)
    np.minimum.at(first, made["item"], at)
    first_of_user = np.full(n_users, as_of - 1, dtype=np.int64)
    np.minimum.at(first_of_user, made["user"], at)
    tables = {
        "events": pa.table(
            {
                "event_id": np.arange(n),
                "user_key": made["user"],
                "item_key": made["item"],
                "event_type": pa.array(["buy"] * n),
                "occurred_at": pa.array(at, INSTANT),
                "weight": np.ones(n, dtype=np.float32),
                "value": np.full(n, 5.0),
                "session_id": np.unique(np.stack([made["user"], at], axis=1), axis=0, return_inverse=True)[1].ravel(),
            }
        ),
        "items": pa.table(
            {
                "item_key": np.arange(N_ITEMS),
                "item_id": [f"i{item}" for item in range(N_ITEMS)],
                "available": np.ones(N_ITEMS, dtype=bool),
                "first_seen_at": pa.array(first, INSTANT),
            }
        ),
        "users": pa.table(
            {
                "user_key": np.arange(n_users),
                "user_id": [f"u{user}" for user in range(n_users)],
                "first_seen_at": pa.array(first_of_user, INSTANT),
            }
        ),
    }
    meta = DatasetMeta("taste world", as_of, ("buy",), {"buy": 1.0}, ("buy",), ("buy",))
    return write_dataset(folder, meta, tables)
