"""Processes that outlive the command that started them: how they start, stay up and end, and who holds a folder."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import psutil

from recsys.errors import RecsysError
from recsys.private_files import open_log, rotate

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0
_TRIAL_RESTARTS: Final = 3
_STEADY_S: Final = 60.0  # after so long without a failure, the next one is no longer one in a row
_PATIENCE_S: Final = 3.0


def start(command: Sequence[str], log_file: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, with its output in a log; `options` as of subprocess.Popen."""
    with open_log(log_file) as output:
        return subprocess.Popen(  # noqa: S603 - a command of ours
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )


def keep_up(look: Callable[[], None], log_files: Sequence[Path], trial_s: float = 0.0) -> None:
    """Call `look`, which starts what does not run, until SIGTERM or SIGINT; meanwhile keep the logs short.

    Where it raises RecsysError, it is called again after growing pauses, however often: clients wait for what comes
    back. Two errors end this, as whoever started it should hear of them: that of the first call, and, until something
    has run for `trial_s` once, that after _TRIAL_RESTARTS restarts.
    """
    signals: list[int] = []  # by which signals
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))
    started_at, failed_at, last_s = time.monotonic(), 0.0, _LOOK_S
    n_failures, is_on_trial = 0, trial_s > 0
    for n in itertools.count():
        pause_s = _LOOK_S
        try:
            if time.monotonic() >= started_at + trial_s:
                is_on_trial = False
            look()
        except RecsysError as error:
            if n == 0:
                raise
            if is_on_trial and n_failures == _TRIAL_RESTARTS:
                raise RecsysError(f"{error}; given up after {n_failures} restarts") from error
            n_failures += 1
            is_in_a_row = time.monotonic() - failed_at < _STEADY_S
            pause_s = last_s = min(2 * last_s, _LONGEST_PAUSE_S) if is_in_a_row else 2 * _LOOK_S
            failed_at = time.monotonic()
            log.error("%s; trying again in %.1f s", error, pause_s)
            started_at = time.monotonic() + pause_s
        for log_file in log_files:
            rotate(log_file)
        until = time.monotonic() + pause_s
        while time.monotonic() < until and not signals:
            time.sleep(0.1)
        if signals:
            return


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def ends(pid: int, timeout_s: float) -> bool:
    """Wait for a process to end, our child or not; False when it still runs after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while is_alive(pid):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, which says meanwhile which process does; False when another has it.

    The kernel releases the lock when its holder dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        deadline = time.monotonic() + _PATIENCE_S  # somebody who only looks has it for an instant
        while not (is_ours := _lock(file, fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if is_ours:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield is_ours


def holder(path: Path) -> int | None:
    """The process that holds the lock of a file; None where none does."""
    while True:
        try:
            with path.open("r+") as file:
                if _lock(file, fcntl.LOCK_SH):
                    return None
                with contextlib.suppress(ValueError):  # it has just been taken
                    return int(file.read())
        except FileNotFoundError:
            return None
        time.sleep(0.01)


def end_holder(path: Path, timeout_s: float) -> bool:
    """Ask the process that holds the lock of a file to end, and wait for it; whether there was one.

    RecsysError when it still runs after `timeout_s`.
    """
    pid = holder(path)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if not ends(pid, timeout_s):
        raise RecsysError(f"process {pid} does not end; it holds {path}")
    return True


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
