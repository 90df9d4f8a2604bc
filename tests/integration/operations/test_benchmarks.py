"""The commands of research/benchmarks/RESULTS.md run: here in a small world, so that what they print means nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SMALL = ("--users", "300", "--items", "200", "--seconds", "0.2")


@pytest.mark.parametrize(
    ("arguments", "figure"),
    [
        (("serving", *SMALL, "--rounds", "1"), "ratios: throughput"),
        (("predict", *SMALL, "--rounds", "1"), "ratios: throughput"),
        (("ingestion", *SMALL, "--rounds", "1"), "bare INSERT on 4 connections"),
        (
            ("serving_load", "--users", "300", "--items", "200", "--seconds", "1", "--switches", "1"),
            "0 errors, 0 mixed",
        ),
        (("publication", "--lists", "500", "--runs", "1"), "published_over_plain"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_it_runs_and_prints_its_figures(arguments: tuple[str, ...], figure: str) -> None:
    name, *options = arguments
    command = [sys.executable, "-m", f"research.benchmarks.{name}", *options]
    root = Path(__file__).resolve().parents[3]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert figure in ran.stdout
