"""Invalid rows of the catalogue: each is skipped, and logged once."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

log = logging.getLogger(__name__)

MAX_LOGGED: Final = 1000  # rows per process
_logged: set[tuple[str, int]] = set()


def log_once(entity: str, keys: Collection[int]) -> None:
    """Log the rows, by key, that were not logged before."""
    news = [key for key in keys if (entity, key) not in _logged][: max(0, MAX_LOGGED - len(_logged))]
    if news:
        _logged.update((entity, key) for key in news)
        log.warning(
            "%d rows of table %s are left out, as their ids cannot be read (see recsys.ids); keys %s%s",
            len(news), {"category": "categories"}.get(entity, entity + "s"),
            ", ".join(map(str, news[:5])), ", …" if len(news) > 5 else "",
        )  # fmt: skip
