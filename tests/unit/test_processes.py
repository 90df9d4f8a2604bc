"""Locks that name their holder, and a command that is kept up, with real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from recsys import processes

HOLD = """
import sys, time
from pathlib import Path
from recsys.processes import hold
with hold(Path(sys.argv[1])) as is_ours:
    print("held" if is_ours else "refused", flush=True)
    time.sleep(600)
"""

# Fails at its second look, or at every second one, and says each.
KEEP = """
import itertools, sys
from pathlib import Path
from recsys.errors import RecsysError
from recsys import processes
n = itertools.count()
if len(sys.argv) > 3:
    processes._LOOK_S = float(sys.argv[3])
def look():
    looks = next(n)
    print(looks, flush=True)
    if looks == 1 or looks % 2 == 1 and len(sys.argv) > 3:
        raise RecsysError("the disk is full")
processes.keep_up(look, [Path(sys.argv[1])], float(sys.argv[2]))
"""


def call(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_names_its_holder_which_can_be_ended(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    assert processes.holder(path) is None
    assert not processes.end_holder(path, timeout_s=1)
    with call(HOLD, str(path)) as first:
        assert line(first) == "held"
        assert processes.holder(path) == first.pid
        with processes.hold(path) as is_ours:
            assert not is_ours
        assert processes.end_holder(path, timeout_s=10)
        assert first.wait(10) == -signal.SIGTERM
    assert processes.holder(path) is None
    with processes.hold(path) as is_ours:
        assert is_ours


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with call(HOLD, str(path)) as killed:
        assert line(killed) == "held"
        killed.kill()
    with processes.hold(path) as is_ours:
        assert is_ours


def test_what_fails_later_is_tried_again_until_it_is_asked_to_end(tmp_path: Path) -> None:
    with call(KEEP, str(tmp_path / "log"), "0") as kept:
        assert [line(kept) for _ in range(3)] == ["0", "1", "2"]
        kept.terminate()
        requested_at = time.monotonic()
        assert kept.wait(10) == 0
        assert time.monotonic() - requested_at < 5
        assert kept.stderr is not None
        assert "the disk is full; trying again in 1.0 s" in kept.stderr.read()


def test_what_is_killed_within_its_trial_is_tried_again(tmp_path: Path) -> None:
    with call(KEEP, str(tmp_path / "log"), "60") as kept:
        assert [line(kept) for _ in range(4)] == ["0", "1", "2", "3"]
        kept.terminate()
        assert kept.wait(10) == 0


def test_what_never_outlasts_its_trial_is_given_up_after_growing_pauses(tmp_path: Path) -> None:
    with call(KEEP, str(tmp_path / "log"), "60", "0.1") as kept:
        assert kept.wait(20) == 1
        assert kept.stderr is not None
        stderr = kept.stderr.read()
        assert [f"trying again in {pause} s" in stderr for pause in ("0.2", "0.4", "0.8", "1.6")] == [True] * 3 + [
            False
        ]
        assert "RecsysError: the disk is full; given up after 3 restarts" in stderr


def test_what_has_outlasted_its_trial_once_is_never_given_up(tmp_path: Path) -> None:
    with call(KEEP, str(tmp_path / "log"), "0.05", "0.1") as kept:  # a look comes 0.1 s after the one before
        assert [line(kept) for _ in range(14)] == [str(n) for n in range(14)]
        kept.terminate()
        assert kept.wait(10) == 0
