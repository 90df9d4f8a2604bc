"""Words that stand for nothing in other people's files, and the blanks around what they wrote."""

from __future__ import annotations

from typing import Final

BLANKS: Final = "\\s\u00a0\u202f\u2009\u3000\ufeff"  # in a regular expression's class
NOTHING: Final = frozenset(
    ("null", "none", "nan", "na", "n/a", "#n/a", "nil", "nat", "<na>", "(null)", "undefined", r"\n", "-", "--")
)  # in lower case
