"""`python -m research.notebooks [NAME …] [--quick] [--out FOLDER]`: run the notebooks, and write them with their output
as FOLDER/NAME.ipynb, by default under the local folder."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

from recsys import settings
from research.notebooks.data import shop

HERE = Path(__file__).resolve().parent
NAMES = ("exploration", "comparison")
PATIENCE_S = 4 * 3600


def run(name: str, out: Path) -> Path:
    """The notebook with its output, also where a cell fails, whose error is raised."""
    notebook = jupytext.read(HERE / f"{name}.py")
    client = NotebookClient(
        notebook,
        timeout=PATIENCE_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(settings.ROOT)}},
        config=Config({"KernelManager": {"transport": "ipc"}}),  # no ports
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.ipynb"
    try:
        client.execute()
    finally:
        nbformat.write(notebook, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{' or '.join(NAMES)}; both when none is given")
    parser.add_argument("--quick", action="store_true", help="on a small generated shop, in a minute each")
    parser.add_argument("--out", type=Path, default=settings.load().local_dir / "notebooks")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"there is no notebook {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    os.environ["NOTEBOOK_QUICK"] = "1" if args.quick else ""
    os.environ.setdefault("RECSYS_LOG_LEVEL", "WARNING")  # progress is no part of a notebook
    shop(args.quick)
    for name in args.names or NAMES:
        started = time.monotonic()
        try:
            path = run(name, args.out)
        except CellExecutionError as error:
            sys.exit(f"{name}: a cell failed; all up to it is in {args.out / name}.ipynb\n{error}")
        print(f"{path}: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
