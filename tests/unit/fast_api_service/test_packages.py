"""The docstring of a package says which file holds what: all of its files, and no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SERVICE = Path(__file__).resolve().parents[3] / "fast_api_service"
PACKAGES = sorted(path.parent for path in SERVICE.glob("*/__init__.py"))
COMMON = {"endpoints.py", "schemas.py", "service.py", "repository.py"}  # every subject's, as the README says


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_docstring_names_the_files(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    assert text is not None
    named = set(re.findall(r"`(\w+\.py)`", text))
    there = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    assert named - there == set(), "no such file"
    assert there - named - COMMON == set(), "not named"
