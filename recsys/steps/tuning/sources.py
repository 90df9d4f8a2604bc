"""Where the data sets of a tuning come from: RECSYS_DATA_DIR, files that are given, and this installation's own."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data import sequences
from recsys.data.dataset import META_FILE, Dataset
from recsys.errors import InputError, NotFoundError
from recsys.settings import Settings
from recsys.steps.benchmarks.command import BENCHMARKS
from recsys.steps.benchmarks.imported import kept
from recsys.steps.benchmarks.next_item import FILM_COLUMNS, films
from recsys.steps.benchmarks.sessions import TRAINING
from recsys.steps.context import Context
from recsys.steps.tuning.sets import TuningSet, last_items, sessions, shop

logger = logging.getLogger(__name__)

OWN = "own"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
KNOWN = {"online-retail": "b4", "beauty": "b1", "ml-1m": "b2", "sessions": "b6"}  # name → benchmark that has the file
B4_DAYS = 14.0
FORMS = (
    f"a text of lines `user item item …`, a folder with {TRAINING}, a Parquet file with {', '.join(FILM_COLUMNS)}, the "
    f"invoices of Online Retail, or a prepared data set (its folder, or its reference, dataset/…)"
)
HOW = f"give one by --data NAME=FILE ({FORMS}), set RECSYS_DATA_DIR, or prepare your own (`recsys prepare-dataset`)"


def sets_of(loaded: Settings, given: Mapping[str, str], dataset: str | None, folder: Path) -> list[TuningSet]:
    """All sets that are there. `given`: name → file; `dataset`: the reference of one's own, the newest when None;
    `folder`: takes what is made of files. Raises InputError where there is none, or one that was given is unusable."""
    for name in given:
        if name == OWN or not _NAME.fullmatch(name):
            raise InputError(
                f"--data {name}=…: name a data set by letters, digits, - and _; {OWN} is that of this installation"
            )
    found = [read(loaded, name, file, folder) for name, file in (_in_data_dir() | dict(given)).items()]
    try:
        found.append(_own(loaded, dataset))
    except (InputError, NotFoundError) as error:
        if dataset is not None:
            raise
        logger.warning("without a data set of this installation: %s", error)
    if not found:
        raise InputError(f"there is no data set to tune on; {HOW}")
    return found


def _in_data_dir() -> dict[str, str]:
    """The benchmarks' files that are below RECSYS_DATA_DIR, by name."""
    root = os.environ.get("RECSYS_DATA_DIR")
    files = {name: Path(root, BENCHMARKS[one].file) for name, one in KNOWN.items()} if root else {}
    return {name: str(path) for name, path in files.items() if path.exists()}


def _own(loaded: Settings, dataset: str | None) -> TuningSet:
    ctx = Context.open(loaded)
    ref, data = ctx.dataset(dataset)
    logger.info("%s is %s", OWN, ref)
    return shop(OWN, data, loaded.label_window_days, loaded.seed)


def read(loaded: Settings, name: str, file: str, folder: Path) -> TuningSet:
    """The set in a file, whose form is seen by what is in it; InputError."""
    path, seed = Path(file), loaded.seed
    if file.startswith("dataset/"):
        return shop(name, Context.open(loaded).dataset(file)[1], loaded.label_window_days, seed)
    if not path.exists():
        raise InputError(f"--data {name}={file}: there is no such file; expected is {FORMS}")
    if path.is_dir():
        return _folder(loaded, name, path)
    columns = _columns(path)
    if set(FILM_COLUMNS) <= columns:
        return last_items(name, films(path)[0], folder / name, seed)
    if columns:
        stamp = path.stat()
        kept_in = loaded.local_dir / "tuning" / f"{path.stem}-{stamp.st_size}-{int(stamp.st_mtime)}"
        return shop(name, kept(loaded, "online-retail", path, kept_in), B4_DAYS, seed)
    return last_items(name, sequences.read(path), folder / name, seed)


def _folder(loaded: Settings, name: str, path: Path) -> TuningSet:
    if (path / META_FILE).exists():
        return shop(name, Dataset(path), loaded.label_window_days, loaded.seed)
    if (path / TRAINING).exists():
        training = pd.read_parquet(path / TRAINING, columns=["items"])["items"].tolist()
        return sessions(name, training, loaded.seed)
    raise InputError(f"--data {name}={path} holds neither {META_FILE} nor {TRAINING}; expected is {FORMS}")


def _columns(path: Path) -> set[str]:
    """Those of a Parquet file; none of another one."""
    try:
        return set(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError):
        return set()
