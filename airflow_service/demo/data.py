"""What the demo recommends from: a generated shop, or the files that SOURCE and INPUT name."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.errors import InputError

GENERATED = "generated"
_YES, _NO = ("1", "true", "yes", "y", "on"), ("", "0", "false", "no", "n", "off")
_RECSYS = (sys.executable, "-m", "recsys.cli")


@dataclass(frozen=True)
class Input:
    """SOURCE (generated, retailrocket, movielens, online-retail, …), INPUT (a path), and options of the source."""

    state: Path
    source: str
    path: Path
    options: tuple[str, ...]
    size: Mapping[str, int]  # of a generated shop: users, items, events
    replace: bool

    @classmethod
    def of(cls, variables: Mapping[str, str], state: Path) -> Input:
        """What the variables say: SOURCE, INPUT, OPTIONS ("name=value name='a value'"), REPLACE (1 or 0), and the size
        of a generated shop: USERS, ITEMS, EVENTS.

        InputError when they do not fit together.
        """
        source = variables.get("SOURCE", GENERATED)
        size = {"users": 4000, "items": 1000, "events": 80_000}
        for name in size:
            text = variables.get(name.upper(), str(size[name]))
            if not text.isdigit():
                raise InputError(f"{name.upper()}={text} is no number")
            size[name] = int(text)
        if source == GENERATED:
            path = state / "data" / "generated"
        elif "INPUT" not in variables:
            raise InputError(f"SOURCE={source} needs the path of its files: make demo SOURCE={source} INPUT=…")
        else:
            path = Path(variables["INPUT"]).expanduser().resolve()
            if not path.exists():
                raise InputError(f"INPUT={variables['INPUT']} does not exist")
        return cls(state, source, path, _options(variables.get("OPTIONS", "")), size, _replace(variables))

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
        """The command that loads the files into schema raw.

        A generated shop makes room for other data unasked, since it can be generated again; anything else is
        replaced only where REPLACE is set.
        """
        options = [word for option in self.options for word in ("-o", option)]
        before = json.loads(_read(self._loaded) or "null")
        makes_room = before is not None and before["source"] == GENERATED and before != self._identity
        replace = ["--replace"] if self.replace or makes_room else []
        return (*_RECSYS, "import", self.source, str(self.path), *options, *replace)

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


def _replace(variables: Mapping[str, str]) -> bool:
    text = variables.get("REPLACE", "")
    if text.strip().lower() not in (*_YES, *_NO):
        raise InputError(f"REPLACE={text} is neither yes nor no; REPLACE=1 replaces what the database holds")
    return text.strip().lower() in _YES


def remarks(log: str) -> list[str]:
    """What the log of an import says to whoever brought the files: missing ones, bad rows and where they are.

    The log ends with the import's result as JSON; ValueError where it does not.
    """
    result = json.loads(log[log.rindex("\n{\n") :])
    refused = f"{result['n_rejected']:,} bad rows were left out; they are in {', '.join(result['quarantine'])}"
    return [*result["notes"], *([refused] if result["n_rejected"] else [])]


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
