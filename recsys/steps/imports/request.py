"""The arguments of `recsys import`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa


@dataclass
class Request:
    """The arguments of `import_raw.run`. `weights`: of the settings; `quarantine`: the folder of bad rows."""

    source: str
    path: Path
    options: dict[str, str]
    weights: Mapping[str, float]
    quarantine: Path
    replace: bool
    drop_duplicates: bool
    keep_duplicates: bool
    allow_bad_rows: bool
    complete_until: dt.datetime | None

    def transaction(self, connection: sa.Connection) -> AbstractContextManager[Any]:
        """A transaction for each step, unless the whole import is one (`replace`)."""
        return nullcontext() if self.replace else connection.begin()
