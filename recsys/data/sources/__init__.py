"""Raw formats, one file each, and the one list of them. The README beside this file describes them for users."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from recsys.data.sources.base import Source
from recsys.data.sources.movielens import MovieLens
from recsys.data.sources.online_retail import OnlineRetail
from recsys.data.sources.retailrocket import GeneratedShop, RetailRocket
from recsys.data.sources.table import Table
from recsys.errors import InputError

SOURCES: Final[dict[str, type[Source]]] = {
    source.name: source for source in (RetailRocket, MovieLens, OnlineRetail, Table, GeneratedShop)
}


def open_source(
    name: str,
    path: str | Path,
    options: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Source:
    """The source of a name over a file or folder; InputError when there is no such source, file or option.

    `weights`: of event types that have one beside those that the source or an option names.
    """
    path = Path(path)
    return source_of(name, path)(path, dict(options or {}), weights)


def source_of(name: str, path: Path) -> type[Source]:
    """The class of a source; InputError when there is no such source or file."""
    if name not in SOURCES:
        raise InputError(f"unknown source {name!r}; known are {', '.join(SOURCES)}")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    return SOURCES[name]
