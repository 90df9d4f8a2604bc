"""What the command line says when something is wrong."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest
import sqlalchemy as sa

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


def test_a_server_that_is_away_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["keys", "list"], ["publications", "list"], ["migrate"], ["train-als"]):
        monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/recsys")
        monkeypatch.setenv("RECSYS_DATABASE_PATIENCE_S", "0")
        monkeypatch.setattr(sys, "argv", ["recsys", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: Postgres does not do it: "), arguments
        assert "refused" in last


def test_a_mistake_of_a_statement_is_not_taken_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise sa.exc.ProgrammingError("select", {}, psycopg2.errors.UndefinedColumn("no such column"))

    monkeypatch.setattr(generate_shop, "run", fails)
    monkeypatch.setattr(sys, "argv", ["recsys", "generate", str(tmp_path)])
    with pytest.raises(sa.exc.ProgrammingError):
        cli.main()
