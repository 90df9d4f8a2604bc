"""Tests leave neither servers nor folders behind, however they end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import open_temporary_folder
from tests.integration import serving_shop as shop

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
WAITING = """
import os, time
from pathlib import Path

def test_waits(postgres_server):
    Path(os.environ["STARTED"]).touch()
    time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the tests of another process have their temporary files."""
    folder = open_temporary_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run_in(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    (folder / "test_waiting.py").write_text(WAITING)
    call = [sys.executable, "-m", "pytest", "--noconftest", "-p", "tests.conftest", "-c", "pyproject.toml"]
    environment = os.environ | {"TMPDIR": str(folder), "STARTED": str(folder / "started")}
    environment.pop("RECSYS_TEST_DATABASE_URL", None)
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(
            [*call, *arguments, str(folder / "test_waiting.py")], cwd=ROOT, env=environment, stdout=output
        )


def left(folder: Path) -> list[str]:
    """Folders of tests, and processes that know one."""
    found = [str(path) for path in folder.glob("recsys-test-*")]
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(f"{folder}/recsys-test-" in word for word in command):
            found.append(" ".join(command))
    return found


def test_neither_a_signal_nor_a_kill_leaves_a_server_or_a_folder_for_long(folder: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        (folder / "started").unlink(missing_ok=True)
        waiting = run_in(folder)
        shop.wait_until((folder / "started").exists, 120)
        assert left(folder)
        waiting.send_signal(number)
        waiting.wait(60)
        output = (folder / "output").read_text()
        if number == signal.SIGTERM:
            assert "KeyboardInterrupt" in output
            assert "Error" not in output, "fixtures end before their servers do"
        if number == signal.SIGKILL:
            assert left(folder)
            run_in(folder, "--collect-only", "-q").wait(60)
        shop.wait_until(lambda: not left(folder), 30)
