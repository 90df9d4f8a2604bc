"""Old files go, also while others rotate them."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

import pytest

from recsys.steps.housekeeping import _files

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def old_log(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    os.utime(path, (0, 0))
    return path


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_a_log_that_is_rotated_meanwhile_keeps_no_other_from_being_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    rotated, others = old_log(tmp_path / "b.log"), [old_log(tmp_path / name) for name in ("a.log", "dag/c.log.1")]
    unpatched, seen = Path.stat, 0

    def stat(path: Path, **more: Any) -> os.stat_result:
        nonlocal seen
        if path == rotated:
            if seen == looks:
                rotated.unlink(missing_ok=True)
            seen += 1
        return unpatched(path, **more)

    monkeypatch.setattr(Path, "stat", stat)
    assert _files([tmp_path], "*.log*", NOW, 30, dry_run=False).n in (2, 3)
    monkeypatch.undo()
    assert not any(path.exists() for path in others)
    assert not (tmp_path / "dag").exists()


def test_a_folder_that_holds_younger_files_stays(tmp_path: Path) -> None:
    old, young = old_log(tmp_path / "dag" / "1.log"), tmp_path / "dag" / "2.log"
    young.write_text("x")
    assert _files([tmp_path], "*.log*", NOW, 30, dry_run=False).n == 1
    assert (old.exists(), young.exists()) == (False, True)
