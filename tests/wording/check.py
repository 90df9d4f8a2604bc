"""Finds words that the table in CONTRIBUTING.md replaces, in names, docstrings, comments, messages and docs."""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "CONTRIBUTING.md"

# The table itself, and what others have written.
_NOT_OURS = re.compile(r"CONTRIBUTING\.md|tests/wording/.*|requirements.*\.txt|.*\.(png|svg|min\.js|min\.css)")

# Where a word is the right one after all.
_ALLOWED = re.compile(
    r"\b("
    r"held out"  # what a model is not trained on
    r"|held back|held up|while held"  # files and locks that a test keeps from others
    r"|told at"  # a column of Postgres, which a migration would have to rename
    r")\b",
    re.IGNORECASE,
)


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    instead: str
    is_for_names: bool  # prose may use the word


def paths() -> list[Path]:
    """The files that are checked: all of ours that git knows of, or would."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in sorted(set(listed)) if not _NOT_OURS.fullmatch(name) and (ROOT / name).is_file()]


def findings(path: Path) -> Iterator[str]:
    """`file:line: word → what the field says` for each word of ours in a file; in line 0 where it is in its name."""
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    text = path.read_text()
    everything, names = _in_words(f"{name}\n{text}"), _in_words("\n".join(["", *_names(path, text)]))
    for rule in _rules():
        words = names if rule.is_for_names else everything
        for found in rule.pattern.finditer(words):
            line = words.count("\n", 0, found.start())
            yield f"{name}:{line}: {' '.join(found[0].split())} → {rule.instead}"


def _in_words(text: str) -> str:
    """Names taken apart at underscores and capitals, and without what is allowed; lines stay where they are."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text.replace("_", " "))
    return _ALLOWED.sub("-", apart)


def _names(path: Path, text: str) -> list[str]:
    """The names of a program, line by line. Those of tests are sentences, and not among them."""
    lines = [""] * (text.count("\n") + 2)
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and not token.string.startswith("test_"):
                lines[token.start[0] - 1] += f" {token.string}"
    elif path.suffix in (".js", ".html"):
        for found in re.finditer(r"\b(?:const|let|var|function)\s+([\w$]+)", text):
            lines[text.count("\n", 0, found.start())] += f" {found[1]}"
    return lines


@cache
def _rules() -> tuple[_Rule, ...]:
    """The table, row by row: our words, the field's, and whether names alone are meant."""
    rows = re.findall(r"^\| ([a-z, ]+) \| ([^|]+) \| (names|everywhere) \|$", TABLE.read_text(), re.MULTILINE)
    return tuple(
        _Rule(_pattern(words.split(", ")), instead.strip(), is_for_names=where == "names")
        for words, instead, where in rows
    )


def _pattern(words: list[str]) -> re.Pattern[str]:
    """Whole words; those of a phrase may stand on two lines of a comment."""
    return re.compile(r"\b(" + "|".join(words).replace(" ", r"[\s#/*]+") + r")\b", re.IGNORECASE)
