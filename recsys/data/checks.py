"""Sanity of a data set before anything is made of it: a broken export must not become tomorrow's lists."""

from __future__ import annotations

import datetime as dt

import pyarrow.compute as pc

from recsys import columns as col
from recsys.data.dataset import Dataset
from recsys.data.instants import LATEST_AHEAD
from recsys.errors import EmptyResultError

MIN_ROWS = {"events": 10, "users": 2, "items": 2}
MIN_SHARE_OF_FORMER = 0.5


def problems(dataset: Dataset, *, now: dt.datetime) -> list[str]:
    """What is wrong with a data set in itself, each with what to do about it; empty when nothing is."""
    found = []
    n_rows = dataset.meta.n_rows
    found += [
        f"only {n_rows[name]} {name} (at least {least} are needed): import more data, or name a later cut-off"
        for name, least in MIN_ROWS.items()
        if n_rows[name] < least
    ]
    if dataset.meta.as_of_at > now + LATEST_AHEAD:
        found.append(
            f"events lie in the future (up to {dataset.meta.as_of_at.isoformat()}, and now it is "
            f"{now.isoformat(timespec='seconds')}): mend the timestamps, or name a cut-off (--as-of)"
        )
    if n_rows["items"] and not _n_available(dataset):
        found.append("not one item is available: look at the property 'available' in the raw data")
    return found


def losses(dataset: Dataset, former: Dataset) -> list[str]:
    """What went missing against a former data set of the same or an earlier cut-off; empty when nothing did."""
    if former.meta.as_of > dataset.meta.as_of or former.meta.source != dataset.meta.source:
        return []
    counts = {name: (dataset.meta.n_rows[name], former.meta.n_rows[name]) for name in MIN_ROWS}
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
