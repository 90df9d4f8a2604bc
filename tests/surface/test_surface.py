"""The public surface is what its snapshots say, so that a changed name is a line of the diff that people read."""

from __future__ import annotations

import difflib

import pytest

from tests.surface import kinds


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_the_public_surface_is_that_of_the_snapshot(kind: str) -> None:
    stored, found = kinds.file(kind).read_text().splitlines(), kinds.text(kind).splitlines()
    if diff := list(difflib.unified_diff(stored, found, f"{kind}.txt", "as the code is", lineterm="", n=0)):
        how = "Where that is meant, tell of it in CHANGELOG.md, and accept it by `python -m tests.surface --write`"
        pytest.fail("\n".join(["The public surface has changed.", how, *diff]), pytrace=False)
