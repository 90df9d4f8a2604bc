"""Write the files of a synthetic shop, to be imported as source `retailrocket`."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from recsys import log
from recsys.data.sources.generated_files import PROPERTY_ROWS_PER_ITEM, write_shop

logger = logging.getLogger(__name__)


def run(
    folder: str | Path,
    n_users: int = 5_000,
    n_items: int = 1_000,
    n_events: int = 100_000,
    seed: int = 42,
    property_rows_per_item: int = PROPERTY_ROWS_PER_ITEM,
) -> dict[str, Any]:
    """Write `events.csv`, `item_properties_part1.csv`, `…2.csv` and `category_tree.csv`; returns their row counts.

    Deterministic for given arguments. Raises InputError for sizes that are too small.
    """
    log.setup()
    started = time.monotonic()
    n_rows = write_shop(Path(folder), n_users, n_items, n_events, seed, property_rows_per_item)
    seconds = round(time.monotonic() - started, 1)
    logger.info(
        "generated shop in %s: %s, in %.1f s", folder, ", ".join(f"{k} {v:,}" for k, v in n_rows.items()), seconds
    )
    return {"folder": str(folder), "n_rows": n_rows, "seconds": seconds}
