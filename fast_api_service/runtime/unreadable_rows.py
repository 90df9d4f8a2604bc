"""Rows of the catalogue that the service cannot read: each costs itself alone, and is told of once."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

log = logging.getLogger(__name__)

MAX_TOLD: Final = 1000  # rows that one process tells of
_told: set[tuple[str, int]] = set()


def tell(entity: str, keys: Collection[int]) -> None:
    """Tell of rows, by key, that were not told of before."""
    news = [key for key in keys if (entity, key) not in _told][: max(0, MAX_TOLD - len(_told))]
    if news:
        _told.update((entity, key) for key in news)
        log.warning(
            "%d rows of table %s are left out, as their ids cannot be read (see recsys.ids); keys %s%s",
            len(news), {"category": "categories"}.get(entity, entity + "s"),
            ", ".join(map(str, news[:5])), ", …" if len(news) > 5 else "",
        )  # fmt: skip
