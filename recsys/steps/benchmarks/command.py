"""Runs one benchmark by its name: measures, checks itself, prints, logs to MLflow, adds to RESULTS.md."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys import settings as settings_module
from recsys.errors import InputError, ModelError
from recsys.settings import Settings
from recsys.steps import recipe
from recsys.steps.benchmarks import clicks, next_item, replay, result, sessions, shop
from recsys.steps.benchmarks.result import Result
from recsys.steps.evaluate import peak_memory_mib

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """One protocol: `run` takes settings, the input and whether to be quick."""

    file: str  # its own input, below RECSYS_DATA_DIR
    run: Callable[[Settings, Path, bool], Result]


BENCHMARKS = {
    "b1": Benchmark("s3rec/Beauty.txt.gz", next_item.sequences_of_a_file),
    "b2": Benchmark("ml-1m/ratings.parquet", next_item.movielens_1m),
    "b3": Benchmark("frappe-libfm", clicks.run),
    "b4": Benchmark("online-retail/online_retail.parquet", shop.run),
    "b5": Benchmark("online-retail/online_retail.parquet", replay.run),
    "b6": Benchmark("retailrocket-sessions", sessions.run),
}


def run(
    name: str, path: Path | None = None, *, quick: bool = False, keep: bool = True, plots: Path | None = None
) -> dict[str, Any]:
    """Run benchmark `name` on `path`, by default its own file below RECSYS_DATA_DIR; the headline.

    `quick`: a part of the users and a small ranker, to see that all runs; its figures say nothing and are not kept.
    `keep`: add the result to RESULTS.md. `plots`: a folder that gets its plots, too.
    Raises InputError without a file, ModelError where a self-check fails.
    """
    if name not in BENCHMARKS:
        raise InputError(f"no benchmark is called {name!r}; there are {', '.join(BENCHMARKS)}")
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
    loaded = settings_module.load()
    recipe.check(loaded)
    started = time.monotonic()
    found = BENCHMARKS[name].run(loaded, path or _own_file(name, BENCHMARKS[name].file), quick)
    seconds, memory = time.monotonic() - started, peak_memory_mib()
    found.cost = f"{seconds:,.0f} s, peak memory {memory / 1024:.1f} GiB."
    found.metrics |= {"seconds": seconds, "peak_memory_mib": memory}
    found.params |= {"quick": quick, "input": path.name if path else BENCHMARKS[name].file}
    if quick:
        found.title += " (quick)"
        found.cost += " A part of the data and small models: these figures say nothing of accuracy."
    result.show(found)
    result.track(found, name, loaded)
    if plots is not None:
        for title, figure in found.figures.items():
            figure.savefig(plots / f"{name}_{title}.png", dpi=110)
    if found.wrong:
        raise ModelError(f"the figures are not to be trusted: {'; '.join(found.wrong)}")
    if keep and not quick:
        result.append(found, [name, *(["--input", path.name] if path else [])])
    return found.headline


def _own_file(name: str, file: str) -> Path:
    folder = os.environ.get("RECSYS_DATA_DIR")
    if not folder:
        raise InputError(f"{name} needs its file: give --input FILE, or RECSYS_DATA_DIR, the folder that holds {file}")
    path = Path(folder) / file
    if not path.exists():
        raise InputError(f"{path} does not exist; give --input FILE, or put it into RECSYS_DATA_DIR")
    return path
