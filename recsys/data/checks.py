"""Sanity of a data set before anything is made of it: a broken export must not become tomorrow's lists."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow.compute as pc

from recsys import columns as col
from recsys.data.dataset import Dataset
from recsys.errors import EmptyResultError
from recsys.instants import LATEST_AHEAD

COUNTED = ("events", "users", "items")
MIN_SHARE_OF_FORMER = 0.5
MANY_EVENTS = 1_000  # with fewer, somebody has a large share


def problems(dataset: Dataset, *, now: dt.datetime) -> list[str]:
    """What is wrong with a data set in itself, each with what to do about it; empty when nothing is."""
    found = []
    if dataset.meta.as_of_at > now + LATEST_AHEAD:
        found.append(
            f"events lie in the future (up to {dataset.meta.as_of_at.isoformat()}, and now it is "
            f"{now.isoformat(timespec='seconds')}): fix the timestamps, or name a cut-off (--as-of)"
        )
    if not _n_available(dataset):
        found.append("not one item is available: look at the property 'available' in the raw data")
    return found


def notices(dataset: Dataset, *, max_user_share: float) -> list[str]:
    """What is sound, and yet makes for poor recommendations, each with what to do about it.

    `max_user_share`: of the events, that a single user should not have more of.
    """
    found = []
    if dataset.meta.n_rows["items"] < 2:
        found.append("there is only one item: nothing can be recommended beside it; import more")
    events = dataset.table("events", [col.USER_KEY, col.EVENT_TYPE])
    per_user = np.bincount(events[col.USER_KEY].to_numpy())
    most, n_events = int(per_user.max()), len(events)
    if n_events >= MANY_EVENTS and most > max_user_share * n_events:
        key = int(per_user.argmax())  # ids of users are in the database alone
        found.append(
            f"the user of user_key {key} (table users) has {most / n_events:.0%} of the events ({most:,} of "
            f"{n_events:,}), more than {max_user_share:.0%} (RECSYS_MAX_USER_SHARE): if that is a bot, leave its "
            "rows out of the export"
        )
    types = set(events[col.EVENT_TYPE].unique().to_pylist())
    if missing := [name for name in dataset.meta.label_event_types if name not in types]:
        found.append(
            f"no event is of the type {', '.join(missing)}, to learn to bring about; the types are "
            f"{', '.join(sorted(types))} (RECSYS_LABEL_EVENT_TYPES, or --option labels=… at the import of a table)"
        )
    return found


def losses(dataset: Dataset, former: Dataset) -> list[str]:
    """What went missing against a former data set of the same or an earlier cut-off; empty when nothing did."""
    if former.meta.as_of > dataset.meta.as_of or former.meta.source != dataset.meta.source:
        return []
    counts = {name: (dataset.meta.n_rows[name], former.meta.n_rows[name]) for name in COUNTED}
    counts["available items"] = (_n_available(dataset), _n_available(former))
    return [
        f"{name} fell from {before:,} to {now:,}: if that is meant, prepare with --force"
        for name, (now, before) in counts.items()
        if now < MIN_SHARE_OF_FORMER * before
    ]


def require(found: list[str]) -> None:
    """Raises EmptyResultError with all problems when there are any."""
    if found:
        raise EmptyResultError("the data set is refused: " + "; ".join(found))


def _n_available(dataset: Dataset) -> int:
    return int(pc.sum(dataset.table("items", [col.AVAILABLE])[col.AVAILABLE]).as_py() or 0)
