"""Logging, set up once by each entry point."""

from __future__ import annotations

import logging
import os
import sys


def setup(level: str | None = None) -> None:
    """Log to standard error, one line an event; the level comes from RECSYS_LOG_LEVEL unless given."""
    logging.basicConfig(
        stream=sys.stderr,
        level=(level or os.environ.get("RECSYS_LOG_LEVEL", "INFO")).upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
