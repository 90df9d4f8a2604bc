"""What the command line says when something is wrong."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from recsys import cli
from recsys.steps import generate_shop


def test_a_fault_of_the_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["recsys", "generate", str(tmp_path / "file" / "x")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: Not a directory: {tmp_path / 'file' / 'x'}"


def test_another_fault_of_the_system_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")

    monkeypatch.setattr(generate_shop, "run", fails)
    monkeypatch.setattr(sys, "argv", ["recsys", "generate", str(tmp_path)])
    with pytest.raises(ConnectionRefusedError):
        cli.main()
