"""The shop that the notebooks look at, kept under the local folder for the next run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from recsys import settings
from recsys.data.dataset import Dataset
from recsys.steps import generate_shop
from recsys.steps.benchmarks.imported import kept

GENERATED = {"n_users": 1_200, "n_items": 400, "n_events": 40_000, "property_rows_per_item": 20}


def shop(quick: bool) -> Dataset:
    """Online Retail where RECSYS_DATA_DIR holds it, else, and where `quick`, a generated shop."""
    folder = settings.load().local_dir / "notebooks" / "data"
    data_dir = os.environ.get("RECSYS_DATA_DIR")
    file = Path(data_dir or "", "online-retail", "online_retail.parquet")
    if data_dir and file.exists() and not quick:
        return kept(settings.load(), "online-retail", file, folder / "online-retail")
    with tempfile.TemporaryDirectory(prefix="recsys-notebook-") as made:
        if not (folder / "generated").exists():
            generate_shop.run(made, **GENERATED)
        return kept(settings.load(), "retailrocket", Path(made), folder / "generated")
