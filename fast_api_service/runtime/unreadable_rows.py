"""Invalid rows of the catalogue: each is skipped, or a part of it, and logged once."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

from recsys.columns import RECOMMENDATION_WEIGHT

log = logging.getLogger(__name__)

MAX_LOGGED: Final = 1000  # rows per process
_WEIGHT: Final = RECOMMENDATION_WEIGHT
_logged: set[tuple[str, int]] = set()


def log_once(entity: str, keys: Collection[int]) -> None:
    """Log the rows, by key, that were not logged before."""
    table = {"category": "categories"}.get(entity, entity + "s")
    _log(entity, keys, f"rows of table {table} are left out, as their ids cannot be read (see recsys.ids)")


def log_badly_weighted(item_keys: Collection[int]) -> None:
    """Log the items, by key, that were not logged before."""
    _log(_WEIGHT, item_keys, f"items are not drawn by the editors, as their {_WEIGHT} is no number from 0 to 1e255")


def _log(subject: str, keys: Collection[int], what: str) -> None:
    news = [key for key in keys if (subject, key) not in _logged][: max(0, MAX_LOGGED - len(_logged))]
    if news:
        _logged.update((subject, key) for key in news)
        shown = ", ".join(map(str, news[:5])) + (", …" if len(news) > 5 else "")
        log.warning("%d %s; keys %s", len(news), what, shown)
