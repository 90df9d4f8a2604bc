"""Converts an import command to `make demo`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def demo_line(command: list[str]) -> str:
    """The equivalent line of `make demo`; a dollar is doubled for make."""
    options = " ".join(_quoted(word) for word in command[5::2])
    words = [f"SOURCE={command[2]}", f"INPUT={shlex.quote(str(Path(command[3]).resolve()))}"]
    words += [f"OPTIONS={shlex.quote(options)}"] if options else []
    return f"make demo {' '.join(words)}".replace("$", "$$")


def _quoted(word: str) -> str:
    """As `shlex.quote`, with double quotes where they suffice, inside the single quotes around all options."""
    quoted = shlex.quote(word)
    return quoted if quoted == word or re.search(r"[\"'\\$`!]", word) else f'"{word}"'
