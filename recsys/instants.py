"""Instants: read from text and from names, and how far ahead of the clock an event may lie."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

# Clients' clocks differ: the API takes events of so much later than now.
CLOCKS_AHEAD: Final = dt.timedelta(minutes=5)
# Files may hold local times without a zone: imports and nights take events of so much later than now.
LATEST_AHEAD: Final = dt.timedelta(days=1)

DATA_END: Final = "%Y%m%dT%H%M%S"  # how versions begin: names of data sets and of what is made of them, UTC
_DATA_END: Final = re.compile(r"(?:^|/)(\d{8}T\d{6})-")
_DAY: Final = dt.timedelta(days=1)


def instant_of(text: str) -> dt.datetime:
    """ISO 8601 as an aware datetime, UTC where it names no zone; ValueError."""
    at = dt.datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=dt.UTC)


def data_ends_at(name: str) -> dt.datetime | None:
    """When the data of an artifact, data set or list version end, as its name says; None where it does not."""
    found = _DATA_END.search(name)
    return dt.datetime.strptime(found[1], DATA_END).replace(tzinfo=dt.UTC) if found else None


def age_days(of: str, dataset: str) -> float | None:
    """How many days the data of one end before those of another, by their names; None when one does not say."""
    earlier, later = data_ends_at(of), data_ends_at(dataset)
    return None if earlier is None or later is None else (later - earlier) / _DAY
