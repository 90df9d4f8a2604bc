"""Progress of an import, and the quarantine of bad rows."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from recsys import log
from recsys.data.sources.base import Part, Rejected

logger = logging.getLogger(__name__)

MAX_NAME_BYTES = 180  # of a part in the name of its quarantine file
LOG_EVERY_S = 10.0  # progress of a long file, without a terminal


def file_name(name: str) -> str:
    """A relative path as a unique file name of valid length."""
    plain = name.replace("/", "_")
    if plain == name and len(name.encode()) <= MAX_NAME_BYTES:
        return name
    short = plain.encode()[-MAX_NAME_BYTES:].decode(errors="ignore")
    return f"{hashlib.sha256(name.encode()).hexdigest()[:8]}-{short}"


class Quarantine:
    """The file of one part's bad rows; rewritten from the part's start at each run, so that rows are not repeated."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._file: Any = None

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, rejected: list[Rejected]) -> None:
        """Write rows and flush them before their chunk is committed."""
        if not rejected:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", newline="", encoding="utf-8")
            csv.writer(self._file).writerow(["file", "line", "reason", "row"])
        csv.writer(self._file).writerows([self._name, row.line, row.reason, as_text(row.text)] for row in rejected)
        self._file.flush()


def as_text(cell: str) -> str:
    """Escape a cell that a spreadsheet would take for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


class Bar:
    """Shows the progress of each file: as a bar on a terminal, else as log lines at intervals."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar

    @contextmanager
    def file(self, part: Part) -> Iterator[Any]:
        """Yields a function that takes the number of rows so far."""
        task = self._bar.add_task(f"{part.stream} {part.name}", total=None, rows="0")
        pace = log.Pace(LOG_EVERY_S)

        def show(n_rows: int) -> None:
            self._bar.update(task, rows=f"{n_rows:,}")
            if self._bar.disable and pace.is_due():
                logger.info("%s of %s: %s rows so far", part.stream, part.name, f"{n_rows:,}")

        yield show


@contextmanager
def progress_bar() -> Iterator[Bar]:
    """Progress on standard error."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TextColumn("{task.fields[rows]} rows"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        yield Bar(bar)
