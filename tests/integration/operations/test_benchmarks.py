"""The commands of research/benchmarks/RESULTS.md run: here in a small world, so that what they print means nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research.benchmarks.load_curve import Client

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
SMALL = ("--users", "300", "--items", "200", "--seconds", "0.2")


@pytest.mark.parametrize(
    ("arguments", "figure"),
    [
        (("serving", *SMALL, "--rounds", "1"), "ratios: throughput"),
        (("predict", *SMALL, "--rounds", "1"), "ratios: throughput"),
        (("ingestion", *SMALL, "--rounds", "1"), "bare INSERT, connections 4"),
        (("catalogue_start", "--items", "3000", "--rounds", "1"), "blocks"),
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
    assert figure in output(name, *options)


def output(name: str, *options: str) -> str:
    command = [sys.executable, "-m", f"research.benchmarks.{name}", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_the_load_curve_has_every_scenario(tmp_path: Path) -> None:
    rows, picture = tmp_path / "rows.json", tmp_path / "curve.svg"
    size = ("--users", "300", "--items", "200", "--seconds", "2", "--rates", "20", "40", "--connections", "4")
    table = output("load_curve", *size, "--output", str(rows), "--plot", str(picture))
    assert "batches" not in table  # of events, that were not stored
    steps = json.loads(rows.read_text())
    found = [(step["workers"], step["scenario"], step["offered"]) for step in steps]
    scenarios = [*((1, name) for name in ("quiet", "events", "switch")), *((2, name) for name in ("quiet", "events"))]
    scenarios += [(2, "switch"), (2, "kill")]
    assert found == [(*scenario, rate) for scenario in scenarios for rate in (20, 40)]
    assert len(table.splitlines()) == 1 + len(steps)
    for step in steps:
        assert step["answered"] > 0, step
        assert 0 < step["p50"] <= step["p90"] <= step["p99"], step
        assert step["cpu"] > 0, step
        if step["scenario"] == "quiet":
            assert step["lost"] == 0, step
    assert "<svg" in picture.read_text()


def test_a_latency_counts_from_when_the_request_was_to_come() -> None:
    """Ten requests at once over one connection to a server that takes its time: each waits for those before it."""
    takes_s, n = 0.03, 10

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            await asyncio.sleep(takes_s)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()
        is_closed.set()

    is_closed = asyncio.Event()

    async def run() -> list[tuple[float, float, float, int]]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = Client(server.sockets[0].getsockname()[1], itertools.repeat(b"GET\n"))
        await client.open(1)
        await client.offer([time.perf_counter()] * n)
        client.close()
        await is_closed.wait()
        server.close()
        return client.answers

    answers = asyncio.run(run())
    assert [status for *_, status in answers] == [200] * n
    took = [answered - due for due, _, answered, _ in answers]
    assert all(seconds >= takes_s * (place + 1) for place, seconds in enumerate(took))
    assert all(sent - due >= takes_s * place for place, (due, sent, _, _) in enumerate(answers))
