"""The notebooks of research/ become .ipynb files and back, and run in their quick form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = ROOT / "research" / "notebooks"
LEAST_FIGURES = {"exploration": 8, "comparison": 8}


@pytest.mark.parametrize("name", LEAST_FIGURES)
def test_a_notebook_becomes_a_file_of_jupyter_and_back(name: str, tmp_path: Path) -> None:
    source = NOTEBOOKS / f"{name}.py"
    notebook = jupytext.read(source)
    nbformat.validate(notebook)
    assert {cell.cell_type for cell in notebook.cells} == {"code", "markdown"}
    assert any("parameters" in cell.metadata.get("tags", ()) for cell in notebook.cells)
    jupytext.write(notebook, tmp_path / f"{name}.ipynb")
    again = jupytext.read(tmp_path / f"{name}.ipynb")
    code = [[cell.source for cell in one.cells if cell.cell_type == "code"] for one in (notebook, again)]
    assert code[0] == code[1]


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute for each, where the machine is free
def test_the_notebooks_run_and_have_figures(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("RECSYS_DATA_DIR", "DATABASE_URL")}
    command = [sys.executable, "-m", "research.notebooks", "--quick", "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**env, "RECSYS_LOCAL_DIR": str(tmp_path / "local")},
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]
    for name, least in LEAST_FIGURES.items():
        notebook = nbformat.read(tmp_path / "out" / f"{name}.ipynb", 4)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= least
        assert not [output["text"] for output in outputs if output.get("name") == "stderr"]
