"""What the demo recommends from: a generated shop, or the files that SOURCE and INPUT name."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from airflow_service.demo.database import one_row
from recsys.data.sources import SOURCES
from recsys.errors import InputError

GENERATED = "generated"
_YES, _NO = ("1", "true", "yes", "y", "on"), ("", "0", "false", "no", "n", "off")
_SIZE = {"users": 4000, "items": 1000, "events": 80_000}
_FILES = ("items", "categories")  # options that name further files
_NEWEST_IMPORT = sa.text("select source, path, options, status from raw.imports order by import_id desc limit 1")
_RECSYS = (sys.executable, "-m", "recsys.cli")


@dataclass(frozen=True)
class LoadedSource:
    """What the database holds: the last import."""

    source: str
    path: Path
    options: tuple[str, ...]
    is_complete: bool


def loaded_source(database_url: str) -> LoadedSource | None:
    """What was imported last, by whatever command; None where nothing was."""
    row = one_row(database_url, _NEWEST_IMPORT)
    if row is None:
        return None
    options = tuple(f"{name}={value}" for name, value in row.options.items())
    return LoadedSource(row.source, Path(row.path), options, row.status == "complete")


@dataclass(frozen=True)
class Input:
    """SOURCE (generated, retailrocket, movielens, online-retail, …), INPUT (a path), and options of the source."""

    state: Path
    source: str
    path: Path
    options: tuple[str, ...]
    size: Mapping[str, int]  # of a generated shop: users, items, events
    replace: bool
    is_requested: bool  # False: nothing says what to recommend from

    @classmethod
    def of(cls, variables: Mapping[str, str], state: Path) -> Input:
        """What the variables say: SOURCE, INPUT, OPTIONS ("name=value name='a value'"), REPLACE (1 or 0), and the size
        of a generated shop: USERS, ITEMS, EVENTS (where nothing is said: as one was generated before).

        InputError when they do not fit together.
        """
        source = variables.get("SOURCE", GENERATED)
        if source not in SOURCES:
            raise InputError(f"SOURCE={source} is unknown; known are {', '.join(SOURCES)}")
        if "INPUT" in variables and "SOURCE" not in variables:
            raise InputError(
                f"INPUT={variables['INPUT']} without SOURCE; "
                f"`recsys inspect {shlex.quote(variables['INPUT'])}` says which"
            )
        is_requested = any(name in variables for name in ("SOURCE", *(name.upper() for name in _SIZE)))
        generated = state / "data" / GENERATED
        note = "" if is_requested else _read(generated.with_suffix(".json"))
        size = dict(json.loads(note or "null") or _SIZE)
        for name in size:
            text = variables.get(name.upper(), str(size[name]))
            if not text.isdigit():
                raise InputError(f"{name.upper()}={text} is no number")
            size[name] = int(text)
        if source == GENERATED:
            path = generated
        elif "INPUT" not in variables:
            raise InputError(f"SOURCE={source} needs the path of its files: make demo SOURCE={source} INPUT=…")
        else:
            path = Path(variables["INPUT"]).expanduser().resolve()
            if not path.exists():
                raise InputError(f"INPUT={variables['INPUT']} does not exist")
        options = tuple(_found(option, path) for option in _options(variables.get("OPTIONS", "")))
        return cls(state, source, path, options, size, _replace(variables), is_requested)

    def beside(self, there: LoadedSource | None) -> Input | None:
        """What is to be loaded where the database holds `there`; None: the demo goes on with that.

        InputError where it would take the place of what is there, and REPLACE does not say so.
        """
        if there is None or self.replace:
            return self
        if not self.is_requested and there.source != GENERATED:
            if there.is_complete:
                return None
            return replace(self, source=there.source, path=there.path, options=there.options)
        loaded = json.loads(_read(self._loaded) or "null")
        is_other_shop = self.source == GENERATED and loaded not in (None, self._identity)
        if there.source != self.source or is_other_shop:
            what = "another generated shop" if there.source == self.source else f"{there.source} ({there.path})"
            raise InputError(
                f"the database holds {what}: REPLACE=1 empties it (data, lists, posted events) and loads {self.source} "
                "instead; `make demo` without SOURCE and size goes on with what is there"
            )
        return self

    def command_to_generate(self) -> tuple[str, ...] | None:
        """The command that writes the generated shop; None when it is there, or is not wanted."""
        if self.source != GENERATED or _read(self._note) == self._wanted:
            return None
        sizes = [word for name, n in self.size.items() for word in (f"--{name}", str(n))]
        return (*_RECSYS, "generate", str(self.path), *sizes)

    def generated(self) -> None:
        """Note that the generated shop is whole."""
        self._note.write_text(self._wanted)

    def command_to_load(self) -> tuple[str, ...]:
        """The command that loads the files into schema raw, in place of what is there where REPLACE is set."""
        options = [word for option in self.options for word in ("-o", option)]
        return (*_RECSYS, "import", self.source, str(self.path), *options, *(["--replace"] if self.replace else []))

    def loaded(self) -> None:
        """Note what the database now holds."""
        self._loaded.write_text(json.dumps(self._identity))

    @property
    def _note(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def _loaded(self) -> Path:
        return self.state / "data" / "loaded.json"

    @property
    def _wanted(self) -> str:
        return json.dumps(self.size)

    @property
    def _identity(self) -> dict[str, Any]:
        return {"source": self.source, "of": dict(self.size) if self.source == GENERATED else str(self.path)}


def _options(text: str) -> tuple[str, ...]:
    """Words as a shell splits them; InputError for one that is not NAME=VALUE."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"OPTIONS={text}: {error}; put values with blanks into quotes, as name='a value'") from None
    for word in words:
        name, found, _ = word.partition("=")
        if not found or not name:
            raise InputError(
                f"OPTIONS={text}: {word!r} is not of the form NAME=VALUE; put values with blanks into quotes"
            )
    return tuple(words)


def _found(option: str, path: Path) -> str:
    """An option, with the path of a further file as seen from anywhere: beside INPUT, or from where make is called."""
    name, _, value = option.partition("=")
    if name not in _FILES:
        return option
    beside, here = (path if path.is_dir() else path.parent) / value, Path(value).expanduser().resolve()
    file = next((file for file in (beside, here) if file.is_file()), None)
    if file is None:
        raise InputError(f"OPTIONS: {option}: there is neither {beside} nor {here}")
    return f"{name}={file}"


def for_make(message: str) -> str:
    """An import's error as whoever calls make can heed it."""
    return message.replace("--replace", "REPLACE=1")


def _replace(variables: Mapping[str, str]) -> bool:
    text = variables.get("REPLACE", "")
    if text.strip().lower() not in (*_YES, *_NO):
        raise InputError(f"REPLACE={text} is neither yes nor no; REPLACE=1 replaces what the database holds")
    return text.strip().lower() in _YES


def remarks(log: str) -> list[str]:
    """What the log of an import says to whoever brought the files: rows, missing files, bad rows and where they are.

    The log ends with the import's result as JSON; ValueError where it does not.
    """
    result = json.loads(log[log.rindex("\n{\n") :])
    refused = f"{result['n_rejected']:,} bad rows were left out; they are in {', '.join(result['quarantine'])}"
    loaded = ", ".join(f"{n:,} rows of {stream}" for stream, n in result["n_loaded"].items() if n)
    totals = result.get("totals") or {}
    there = f"; {totals['events']:,} events of {totals['users']:,} users are there now" if totals else ""
    rows = f"loaded now: {loaded or 'nothing'}{there}"
    return [rows, *result["notes"], *([refused] if result["n_rejected"] else [])]


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
