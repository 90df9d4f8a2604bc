"""A pair of files for `recsys benchmark b6 --input FOLDER` out of its training sessions: parameters are chosen there.

    RECSYS_DATA_DIR=… python -m research.benchmarks.held_out_sessions FOLDER

The last 5 % of the training sessions take the place of the test, each with all of its prefixes of two clicks and more.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

from recsys.steps.benchmarks.sessions import TEST, TRAINING

SHARE = 0.05
LEAST_PREFIX = 2  # as in the test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    sessions = pd.read_parquet(Path(os.environ["RECSYS_DATA_DIR"]) / "retailrocket-sessions" / TRAINING)
    n = int(len(sessions) * (1 - SHARE))
    rows = [
        (number, items[:end], int(items[end]))
        for number, items in enumerate(sessions["items"][n:])
        for end in range(len(items) - 1, LEAST_PREFIX - 1, -1)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    sessions[:n].to_parquet(folder / TRAINING)
    pd.DataFrame(rows, columns=["session_id", "prefix", "target"]).to_parquet(folder / TEST)
    print(f"{n:,} sessions, {len(rows):,} prefixes in {folder}")


if __name__ == "__main__":
    main()
