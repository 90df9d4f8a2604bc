"""One `make demo` at a time in a folder, and a way to end it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from recsys.errors import RecsysError


@contextlib.contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the lock of a demo's folder; RecsysError when another `make demo` holds it.

    The kernel releases the lock when its holder dies, however it dies.
    """
    path = _path(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecsysError(
                f"another make demo is at work here (process {path.read_text()}); wait for it, or make stop"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def end_starter(state: Path) -> bool:
    """End a `make demo` that is at work in a folder and wait for it; whether there was one."""
    path = _path(state)
    if not path.exists():
        return False
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ValueError, psutil.Error):
                starter = psutil.Process(int(path.read_text()))
                starter.terminate()
                starter.wait(30)
            return True
    return False


def _path(state: Path) -> Path:
    return state / "run" / "demo.lock"
