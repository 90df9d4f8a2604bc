"""Files that nobody but their user reads: secrets, and logs that are kept short."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO, Final

MAX_LOG_BYTES: Final = 20_000_000
_N_KEPT: Final = 2  # former logs


def secret(path: Path) -> str:
    """The secret in a file, 64 bytes as hex digits; made when it is not there, in a folder of mode 700."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(64))
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # who comes second takes the first one's
        part.unlink()
    return path.read_text()


def open_log(path: Path) -> BinaryIO:
    """A log to append to, of mode 600 also when it is there already with another."""
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
    path.chmod(0o600)
    return file


def rotate(path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
    """Move what a log holds to `<name>.1` (and that to `.2`) when it is longer than `max_bytes`.

    The log is emptied and not replaced, because a process writes to it (appending, as `open_log` has it); what is
    written between copying and emptying is lost.
    """
    try:
        if path.stat().st_size <= max_bytes:
            return
    except FileNotFoundError:
        return
    former = [path.with_name(f"{path.name}.{n}") for n in range(1, _N_KEPT + 1)]
    for newer, older in zip(former[-2::-1], former[:0:-1], strict=True):
        if newer.exists():
            newer.replace(older)
    with open_log(former[0]) as copy, path.open("rb") as file:
        copy.truncate(0)
        shutil.copyfileobj(file, copy)
    os.truncate(path, 0)
