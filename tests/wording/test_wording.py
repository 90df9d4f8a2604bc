"""The check of words finds names however they are written, prose over line ends, and leaves ordinary English alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wording.check import findings


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", "def mend_lists() -> None: ...", ["1: mend"]),
        ("a.py", "class DeepFmLesson: ...", ["1: Lesson"]),
        ("a.py", "# Rows are put\n# aside.", ["1: put # aside"]),
        ("a.py", "x = 1\nn_told = 2", ["2: told"]),
        ("a.py", "# What was told is kept.\nheld_out = 1\n\ndef test_it_is_told() -> None: ...", []),
        ("a.js", "const askedFor = 1; // asked for", ["1: asked"]),
        ("a.md", "A user and his list; the amendment; theirs.", ["1: his"]),
        ("shelf.md", "Nothing.", ["0: shelf"]),
    ],
)
def test_our_own_words_are_found(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert [one.partition(" →")[0] for one in findings(path)] == [f"{path}:{place}" for place in expected]
