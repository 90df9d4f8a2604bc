"""Secrets and logs: for their user alone, and kept short."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recsys.private_files import open_log, rotate, secret


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_made_once_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "postgres"
    with ThreadPoolExecutor(1) as pool:
        found = set(pool.map(lambda _: secret(path), range(4)))
    assert len(found) == 1
    assert len(bytes.fromhex(found.pop())) == 64
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert [file.name for file in path.parent.iterdir()] == ["postgres"]


def test_a_long_log_is_moved_while_somebody_writes_to_it(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    path.touch(0o644)
    with open_log(path) as log:
        for n in range(5):
            log.write(b"%d" % n * 100)
            log.flush()
            rotate(path, max_bytes=50)
        log.write(b"last")
    assert path.read_bytes() == b"last"
    assert (tmp_path / "service.log.1").read_bytes() == b"4" * 100
    assert (tmp_path / "service.log.2").read_bytes() == b"3" * 100
    assert sorted(file.name for file in tmp_path.iterdir()) == ["service.log", "service.log.1", "service.log.2"]
    assert {mode(file) for file in tmp_path.iterdir()} == {0o600}


def test_a_short_log_and_a_missing_one_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    rotate(path)
    path.write_bytes(b"x" * 50)
    rotate(path, max_bytes=50)
    assert [file.name for file in tmp_path.iterdir()] == ["service.log"]
