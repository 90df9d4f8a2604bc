"""What a benchmark found, and how it is shown, logged and kept."""

from __future__ import annotations

import datetime as dt
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from recsys.settings import ROOT, Settings
from recsys.tracking import Tracker

RESULTS = ROOT / "research" / "benchmarks" / "RESULTS.md"
Rows = Sequence[Mapping[str, Any]]


@dataclass
class Result:
    """Everything that one run of a benchmark found."""

    title: str
    data: str  # which, and how large
    tables: dict[str, Rows] = field(default_factory=dict)  # heading → rows
    checks: list[tuple[str, bool]] = field(default_factory=list)  # what was seen, whether that is right
    headline: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    cost: str = ""  # time and memory

    @property
    def wrong(self) -> list[str]:
        """The self-checks that failed."""
        return [text for text, is_right in self.checks if not is_right]


def show(result: Result, console: Console | None = None) -> None:
    """Print everything; tables as wide as they need where the output is no terminal."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=180)
    for heading, rows in result.tables.items():
        if rows:
            console.print(_table(heading, rows))
    for text, is_right in result.checks:
        console.print(f"{'right' if is_right else 'WRONG'}: {text}", highlight=False)
    console.print(f"{result.title}. {result.data} {result.cost}", highlight=False)


def _table(heading: str, rows: Rows) -> Table:
    table = Table(title=heading, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(cell(value) for value in row.values()))
    return table


def cell(value: Any) -> str:
    """A value as the tables show it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def track(result: Result, name: str, loaded: Settings) -> None:
    """Log it to MLflow, experiment "benchmark"."""
    tracker = Tracker(loaded.mlflow_tracking_uri, f"{loaded.artifact_root}/mlflow")
    tags = {"commit": commit(), "benchmark": name}
    with tracker.run("benchmark", result.title, params=result.params, tags=tags) as log:
        log.metrics(result.metrics)
        for heading, rows in result.tables.items():
            log.table(re.sub(r"[^\w@]+", "_", heading.lower()), rows)  # MLflow refuses commas in names
        for heading, figure in result.figures.items():
            log.figure(heading, figure)


def append(result: Result, arguments: Sequence[str], path: Path = RESULTS) -> None:
    """Add a section to RESULTS.md: date, commit, command, what it took, tables."""
    head = f"{dt.datetime.now(dt.UTC).date()}, commit {commit()}, `recsys benchmark {shlex.join(arguments)}`."
    parts = [f"## {result.title}", f"{head} {result.data} {result.cost}"]
    for heading, rows in result.tables.items():
        if rows:
            parts += [f"{heading}:", _markdown(rows)]
    parts.append("\n".join(f"- {text}" for text, _ in result.checks))
    with path.open("a") as file:
        file.write("\n" + "\n\n".join(part for part in parts if part) + "\n")


def _markdown(rows: Rows) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(cell(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines)


def commit() -> str:
    """The commit of the code, with a + where files were changed since; "unknown" outside a repository."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    found = subprocess.run(  # noqa: S603 - fixed arguments
        [git, "-C", str(ROOT), "describe", "--always", "--abbrev=10", "--dirty=+"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"
